//! Runs side by side.

mod common;

use common::{describe, pemlc, tiny};
use std::path::{Path, PathBuf};

fn train(folder: &Path, name: &str, settings: &[&str]) -> PathBuf {
    let run = folder.join(name);
    let mut train = pemlc();
    train.arg("train").arg(tiny::run_file(folder, 6)).args(["--device", "cpu", "--output"]).arg(&run);
    for setting in settings {
        train.args(["--set", setting]);
    }
    let output = train.output().expect("the binary starts");
    assert!(output.status.success(), "{}", describe(&output, folder));
    run
}

#[test]
fn seeds_are_taken_together_and_other_tasks_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let runs = [
        train(folder.path(), "peml-seed1", &["seed=1", "prefix.after_search=both"]),
        train(folder.path(), "peml-seed2", &["seed=2", "prefix.after_search=both"]),
        train(folder.path(), "plain", &["method=lora"]),
    ];
    let output = pemlc().arg("compare").args(&runs).output().expect("the binary starts");
    assert!(output.status.success(), "{}", describe(&output, folder.path()));
    let text = String::from_utf8_lossy(&output.stdout);
    let row = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {text}"));
    assert_eq!(row("peml").split_whitespace().nth(1), Some("2"), "{text}");
    assert_eq!(row("plain").split_whitespace().nth(1), Some("1"), "{text}");
    assert!(row("peml").contains('±') && !row("plain").contains('±'), "{text}");
    assert!(text.contains("retrained") && text.contains("same operation"), "{text}");
    let other = train(folder.path(), "other", &["method=lora", "tasks.0.name=else"]);
    let output = pemlc().arg("compare").args([&runs[2], &other]).output().expect("the binary starts");
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("name runs of the same tasks"), "{errors}");
}
