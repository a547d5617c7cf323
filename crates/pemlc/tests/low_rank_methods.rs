//! Multi-task low-rank methods on the tiny model: what the exported graph answers is what training ran.

mod common;

use common::{describe, pemlc, tiny};

#[test]
fn every_exported_method_answers_as_the_trainer() {
    let runtimes = if tiny::has_onnx_runtime() { "ort-cpu,tract" } else { "tract" };
    for settings in [
        &["method=rslora", "lora.sharing=per_task"][..],
        &["method=dora", "lora.sharing=shared"],
        &["method=dora", "lora.sharing=shared", "dora.full_gradient=true", "training.base_dtype=bf16"],
        &["method=adalora", "adalora.initial_rank=4", "adalora.target_rank=2", "adalora.interval=1"],
        &["method=mtl-lora"],
        &["method=multilora"],
        &["method=moelora", "moe_lora.experts=2"],
        &["method=poly", "poly.splits=2"],
        &["method=c-poly", "lora.rank=2"],
    ] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (run, artifact) = (folder.path().join("run"), folder.path().join("artifact"));
        let mut train = pemlc();
        train.arg("train").arg(tiny::run_file(folder.path(), 6)).args(["--device", "cpu", "--output"]).arg(&run);
        // Far from the start, where most of these deltas are zero.
        for setting in settings.iter().chain(&["training.learning_rate=0.02", "training.warmup_steps=1"]) {
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
    }
}

#[test]
fn a_method_whose_weights_depend_on_the_token_is_trained_but_not_exported() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (run, artifact) = (folder.path().join("run"), folder.path().join("artifact"));
    let mut train = pemlc();
    train.arg("train").arg(tiny::run_file(folder.path(), 6)).args(["--device", "cpu", "--output"]).arg(&run);
    let train =
        train.args(["--set", "method=mixlora", "--set", "mixlora.experts=3"]).output().expect("the binary starts");
    assert!(train.status.success(), "{}", describe(&train, folder.path()));
    assert!(run.join("adapters/experts.safetensors").exists());
    let export = pemlc().arg("export").args([&run, &artifact]).output().expect("the binary starts");
    insta::assert_snapshot!(describe(&export, folder.path()));
    assert!(!artifact.exists());
}
