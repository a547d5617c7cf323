//! Soft prompts and reparametrised prefixes on the tiny model: what the exported graph answers is what training ran, prompt and all.

mod common;

use common::{describe, pemlc, tiny};
use pemlc_artifact::prompt::Prefix;
use std::path::Path;

/// Trains with `settings`, exports with checks, and returns the rows that were exported.
fn exported(settings: &[&str], runtimes: &str) -> Prefix {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (file, run, artifact) =
        (tiny::run_file(folder.path(), 4), folder.path().join("run"), folder.path().join("artifact"));
    let mut train = pemlc();
    train.arg("train").arg(file).args(["--device", "cpu", "--output"]).arg(&run);
    for setting in settings {
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
    read(&run)
}

fn read(run: &Path) -> Prefix {
    Prefix::read(&run.join("prompt/prefix.safetensors")).expect("the prefix exists")
}

#[test]
fn every_exported_prompt_answers_as_the_trainer() {
    let runtimes = if tiny::has_onnx_runtime() { "ort-cpu,tract" } else { "tract" };
    for (settings, sets, length) in [
        (&["method=prompt", "prompt.sharing=shared"][..], 1, 16),
        (&["method=p-tuning", "prompt.encoder=lstm", "prompt.hidden=8", "prompt.length=5"], 2, 5),
        (&["method=mpt", "prompt.rank=2"], 2, 16),
        (&["method=prefix-mlp", "prefix.hidden=16"], 2, 4),
        (&["method=lora+prefix-mlp", "prefix.hidden=16", "prefix.init=cold"], 2, 4),
        (
            &[
                "method=peml",
                "prefix.nodes=3",
                "prefix.operations=[{ op = \"depthwise_convolution\", kernel = 3 }, { op = \"glu\" }]",
            ],
            2,
            4,
        ),
        (
            &[
                "method=peml",
                "prefix.nodes=3",
                "prefix.operations=[{ op = \"mlp_gelu\", width = 8 }, { op = \"none\" }]",
            ],
            2,
            4,
        ),
    ] {
        let prefix = exported(settings, runtimes);
        assert_eq!((prefix.tasks.len(), prefix.length), (sets, length), "{settings:?}");
    }
}

/// A prompt that all tasks share goes through each task's own deltas, and so comes to rows of each task's own.
#[test]
fn a_shared_prompt_is_folded_through_each_tasks_deltas() {
    let settings = ["method=lora+prompt", "prompt.sharing=shared", "training.learning_rate=0.02"];
    let prefix = exported(&settings, "tract");
    assert!(prefix.is_ungated());
    assert_eq!(prefix.tasks.len(), 2);
    let distance = |layer: usize| {
        let pairs = prefix.tasks[0][layer].value.iter().zip(&prefix.tasks[1][layer].value);
        pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    assert!(distance(0) > 1e-4 && distance(1) > 1e-4, "{} {}", distance(0), distance(1));
}
