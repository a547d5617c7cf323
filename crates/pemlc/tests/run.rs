//! `pemlc run` decides as training scored: what separates choices from the prompt, what scores are divided by, which answers there are.

mod common;

use common::{pemlc, succeed, tiny};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

struct Made {
    folder: tempfile::TempDir,
    run: PathBuf,
    artifact: PathBuf,
}

/// A run whose capitals have a separator and a normalisation of their own, and its artifact.
fn made() -> &'static Made {
    static MADE: OnceLock<Made> = OnceLock::new();
    MADE.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (run, artifact) = (folder.path().join("run"), folder.path().join("artifact"));
        let file = tiny::run_file(folder.path(), 4);
        let text = fs::read_to_string(&file).expect("the run file was written");
        let settings = "choices = \"cities\"\nseparator = \": \"\nnormalize = \"characters\"";
        fs::write(&file, text.replace("choices = \"cities\"", settings)).expect("the folder is writable");
        let train = pemlc().arg("train").arg(file).args(["--device", "cpu", "--output"]).arg(&run).output();
        let train = train.expect("the binary starts");
        assert!(train.status.success(), "{}", common::describe(&train, folder.path()));
        succeed(["export".as_ref(), run.as_os_str(), artifact.as_os_str(), "--no-check".as_ref()]);
        Made { folder, run, artifact }
    })
}

fn manifest(artifact: &Path) -> Value {
    let text = fs::read_to_string(artifact.join("pemlc.json")).expect("the manifest exists");
    serde_json::from_str(&text).expect("the manifest is JSON")
}

/// What `run` prints of Japan's capital.
fn japan(artifact: &Path) -> String {
    let artifact = artifact.display().to_string();
    let request = ["run", &artifact, "--runtime", "tract", "--task", "capital", "--field", "country=Japan"];
    succeed(request.into_iter().chain(["Tokyo", "Osaka", "Kyoto"].into_iter().flat_map(|city| ["--choice", city])))
}

/// The number at the end of the line of `answer`.
fn score(table: &str, answer: &str) -> f64 {
    let line = table.lines().find(|line| line.starts_with(answer)).expect("a line of the answer");
    line.split_whitespace().last().and_then(|word| word.parse().ok()).expect("a number")
}

#[test]
fn choices_have_the_scores_of_training() {
    let tasks = &manifest(&made().artifact)["tasks"];
    assert_eq!((&tasks[1]["separator"], &tasks[1]["normalize"]), (&Value::from(": "), &Value::from("characters")));
    assert_eq!((&tasks[0]["separator"], &tasks[0]["normalize"]), (&Value::Null, &Value::from("none")));

    let predictions = fs::read_to_string(made().run.join("predictions.jsonl")).expect("the predictions");
    let line = predictions.lines().find(|line| line.contains("capital.csv:4")).expect("a prediction");
    let prediction: Value = serde_json::from_str(line).expect("JSON");
    let expected: Vec<f64> = prediction["scores"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
    let table = japan(&made().artifact);
    assert!(table.lines().next().is_some_and(|line| line.ends_with("log-likelihood per character")), "{table}");
    let cities = ["Tokyo", "Osaka", "Kyoto"];
    assert_eq!(expected.len(), cities.len(), "{line}");
    for (city, expected) in cities.into_iter().zip(&expected) {
        assert!((score(&table, city) - expected).abs() < 2e-3, "{city}: {expected} in {table}");
    }
    let predicted = prediction["predicted"].as_u64().and_then(|index| cities.get(index as usize));
    let first = table.lines().nth(2).and_then(|line| line.split_whitespace().next());
    assert_eq!(first, predicted.copied(), "{table}");
}

#[test]
fn an_artifact_that_does_not_say_how_has_the_defaults() {
    let old = made().folder.path().join("old");
    fs::create_dir_all(&old).expect("the folder is writable");
    for entry in fs::read_dir(&made().artifact).expect("the artifact exists").flatten() {
        if entry.path().is_file() {
            fs::copy(entry.path(), old.join(entry.file_name())).expect("the file is copied");
        }
    }
    let mut manifest = manifest(&old);
    for task in manifest["tasks"].as_array_mut().expect("tasks").iter_mut().filter_map(Value::as_object_mut) {
        task.remove("separator");
        task.remove("normalize");
    }
    fs::write(old.join("pemlc.json"), manifest.to_string()).expect("the manifest is written");
    let table = japan(&old);
    assert!(table.lines().next().is_some_and(|line| line.ends_with("log-likelihood per token")), "{table}");
    assert!(score(&table, "Kyoto").is_finite(), "{table}");
}

#[test]
fn fixed_answers_take_no_choices() {
    let artifact = made().artifact.display().to_string();
    let refused = common::run(["run", &artifact, "--task", "colour", "--text", "The sky", "--choice", "red"]);
    insta::assert_snapshot!(common::describe(&refused, made().folder.path()), @r#"
    exit code: 1
    -- stdout
    -- stderr
    warning: this artifact is not validated: run `pemlc check [FOLDER]/artifact`
    error: task `colour` has fixed answers (" red", " blue"): leave out --choice
    "#);
}
