//! The whole road on the tiny model: train, export, check, evaluate, run; and an artifact that someone changed.

mod common;

use common::{pemlc, succeed, tiny};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::OnceLock;

struct Road {
    folder: tempfile::TempDir,
    run: PathBuf,
    artifact: PathBuf,
    train: Output,
    export: Output,
}

/// Trained and exported once for all tests of this file.
fn road() -> &'static Road {
    static ROAD: OnceLock<Road> = OnceLock::new();
    ROAD.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (run, artifact) = (folder.path().join("run"), folder.path().join("artifact"));
        let file = tiny::run_file(folder.path(), 12);
        let finish = |command: &mut std::process::Command| {
            let output = command.output().expect("the binary starts");
            assert!(output.status.success(), "{}", common::describe(&output, Path::new("/nowhere")));
            output
        };
        let train = finish(pemlc().arg("train").arg(file).args(["--device", "cpu", "--output"]).arg(&run));
        let export = finish(pemlc().arg("export").args([&run, &artifact]).arg("--no-check"));
        Road { folder, run, artifact, train, export }
    })
}

/// A copy of the artifact that a test may change.
fn copy(name: &str) -> PathBuf {
    let target = road().folder.path().join(name);
    copy_folder(&road().artifact, &target);
    target
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("the folder is writable");
    for entry in std::fs::read_dir(from).expect("the folder exists") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy_folder(&path, &target);
        } else {
            std::fs::copy(&path, &target).expect("the file is copied");
        }
    }
}

fn manifest(artifact: &Path) -> serde_json::Value {
    let text = std::fs::read_to_string(artifact.join("pemlc.json")).expect("the manifest exists");
    serde_json::from_str(&text).expect("the manifest is JSON")
}

#[test]
fn training_tells_what_it_trains_and_what_came_of_it() {
    let (errors, out) = (String::from_utf8_lossy(&road().train.stderr), String::from_utf8_lossy(&road().train.stdout));
    assert!(errors.contains("trainable parameters"), "{errors}");
    assert!(errors.contains("step 12/12"), "{errors}");
    assert!(out.contains("colour") && out.contains("capital") && out.contains("report.html"), "{out}");
    let page = std::fs::read_to_string(road().run.join("report.html")).expect("the report exists");
    assert!(page.contains("Training loss") && page.contains("Prompt encoder"), "the report lacks sections");
    assert!(!page.contains("http://") && !page.contains("https://"), "the report needs a network");
}

#[test]
fn export_without_check_says_so() {
    assert!(String::from_utf8_lossy(&road().export.stdout).contains("NOT VALIDATED"));
    assert_eq!(manifest(&road().artifact)["validated"], false);
}

#[test]
fn every_runtime_gives_the_trainers_answers() {
    let artifact = copy("checked");
    let runtimes = if tiny::has_onnx_runtime() { "ort-cpu,tract" } else { "tract" };
    let output = pemlc().arg("check").arg(&artifact).args(["--runtime", runtimes, "--run"]).arg(&road().run).output();
    let output = output.expect("the binary starts");
    assert!(output.status.success(), "{}", common::describe(&output, Path::new("/nowhere")));
    let manifest = manifest(&artifact);
    assert_eq!(manifest["validated"], true);
    let found = manifest["validation"]["runtimes"].as_array().map(Vec::len);
    assert_eq!(found, Some(runtimes.split(',').count()));
    let page = std::fs::read_to_string(road().run.join("report.html")).expect("the report exists");
    assert!(page.contains("Parity of the exported graph"), "the report lacks the check");

    let scorer = if runtimes.starts_with("ort") { "ort-cpu" } else { "tract" };
    let text =
        pemlc().arg("evaluate").arg(&artifact).arg("--run").arg(&road().run).args(["--runtime", scorer]).output();
    let text = text.expect("the binary starts");
    assert!(text.status.success(), "{}", common::describe(&text, Path::new("/nowhere")));
    assert!(String::from_utf8_lossy(&text.stdout).contains("every answer is the trainer's"));
}

