//! The outer search on the tiny model: two workers on one study, the same command again, and another space.

mod common;

use common::{describe, pemlc, tiny};
use std::path::Path;
use std::process::Output;

const SEARCH: &str = r#"
[search]
"lora.rank" = { choices = [2, 4] }
"lora.sharing" = { choices = ["shared", "per_task"] }
"training.learning_rate" = { low = 1e-4, high = 1e-2, log = true }
"prefix.length" = { low = 2, high = 6, step = 2 }
"#;

fn search(file: &Path, folder: &Path, trials: &str, extra: &[&str]) -> Output {
    let mut command = pemlc();
    command.arg("search").arg(file).args(["--trials", trials, "--device", "cpu", "--study"]);
    command.arg(folder.join("study.db")).arg("--output").arg(folder.join("trials")).args(extra);
    command.output().expect("the binary starts")
}

#[test]
fn two_workers_share_a_study_that_goes_on_later() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = tiny::run_file(folder.path(), 3);
    let text = std::fs::read_to_string(&file).expect("the run file");
    std::fs::write(&file, format!("{text}\n{SEARCH}")).expect("the run file");

    let first = search(&file, folder.path(), "3", &["--workers", "2"]);
    assert!(first.status.success(), "{}", describe(&first, folder.path()));
    let more = search(&file, folder.path(), "4", &[]);
    assert!(more.status.success(), "{}", describe(&more, folder.path()));
    let table = String::from_utf8_lossy(&more.stdout).into_owned();
    assert_eq!(table.matches("complete").count(), 4, "{table}");
    assert!(table.contains("lora.sharing=\"") && table.contains("best: trial "), "{table}");
    let page = std::fs::read_to_string(folder.path().join("trials/report.html")).expect("the report");
    assert!(page.contains("4 finished") && page.contains("lora.rank") && page.contains("Its prompt encoder"), "{page}");
    assert!(!page.contains("http://") && !page.contains("https://"), "the report needs a network");
    let run = |trial: u32| folder.path().join(format!("trials/trial-{trial:04}"));
    assert!((0..4).all(|trial| run(trial).join("run.json").exists()), "{table}");
    let kept: Vec<u32> = (0..4).filter(|trial| run(*trial).join("checkpoints").exists()).collect();
    let best = table.lines().find_map(|line| line.strip_prefix("best: trial ")).expect("a best trial");
    assert!(kept.len() == 1 && best.starts_with(&format!("{}, ", kept[0])), "{kept:?}, {table}");

    std::fs::write(&file, format!("{text}\n{}", SEARCH.replace("[2, 4]", "[2, 8]"))).expect("the run file");
    let other = search(&file, folder.path(), "5", &[]);
    assert_eq!(other.status.code(), Some(1));
    let error = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(error.contains("pemlc:space"), "{error}");
}

#[test]
fn weak_trials_are_pruned_unless_told_otherwise() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = tiny::run_file(folder.path(), 9);
    let text = std::fs::read_to_string(&file).expect("the run file");
    let search_table = "[search]\n\"training.learning_rate\" = { low = 1e-6, high = 3e-1, log = true }\n";
    std::fs::write(&file, format!("{text}\n{search_table}")).expect("the run file");

    let output = search(&file, folder.path(), "8", &[]);
    assert!(output.status.success(), "{}", describe(&output, folder.path()));
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    let pruned: Vec<&str> = table.lines().filter(|line| line.contains(" pruned ")).collect();
    assert!(!pruned.is_empty() && table.contains(" complete "), "{table}");
    for line in pruned {
        let number: u32 = line.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number");
        let run = folder.path().join(format!("trials/trial-{number:04}"));
        assert!(run.join("metrics.jsonl").exists() && !run.join("checkpoints").exists(), "{table}");
        assert!(!run.join("run.json").exists(), "a pruned trial looks finished");
    }

    let other = search(&file, folder.path(), "9", &["--prune", "none"]);
    assert_eq!(other.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&other.stderr).contains("pemlc:pruner"), "{}", describe(&other, folder.path()));
    let all = search(&file, folder.path(), "1", &["--reduction", "1"]);
    assert_eq!(all.status.code(), Some(2), "{}", describe(&all, folder.path()));
}

const CONDITIONAL: &str = r#"
[search]
"method" = { choices = ["lora", "peml"] }
"training.learning_rate" = { low = 1e-4, high = 1e-2, log = true }
"prefix.architecture_learning_rate" = { low = 1e-3, high = 1e-1, log = true, when = { method = "peml" } }
"#;

