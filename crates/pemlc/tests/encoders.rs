//! Prompt encoders of every form on the tiny model: what the exported graph answers is what training ran.

mod common;

use common::{describe, pemlc, tiny};

#[test]
fn every_form_of_encoder_answers_as_the_trainer() {
    let runtimes = if tiny::has_onnx_runtime() { "ort-cpu,tract" } else { "tract" };
    for settings in [
        &["prefix.generators=per_layer", "prefix.nodes=1"][..],
        &["prefix.generators=groups", "prefix.init=cold", "prefix.log_gate_init=0.0"],
        &["prefix.insertion=hidden"],
        &["prefix.insertion=hidden", "prefix.sharing=shared", "lora.sharing=per_task"],
        &["prefix.length=4", "prefix.lengths=[2, 3, 4]", "prefix.relaxation=straight_through"],
        // Rows on one layer alone.
        &["prefix.search_layers=true", "prefix.cost_weight=1000", "prefix.architecture_learning_rate=0.9"],
        &["prefix.update=bilevel", "prefix.after_search=both"],
    ] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (run, artifact) = (folder.path().join("run"), folder.path().join("artifact"));
        let mut train = pemlc();
        train.arg("train").arg(tiny::run_file(folder.path(), 8)).args(["--device", "cpu", "--output"]).arg(&run);
        for setting in settings.iter().chain(&["training.prefix_learning_rate=0.02", "training.warmup_steps=1"]) {
            train.args(["--set", setting]);
        }
        let train = train.output().expect("the binary starts");
        assert!(train.status.success(), "{settings:?}: {}", describe(&train, folder.path()));
        let export = pemlc().arg("export").args([&run, &artifact]).args(["--runtime", runtimes]).output();
        let export = export.expect("the binary starts");
        assert!(export.status.success(), "{settings:?}: {}", describe(&export, folder.path()));
        let manifest = std::fs::read_to_string(artifact.join("pemlc.json")).expect("the manifest exists");
        let manifest: serde_json::Value = serde_json::from_str(&manifest).expect("the manifest is JSON");
        assert_eq!(manifest["validated"], true, "{settings:?}");
        let graph = pemlc().arg("inspect").arg(artifact.join("model.onnx")).output().expect("the binary starts");
        let graph = String::from_utf8_lossy(&graph.stdout);
        let layers = graph.lines().filter(|line| line.contains("prefix_key.of_row")).count();
        assert!(layers > 0, "{settings:?}: the graph has no prefix\n{graph}");
    }
}