#[test]
fn graphs_beside_the_model_are_checked_in_every_way() {
    let artifact = road().folder.path().join("beside");
    let onnx_runtime = tiny::has_onnx_runtime();
    // Nothing but ONNX Runtime reads adapters.
    let (runtimes, also) =
        if onnx_runtime { ("ort-cpu,tract", "per-task,ort-adapters") } else { ("tract", "per-task") };
    let mut export = pemlc();
    export.arg("export").args([&road().run, &artifact]).args(["--also", also, "--runtime", runtimes]);
    let output = export.output().expect("the binary starts");
    assert!(output.status.success(), "{}", common::describe(&output, Path::new("/nowhere")));
    let manifest = manifest(&artifact);
    let checks = manifest["validation"]["runtimes"][0]["checks"].as_array().expect("checks");
    let of = |file: &str| checks.iter().filter(|check| check["check"] == file).collect::<Vec<_>>();
    assert_eq!(of("task.colour.onnx").len(), 1);
    let ways = "prefill, cached-decode, left-padding, drawn-shapes, differs-from-base";
    assert_eq!(of("task.capital.onnx")[0]["detail"], ways);
    if runtimes.starts_with("ort") {
        // With no adapter, and with each.
        let adapted: Vec<&str> =
            of("adapters.onnx").iter().map(|check| check["detail"].as_str().unwrap_or_default()).collect();
        assert_eq!(adapted, ["NaN without an adapter", ways, ways]);
    }
}

#[test]
fn a_difference_of_rounding_alone_is_told_as_such() {
    if !tiny::has_onnx_runtime() {
        return;
    }
    let artifact = copy("rounding");
    let bisect = |arguments: &[&str]| {
        let output = pemlc().arg("check").arg(&artifact).args(arguments).output().expect("the binary starts");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, text) = bisect(&["--bisect=tract,ort-cpu-unoptimized", "--drawn", "1"]);
    assert!(code == Some(0) && text.contains("No node is to blame") && text.contains("layer 1"), "{text}");

    // A tolerance that rounding exceeds: the check fails and says how to look, and the answer is no node.
    let impossible = ["--runtime", "tract", "--tolerance", "1e-9", "--drawn", "0"];
    let (code, text) = bisect(&impossible);
    assert!(code == Some(1) && text.contains("--bisect=tract,ort-cpu-unoptimized"), "{text}");
    let (code, text) = bisect(&[&["--bisect"], &impossible[..]].concat());
    assert!(code == Some(1) && text.starts_with("\ntract against ort-cpu-unoptimized\n"), "{text}");
    assert!(text.contains("rounding adds up") && text.contains("largest jump: "), "{text}");

    let (code, _) = bisect(&["--bisect=tract"]);
    assert_eq!(code, Some(1), "one runtime is no comparison");
}

#[test]
fn a_base_in_bf16_is_exported_as_it_was_trained_on() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (file, run, artifact) =
        (tiny::run_file(folder.path(), 4), folder.path().join("run"), folder.path().join("artifact"));
    let train = pemlc()
        .arg("train")
        .arg(file)
        .args(["--device", "cpu", "--set", "training.base_dtype=bf16", "--output"])
        .arg(&run)
        .output()
        .expect("the binary starts");
    assert!(train.status.success(), "{}", common::describe(&train, folder.path()));
    let export = pemlc().arg("export").args([&run, &artifact]).args(["--runtime", "tract"]).output();
    let export = export.expect("the binary starts");
    assert!(export.status.success(), "{}", common::describe(&export, folder.path()));
    assert_eq!(manifest(&artifact)["validated"], true);
}

/// One task a batch, the base model as the last task, and deltas that are not quite the trainer's: the check knows of all three.
#[test]
fn what_is_asked_of_the_task_switch_is_checked() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (file, run, artifact) =
        (tiny::run_file(folder.path(), 4), folder.path().join("run"), folder.path().join("artifact"));
    let settings = ["--device", "cpu", "--set", "lora.sharing=both", "--output"];
    let train = pemlc().arg("train").arg(file).args(settings).arg(&run).output().expect("the binary starts");
    assert!(train.status.success(), "{}", common::describe(&train, folder.path()));
    let export = pemlc()
        .arg("export")
        .args([&run, &artifact])
        .args(["--task-switch", "scalar", "--include-base", "--rank-tolerance", "0.05", "--also", "per-task"])
        .args(["--runtime", "tract"])
        .output()
        .expect("the binary starts");
    assert!(export.status.success(), "{}", common::describe(&export, folder.path()));
    let out = String::from_utf8_lossy(&export.stdout);
    assert!(out.contains("share of its delta left out") && out.contains("against the trainer, whose deltas"), "{out}");
    let manifest = manifest(&artifact);
    assert_eq!(manifest["validated"], true);
    assert_eq!(manifest["one_task_per_batch"], true);
    let tasks = manifest["tasks"].as_array().expect("tasks");
    assert_eq!(tasks.last().map(|task| &task["name"]), Some(&serde_json::json!("__base__")));
    assert!(artifact.join("task.__base__.onnx").is_file());
    let checks = manifest["validation"]["runtimes"][0]["checks"].as_array().expect("checks");
    let of_base = |check: &&serde_json::Value| check["task"] == "__base__" && check["check"] == "differs-from-base";
    let detail = checks.iter().find(of_base).map(|check| check["detail"].to_string());
    assert!(detail.is_some_and(|detail| detail.contains("the base model itself")), "{checks:?}");
    assert!(checks.iter().any(|check| check["check"] == "one-task-per-batch"), "{checks:?}");
}

