//! The tiny model's exported graphs, as `pemlc inspect` shows them. Weights are made of integers, so that their hashes hold on every
//! machine; tables and folded prompts that libm had a part in are elided.

#[allow(unreachable_pub, reason = "shared by several test files")]
mod support;

use pemlc_compiler::snapshot::{self, Options};
use support::fixture::{Fixture, PrefixKind, Spec};

fn graph_text(spec: Spec) -> String {
    let mut elide = vec!["inverse_frequencies".to_owned()];
    if spec.prefix == Some(PrefixKind::Encoder) {
        elide.push(".prefix_".to_owned());
    }
    let fixture = Fixture::new(spec);
    let graph = fixture.export().join("model.onnx");
    snapshot::text(&graph, &Options { weights: true, elide }).unwrap()
}

#[test]
fn shared_lora_and_a_prefix_per_task() {
    let spec = Spec { shared: true, prefix: Some(PrefixKind::Encoder), ..Spec::default() };
    insta::assert_snapshot!(graph_text(spec));
}

#[test]
fn private_lora() {
    insta::assert_snapshot!(graph_text(Spec { private: true, ..Spec::default() }));
}

#[test]
fn no_prefix_no_private_part() {
    insta::assert_snapshot!(graph_text(Spec { shared: true, tied: false, ..Spec::default() }));
}

#[test]
fn qwen2_with_everything_and_one_prefix_for_all_tasks() {
    let spec = Spec {
        family: pemlc_artifact::Family::Qwen2,
        shared: true,
        private: true,
        prefix: Some(PrefixKind::Table),
        prefix_per_task: false,
        ..Spec::default()
    };
    insta::assert_snapshot!(graph_text(spec));
}

#[test]
fn an_export_is_deterministic() {
    let spec = Spec { shared: true, private: true, prefix: Some(PrefixKind::Encoder), ..Spec::default() };
    let hashes = || {
        let fixture = Fixture::new(spec);
        let out = fixture.export();
        ["model.onnx", "model.onnx.data", "README.md"].map(|name| std::fs::read(out.join(name)).unwrap())
    };
    assert!(hashes() == hashes());
}
