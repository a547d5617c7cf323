//! `pemlc inspect` with its tables, `pemlc diff` and `pemlc snapshot` on the tiny model's artifact.

mod common;

use common::{describe, pemlc, run, succeed, tiny};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::OnceLock;

/// The artifact, made once for all tests of this file.
fn artifact() -> &'static Path {
    static ROAD: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let make = || {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (run, artifact) = (folder.path().join("run"), folder.path().join("artifact"));
        let file = tiny::run_file(folder.path(), 3);
        let finish = |command: &mut std::process::Command| {
            let output = command.output().expect("the binary starts");
            assert!(output.status.success(), "{}", describe(&output, Path::new("/nowhere")));
        };
        finish(pemlc().arg("train").arg(file).args(["--device", "cpu", "--output"]).arg(&run));
        finish(pemlc().arg("export").args([&run, &artifact]).arg("--no-check"));
        (folder, artifact)
    };
    &ROAD.get_or_init(make).1
}

/// A copy of the graph whose `change`d byte is in the data file.
fn other(folder: &Path, change: usize) -> PathBuf {
    for name in ["model.onnx", "model.onnx.data"] {
        std::fs::copy(artifact().join(name), folder.join(name)).expect("the file is copied");
    }
    let data = folder.join("model.onnx.data");
    let mut bytes = std::fs::read(&data).expect("the data exists");
    bytes[change] ^= 1;
    std::fs::write(&data, bytes).expect("the data is written");
    folder.to_owned()
}

fn arguments<'a>(parts: impl IntoIterator<Item = &'a dyn AsRef<std::ffi::OsStr>>) -> Output {
    run(parts.into_iter().map(|part| part.as_ref().to_owned()))
}

fn json(output: &str) -> serde_json::Value {
    serde_json::from_str(output).expect("the output is JSON")
}

#[test]
fn inspect_shows_tables_and_json() {
    let graph = artifact().as_os_str();
    let text = |flags: &[&str]| {
        let flags = flags.iter().map(std::ffi::OsStr::new);
        succeed([std::ffi::OsStr::new("inspect"), graph].into_iter().chain(flags))
    };
    insta::assert_snapshot!(
        "cost_of_a_decoding_step",
        text(&["--cost", "--batch", "2", "--sequence", "1", "--past", "9"])
    );
    assert!(text(&["--weights"]).contains("embedding.weight"));
    assert!(text(&["--shapes"]).contains("f32[batch_size, sequence_length, "));
    for (table, key) in [("--weights", "weights"), ("--shapes", "values"), ("--cost", "layers")] {
        assert!(
            json(&text(&[table, "--json"]))[key].is_object() || json(&text(&[table, "--json"]))[key].is_array(),
            "{table}"
        );
    }
}

#[test]
fn diff_exits_with_0_1_or_2() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let other = other(folder.path(), 0);
    let same = arguments([&"diff" as &dyn AsRef<_>, &artifact(), &artifact().join("model.onnx")]);
    assert_eq!(same.status.code(), Some(0), "{}", describe(&same, folder.path()));
    let found = arguments([&"diff" as &dyn AsRef<_>, &artifact(), &other]);
    assert_eq!(found.status.code(), Some(1));
    let text = String::from_utf8_lossy(&found.stdout);
    assert!(text.contains("@@ weights @@\n~ weight ") && text.contains("1 of "), "{text}");
    let ignored = arguments([&"diff" as &dyn AsRef<_>, &artifact(), &other, &"--ignore-weights"]);
    assert_eq!(ignored.status.code(), Some(0));
    let tolerant = arguments([&"diff" as &dyn AsRef<_>, &artifact(), &other, &"--tolerance", &"0.1", &"--json"]);
    assert_eq!(tolerant.status.code(), Some(0));
    assert_eq!(json(&String::from_utf8_lossy(&tolerant.stdout))["same"]["within_tolerance"], 1);
    for wrong in [
        vec!["diff", "a"],
        vec!["diff", "a", "b", "--tolerance", "-1"],
        vec!["snapshot", "a"],
        vec!["inspect", "a", "--json"],
    ] {
        assert_eq!(run(&wrong).status.code(), Some(2), "{wrong:?}");
    }
    let missing = arguments([&"diff" as &dyn AsRef<_>, &folder.path().join("none"), &artifact()]);
    insta::assert_snapshot!("no_graph_to_compare", describe(&missing, folder.path()));
}

#[test]
fn a_snapshot_is_accepted_and_then_holds() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("graph.snap");
    let snapshot = |flags: &[&dyn AsRef<std::ffi::OsStr>]| {
        let mut command = pemlc();
        command.current_dir(folder.path()).arg("snapshot").arg(artifact());
        command.args(flags.iter().map(|flag| flag.as_ref())).output().expect("the binary starts")
    };
    let told = |output: &Output| {
        describe(output, folder.path()).replace(&artifact().parent().expect("a folder").display().to_string(), "[ROAD]")
    };
    insta::assert_snapshot!("nothing_accepted_yet", told(&snapshot(&[&"--check"])));
    assert_eq!(snapshot(&[&"--accept"]).status.code(), Some(0));
    assert_eq!(snapshot(&[&"--check", &"graph.snap"]).status.code(), Some(0));
    let text = std::fs::read_to_string(&file).expect("the snapshot was written");
    std::fs::write(&file, text.replace("task 1 capital", "task 1 city")).expect("the snapshot is written");
    insta::assert_snapshot!("a_snapshot_that_differs", told(&snapshot(&[&"--check"])));
}