#[test]
fn a_request_is_answered() {
    let runtime = if tiny::has_onnx_runtime() { "ort-cpu" } else { "tract" };
    let artifact = road().artifact.display().to_string();
    let ask = |arguments: &[&str]| {
        let mut all = vec!["run", &artifact, "--runtime", runtime, "--max-new-tokens", "2"];
        all.extend(arguments);
        succeed(all)
    };
    let answer = ask(&["--task", "colour", "--text", "The sky"]);
    assert!(answer.starts_with("answer  probability") && answer.contains("red") && answer.contains("blue"), "{answer}");
    let answer = ask(&["--task", "capital", "--field", "country=France", "--choice", "Paris", "--choice", "Rome"]);
    assert!(answer.contains("Paris") && answer.contains("Rome"), "{answer}");
    assert!(!ask(&["--task", "capital", "--text", "France"]).contains("probability"), "nothing to choose from");
    let unknown = common::run(["run", &artifact, "--task", "color", "--text", "The sky"]);
    insta::assert_snapshot!(common::describe(&unknown, road().folder.path()), @r"
    exit code: 1
    -- stdout
    -- stderr
    error: [FOLDER]/artifact has no task `color`; it has colour, capital
    ");
}

#[test]
fn a_changed_weight_is_noticed_by_its_hash() {
    let artifact = copy("tampered");
    flip(&artifact.join("model.onnx.data"));
    let output = common::run([Path::new("check"), &artifact]);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("model.onnx.data: SHA-256") && error.contains("export it again"), "{error}");
}

#[test]
fn a_changed_weight_with_a_changed_hash_is_noticed_by_its_answers() {
    let artifact = copy("forged");
    let hash = flip(&artifact.join("model.onnx.data"));
    let mut manifest_value = manifest(&artifact);
    for file in manifest_value["files"].as_array_mut().expect("files") {
        if file["path"] == "model.onnx.data" {
            file["sha256"] = hash.clone().into();
        }
    }
    std::fs::write(artifact.join("pemlc.json"), manifest_value.to_string()).expect("the manifest is written");
    let output = common::run(["check", &artifact.display().to_string(), "--runtime", "tract"]);
    assert_eq!(output.status.code(), Some(1), "{}", common::describe(&output, Path::new("/nowhere")));
    assert!(String::from_utf8_lossy(&output.stdout).contains("validated: false"));
    assert_eq!(manifest(&artifact)["validated"], false);
}

/// Changes the sign of every weight in the middle half of `data`, and returns its new hash.
fn flip(data: &Path) -> String {
    let mut bytes = std::fs::read(data).expect("the weights exist");
    let quarter = bytes.len() / 4 / 4 * 4;
    for index in (quarter..3 * quarter).step_by(4) {
        // The highest bit of a little-endian f32.
        bytes[index + 3] ^= 0x80;
    }
    std::fs::write(data, &bytes).expect("the weights are written");
    pemlc_artifact::hash::hash_bytes(&bytes)
}

#[test]
fn inspect_prints_the_graph_of_a_folder_or_a_file() {
    let artifact = &road().artifact;
    let text = succeed([Path::new("inspect"), artifact]);
    assert_eq!(text, succeed([Path::new("inspect"), &artifact.join("model.onnx")]));
    assert!(text.starts_with("ir_version 8\nopset ai.onnx 18\n"), "{text}");
    assert!(text.contains("  input task_id: i64[batch_size]\n"), "{text}");
}
