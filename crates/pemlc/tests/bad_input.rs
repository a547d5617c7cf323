//! What a user gets wrong: standard error and exit code.

mod common;

use std::path::Path;

const RUN_FILE: &str = r#"
model = "MODEL"
[training]
steps = 4
[[tasks]]
name = "colour"
train = "colour.jsonl"
validation = "colour.jsonl"
template = "{text} is"
verbalizers = [" red", " blue"]
"#;

/// A folder with a run file (after `change`) and its data.
fn folder(change: impl Fn(String) -> String) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = common::repository().join("fixtures/tiny-model");
    let text = change(RUN_FILE.replace("MODEL", &model.display().to_string()));
    std::fs::write(folder.path().join("run.toml"), text).expect("the run file is written");
    let data = "{\"text\": \"The sky\", \"label\": 1}\n{\"text\": \"Blood\", \"label\": 0}\n";
    std::fs::write(folder.path().join("colour.jsonl"), data).expect("the data is written");
    folder
}

/// Trains in `folder` with further `arguments`, and says how it ended.
fn train(folder: &Path, arguments: &[&str]) -> String {
    let mut command = common::pemlc();
    command.arg("train").arg(folder.join("run.toml")).arg("--output").arg(folder.join("run")).args(arguments);
    let text = common::describe(&command.output().expect("the binary starts"), folder);
    assert!(!folder.join("run/run.json").exists(), "a run that failed looks finished");
    text
}

#[test]
fn no_run_file() {
    let folder = folder(|text| text);
    std::fs::remove_file(folder.path().join("run.toml")).expect("the run file was there");
    insta::assert_snapshot!(train(folder.path(), &[]));
}

#[test]
fn not_toml() {
    let folder = folder(|text| text.replace("steps = 4", "steps 4"));
    insta::assert_snapshot!(train(folder.path(), &[]));
}

#[test]
fn unknown_key() {
    let folder = folder(|text| text.replace("steps = 4", "step = 4"));
    insta::assert_snapshot!(train(folder.path(), &[]));
}

#[test]
fn unknown_key_in_set() {
    let folder = folder(|text| text);
    insta::assert_snapshot!(train(folder.path(), &["--set", "training.step=5"]));
}

#[test]
fn no_model() {
    let folder = folder(|text| text.replace("tiny-model", "no-model"));
    insta::assert_snapshot!(train(folder.path(), &[]));
}

#[test]
fn unknown_field_in_a_template() {
    let folder = folder(|text| text.replace("{text} is", "{sentence} is"));
    insta::assert_snapshot!(train(folder.path(), &[]));
}

#[test]
fn unknown_label() {
    let folder = folder(|text| text);
    let data = "{\"text\": \"The sky\", \"label\": 1}\n{\"text\": \"Grass\", \"label\": \"green\"}\n";
    std::fs::write(folder.path().join("colour.jsonl"), data).expect("the data is written");
    insta::assert_snapshot!(train(folder.path(), &[]));
}

#[test]
fn unknown_device() {
    let folder = folder(|text| text);
    insta::assert_snapshot!(train(folder.path(), &["--device", "tpu"]));
}

#[test]
fn nothing_to_resume() {
    let folder = folder(|text| text);
    insta::assert_snapshot!(train(folder.path(), &["--resume", "--device", "cpu"]));
}

#[test]
fn no_run_to_export() {
    let folder = folder(|text| text);
    let (run, out) = (folder.path().join("run"), folder.path().join("artifact"));
    let output = common::run([Path::new("export"), &run, &out]);
    assert!(!out.exists(), "a failed export leaves nothing");
    insta::assert_snapshot!(common::describe(&output, folder.path()));
}

#[test]
fn no_artifact_to_check() {
    let folder = folder(|text| text);
    let output = common::run([Path::new("check"), folder.path()]);
    insta::assert_snapshot!(common::describe(&output, folder.path()));
}

#[test]
fn no_graph_to_inspect() {
    let folder = folder(|text| text);
    let output = common::run([Path::new("inspect"), &folder.path().join("run.toml")]);
    insta::assert_snapshot!(common::describe(&output, folder.path()));
}
