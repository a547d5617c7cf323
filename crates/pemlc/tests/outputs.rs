//! What stands beside `model.onnx`, in every number type and for batches of one task: exported and checked as a user would.

mod common;

use common::{pemlc, tiny};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// A run whose tasks both have fixed answers, which a scorer needs.
fn run() -> &'static Path {
    static RUN: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, run) = RUN.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (file, run) = (tiny::run_file(folder.path(), 8), folder.path().join("run"));
        let text = std::fs::read_to_string(&file).expect("the run file was written");
        let open = text.find("[[tasks]]\nname = \"capital\"").expect("the second task");
        let closed = "[[tasks]]\nname = \"warmth\"\ntrain = \"colour.jsonl\"\nvalidation = \"colour.jsonl\"\ntemplate = \"{thing}:\"\n\
                      verbalizers = [\" warm\", \" cold\"]\n";
        std::fs::write(&file, format!("{}{closed}", &text[..open])).expect("the folder is writable");
        let train = pemlc().arg("train").arg(file).args(["--device", "cpu", "--output"]).arg(&run).output();
        let train = train.expect("the binary starts");
        assert!(train.status.success(), "{}", common::describe(&train, folder.path()));
        (folder, run)
    });
    run
}

/// Exports with `options`, checks on `runtimes`, and returns the checks of the first as (check, detail).
fn checked(options: &[&str], runtimes: &str) -> Vec<(String, String)> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let artifact = folder.path().join("artifact");
    let export = pemlc().arg("export").arg(run()).arg(&artifact).args(options).args(["--runtime", runtimes]).output();
    let export = export.expect("the binary starts");
    assert!(export.status.success(), "{options:?}: {}", common::describe(&export, folder.path()));
    let text = std::fs::read_to_string(artifact.join("pemlc.json")).expect("the manifest exists");
    let manifest: serde_json::Value = serde_json::from_str(&text).expect("the manifest is JSON");
    assert_eq!(manifest["validated"], true, "{options:?}");
    let checks = manifest["validation"]["runtimes"][0]["checks"].as_array().expect("checks");
    let text = |check: &serde_json::Value, key: &str| check[key].as_str().unwrap_or_default().to_owned();
    checks.iter().map(|check| (text(check, "check"), text(check, "detail"))).collect()
}

/// How many checks each graph beside the model had.
fn counts(checks: &[(String, String)]) -> [usize; 3] {
    ["scorer.onnx", "task.", "adapters.onnx"]
        .map(|name| checks.iter().filter(|(check, _)| check.starts_with(name)).count())
}

#[test]
fn graphs_beside_the_model_hold_in_every_number_type() {
    let onnx_runtime = tiny::has_onnx_runtime();
    // The scorer has a check for each task, the adapters one without any and one for each. Nothing but ONNX Runtime reads these.
    let (also, adapters) = if onnx_runtime { ("scorer,per-task,ort-adapters", 3) } else { ("scorer,per-task", 0) };
    for dtype in ["f16", "bf16", "int8", "int4"] {
        let runtimes = match (onnx_runtime, dtype) {
            // Types that tract does not know.
            (true, "bf16" | "int4") => "ort-cpu",
            (true, _) => "ort-cpu,tract",
            (false, "bf16" | "int4") => continue,
            (false, _) => "tract",
        };
        let checks = checked(&["--dtype", dtype, "--also", also], runtimes);
        assert_eq!(counts(&checks), [2, 2, adapters], "{dtype}: {checks:?}");
    }
}

#[test]
fn a_scorer_of_batches_of_one_task_is_checked() {
    let checks = checked(&["--task-switch", "scalar", "--also", "scorer"], "tract");
    assert_eq!(counts(&checks), [2, 0, 0], "{checks:?}");
    assert!(checks.iter().any(|(check, _)| check == "one-task-per-batch"), "{checks:?}");
}
