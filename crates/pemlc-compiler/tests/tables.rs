//! What `pemlc inspect --weights`, `--shapes` and `--cost` show of the tiny model's exported graph.

#[allow(unreachable_pub, reason = "shared by several test files")]
mod support;

use pemlc_compiler::inspect::cost::{Sizes, cost};
use pemlc_compiler::inspect::shapes::shapes;
use pemlc_compiler::inspect::weights::weights;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::OnceLock;
use support::fixture::{Fixture, PrefixKind, Spec};

/// The graph with private LoRA and a prefix, exported once.
fn graph() -> PathBuf {
    static FIXTURE: OnceLock<(Fixture, PathBuf)> = OnceLock::new();
    let export = || {
        let fixture = Fixture::new(Spec { private: true, prefix: Some(PrefixKind::Table), ..Spec::default() });
        let out = fixture.export();
        (fixture, out)
    };
    FIXTURE.get_or_init(export).1.join("model.onnx")
}

fn sizes(batch: u64, sequence: u64, past: u64) -> Sizes {
    Sizes { batch, sequence, past, symbols: BTreeMap::new() }
}

/// Without the digits that libm had a part in.
fn portable(text: &str) -> String {
    text.lines().filter(|line| !line.contains("inverse_frequencies")).map(|line| format!("{line}\n")).collect()
}

#[test]
fn weights_as_a_table() {
    insta::assert_snapshot!(portable(&weights(&graph()).unwrap().to_text()));
}

#[test]
fn shapes_as_a_table() {
    insta::assert_snapshot!(shapes(&graph()).unwrap().to_text());
}

#[test]
fn cost_of_a_prefill_and_of_a_decoding_step() {
    insta::assert_snapshot!(cost(&graph(), &sizes(8, 64, 0)).unwrap().to_text());
    insta::assert_snapshot!(cost(&graph(), &sizes(1, 1, 100)).unwrap().to_text());
}

#[test]
fn json_has_the_same_in_full() {
    let table = serde_json::to_value(weights(&graph()).unwrap()).unwrap();
    let row = table["weights"].as_array().unwrap().iter().find(|row| row["name"] == "embedding.weight").unwrap();
    insta::assert_json_snapshot!(row);
    let cost = serde_json::to_value(cost(&graph(), &sizes(2, 3, 4)).unwrap()).unwrap();
    insta::assert_json_snapshot!([&cost["total"], &cost["classes"]["matrix product"], &cost["layers"]["layers.1"], &cost["unknown"]]);
    let shapes = serde_json::to_value(shapes(&graph()).unwrap()).unwrap();
    let row = shapes["values"].as_array().unwrap().iter().find(|row| row["name"] == "present.0.key").unwrap();
    insta::assert_json_snapshot!(row);
}

/// The multiply-adds of the projections by hand: rows times the numbers of each weight, and the language-model head.
#[test]
fn products_are_what_the_shapes_say() {
    let report = cost(&graph(), &sizes(8, 64, 0)).unwrap();
    let (rows, hidden, inner, kv, vocabulary) = (8 * 64u64, 16u64, 24u64, 8u64, 32u64);
    let rank = 3;
    let dense = 2 * (2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * inner) + hidden * vocabulary;
    let low_rank = 2 * rank * (2 * (hidden + hidden) + 2 * (hidden + kv) + 3 * (hidden + inner));
    let (heads, head_dim, prefix) = (4u64, 4u64, 4u64);
    let attention = 2 * (2 * 8 * heads * 64 * (64 + prefix) * head_dim);
    assert_eq!(report.total.multiply_adds, rows * (dense + low_rank) + attention);
    assert!(report.unknown.is_empty(), "{:?}", report.unknown);
}