#[test]
fn a_conditional_parameter_is_there_under_its_choice_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = tiny::run_file(folder.path(), 3);
    let text = std::fs::read_to_string(&file).expect("the run file");
    std::fs::write(&file, format!("{text}\n{CONDITIONAL}")).expect("the run file");
    let output = search(&file, folder.path(), "5", &[]);
    assert!(output.status.success(), "{}", describe(&output, folder.path()));
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    let conditional = |line: &str| line.contains("prefix.architecture_learning_rate=");
    let (peml, lora): (Vec<&str>, Vec<&str>) =
        table.lines().filter(|line| line.contains("method=")).partition(|line| line.contains("method=\"peml\""));
    assert!(!peml.is_empty() && peml.iter().all(|line| conditional(line)), "{table}");
    assert!(!lora.is_empty() && !lora.iter().any(|line| conditional(line)), "{table}");

    // A key that no run file has is found before the choice that it stands under is ever drawn.
    std::fs::write(&file, format!("{text}\n{}", CONDITIONAL.replace("architecture_l", "architecture_k")))
        .expect("a file");
    let unknown = search(&file, folder.path(), "5", &["--name", "unknown"]);
    assert_eq!(unknown.status.code(), Some(1));
    let error = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(error.contains("architecture_kearning_rate") && error.contains("near: "), "{error}");
}

#[test]
fn a_search_in_which_every_trial_fails_ends() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = tiny::run_file(folder.path(), 6);
    let text = std::fs::read_to_string(&file).expect("the run file");
    // Times minus infinity, the zeros that LoRA starts with are NaN.
    let search_table = "[search]\n\"training.weight_decay\" = { choices = [1e300] }\n";
    std::fs::write(&file, format!("{text}\n{search_table}")).expect("the run file");
    let output = search(&file, folder.path(), "3", &["--set", "method=lora"]);
    let told = describe(&output, folder.path());
    assert_eq!(output.status.code(), Some(1), "{told}");
    let last = "error: 10 trials in a row failed, the last one [FOLDER]/trials/trial-0009: step ";
    assert!(told.contains(last) && told.contains("smaller values"), "{told}");
    assert!(!folder.path().join("trials/trial-0010").exists(), "{told}");
}

#[test]
fn another_study_in_the_same_folder_fails_and_takes_nothing_away() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = tiny::run_file(folder.path(), 3);
    let first = search(&file, folder.path(), "1", &[]);
    assert!(first.status.success(), "{}", describe(&first, folder.path()));
    let other = search(&file, folder.path(), "1", &["--name", "other"]);
    assert_eq!(other.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&other.stderr).contains("already holds a run"),
        "{}",
        describe(&other, folder.path())
    );
    assert!(folder.path().join("trials/trial-0000/checkpoints").exists());
}

#[test]
fn a_server_that_does_not_answer_is_named_without_its_password() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = tiny::run_file(folder.path(), 3);
    let mut command = pemlc();
    command.arg("search").arg(&file).args(["--trials", "1", "--study", "postgresql://me:secret@127.0.0.1:1/db"]);
    let output = command.arg("--output").arg(folder.path().join("trials")).output().expect("the binary starts");
    let error = describe(&output, folder.path());
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("postgresql://me@127.0.0.1:1/db: cannot connect") && !error.contains("secret"), "{error}");
}

#[test]
fn what_is_no_study_is_left_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = tiny::run_file(folder.path(), 3);
    let study = folder.path().join("study.db");
    std::fs::write(&study, "my notes, which are no database, but long enough to be taken for one").expect("a file");
    let output = search(&file, folder.path(), "1", &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(std::fs::read_to_string(&study).expect("the file").starts_with("my notes"));
    std::fs::remove_file(&study).expect("the file");
    let text = std::fs::read_to_string(&file).expect("the run file");
    std::fs::write(&file, format!("{text}\n[search]\n\"lora.rnk\" = {{ choices = [1] }}\n")).expect("the run file");
    let unknown = search(&file, folder.path(), "1", &[]);
    assert_eq!(unknown.status.code(), Some(1));
    let error = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(error.contains("lora.rnk") && error.contains("lora.rank"), "{error}");
    assert!(!study.exists(), "a study was made for a search that cannot be");
}
