//! Hostile run files: a configuration or an error that names the file, no panic, and no more memory than a small bound.

use super::RunConfig;
use pemlc_hostile::{bounded, changes, damage, number};
use proptest::prelude::*;
use serde_json::Value;
use std::path::Path;

const BOUND: i64 = 16 << 20;

const TEXTS: [&str; 3] = [
    include_str!("../../../../fixtures/demo/tiny.toml"),
    include_str!("../../../../docs/examples/glue.toml"),
    include_str!("../../../../docs/examples/search-peml.toml"),
];

fn read(text: &str) {
    bounded(BOUND, text.len(), || match RunConfig::from_toml(text, Path::new("run.toml")) {
        Err(error) => assert!(error.to_string().starts_with("run.toml: "), "{error}"),
        Ok(config) => {
            let _ = (config.search_steps(), config.total_steps(), config.retraining_from(), config.log_gate_init());
        }
    });
}

#[test]
fn nesting_is_bounded() {
    for (open, close) in [("[", "]"), ("{a = ", "}")] {
        read(&format!("model = {}1{}", open.repeat(100_000), close.repeat(100_000)));
    }
    read(&format!("[{}]", vec!["a"; 20_000].join(".")));
}

proptest! {
    #[test]
    fn damaged(which in 0..TEXTS.len(), damage in damage()) {
        read(&String::from_utf8_lossy(&damage.apply(TEXTS[which].as_bytes())));
    }

    #[test]
    fn changed(which in 0..TEXTS.len(), changes in changes()) {
        let mut document: Value = toml::from_str(TEXTS[which]).unwrap();
        changes.iter().for_each(|change| change.apply(&mut document));
        // TOML has no null, and no numbers beyond 63 bits: such documents cannot be written.
        if let Ok(text) = toml::to_string(&document) {
            read(&text);
        }
    }

    /// Every setting that is a number, with a senseless one.
    #[test]
    fn changed_numbers(settings in proptest::collection::vec((0..NUMBERS.len(), number()), 1..4)) {
        let mut document: Value = toml::from_str(TEXTS[0]).unwrap();
        for (at, value) in settings {
            let (table, key) = NUMBERS[at];
            document[table][key] = value;
        }
        if let Ok(text) = toml::to_string(&document) {
            read(&text);
        }
    }
}

const NUMBERS: [(&str, &str); 16] = [
    ("training", "steps"),
    ("training", "batch_size"),
    ("training", "gradient_accumulation"),
    ("training", "max_length"),
    ("training", "learning_rate"),
    ("training", "sampling_exponent"),
    ("lora", "rank"),
    ("lora", "alpha"),
    ("lora", "dropout"),
    ("prefix", "length"),
    ("prefix", "width"),
    ("prefix", "nodes"),
    ("prefix", "search_steps"),
    ("prefix", "architecture_share"),
    ("evaluation", "limit"),
    ("evaluation", "batch_size"),
];
