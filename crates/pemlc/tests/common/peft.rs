//! Adapters that PEFT made, with its answers: `tests/peft_adapters.py` writes them.

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// Any text has tokens of this, all of them in the small vocabulary.
const TOKENIZER: &str = r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
"pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
"model": {"type": "WordLevel", "vocab": {"<unk>": 0, "the": 1, "a": 2, "to": 3, "and": 4, "of": 5, "in": 6}, "unk_token": "<unk>"}}"#;

/// One task of `expected.json`.
pub(crate) struct Case {
    pub(crate) task: String,
    pub(crate) folders: Vec<String>,
    pub(crate) tokens: Vec<i64>,
    pub(crate) first: Vec<f64>,
    pub(crate) last: Vec<f64>,
}

pub(crate) fn fixtures(family: &str) -> PathBuf {
    super::repository().join("fixtures/peft").join(family)
}

/// The base model of `family`, with a tokenizer, in `folder`.
pub(crate) fn base(family: &str, folder: &Path) -> PathBuf {
    let model = folder.join("base");
    fs::create_dir_all(&model).expect("the folder is writable");
    let golden = super::repository().join("fixtures/golden").join(family);
    for name in ["config.json", "model.safetensors"] {
        fs::copy(golden.join(name), model.join(name)).expect("the fixture is there");
    }
    fs::write(model.join("tokenizer.json"), TOKENIZER).expect("the folder is writable");
    model
}

pub(crate) fn cases(family: &str) -> Vec<Case> {
    let text = fs::read_to_string(fixtures(family).join("expected.json")).expect("the fixture is there");
    let expected: Value = serde_json::from_str(&text).expect("JSON");
    let numbers = |value: &Value| value.as_array().into_iter().flatten().filter_map(Value::as_f64).collect::<Vec<_>>();
    let case = |case: &Value| {
        let index = case["index"].as_u64().map_or_else(String::new, |index| format!("#{index}"));
        let folders = case["folders"].as_array().into_iter().flatten().filter_map(Value::as_str);
        Case {
            task: case["task"].as_str().expect("a name").to_owned(),
            folders: folders.map(|name| format!("{}{index}", fixtures(family).join(name).display())).collect(),
            tokens: case["tokens"].as_array().into_iter().flatten().filter_map(Value::as_i64).collect(),
            first: numbers(&case["first_and_last_logits"][0]),
            last: numbers(&case["first_and_last_logits"][1]),
        }
    };
    expected["cases"].as_array().into_iter().flatten().map(case).collect()
}
