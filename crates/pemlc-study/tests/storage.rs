//! Studies that are shared by processes and by Optuna, and files that are no studies.

use pemlc_study::{Asha, Distribution, Parameter, RandomSampler, Space, SqliteStudy, StorageError, TrialState};
use serde_json::json;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

fn space() -> Space {
    let parameter = |name: &str, distribution| Parameter { name: name.to_owned(), distribution, condition: None };
    Space::new(vec![
        parameter("rate", Distribution::Float { low: 1e-5, high: 1e-2, log: true }),
        parameter("rank", Distribution::Int { low: 4, high: 64, step: 4, log: false }),
        parameter("sharing", Distribution::Categorical { choices: vec![json!("shared"), json!("per_task")] }),
    ])
    .unwrap()
}

fn open(path: &Path) -> SqliteStudy {
    SqliteStudy::open(path, "demo", &[("pemlc:space", space().to_json())]).unwrap()
}

fn work(path: &Path, trials: u64, pause: Duration) {
    let (space, mut study) = (space(), open(path));
    let random = RandomSampler { seed: 1 };
    while let Some(claim) = study.claim(&space, trials, |_, number| random.sample(&space, number)).unwrap() {
        study.report(&claim, 1, claim.params["rank"]).unwrap();
        std::thread::sleep(pause);
        study.set_attribute(&claim, "steps", &json!(1)).unwrap();
        study.finish(&claim, TrialState::Complete, Some(claim.params["rank"])).unwrap();
    }
}

/// Not a test of its own: the others start this executable again with this function alone.
#[test]
fn worker_process() {
    if let Ok(path) = std::env::var("PEMLC_STUDY_TEST_FILE") {
        let pause = std::env::var("PEMLC_STUDY_TEST_PAUSE_MS").unwrap().parse().unwrap();
        work(Path::new(&path), 20, Duration::from_millis(pause));
    }
}

fn spawn(path: &Path, pause: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["worker_process", "--exact"])
        .env("PEMLC_STUDY_TEST_FILE", path)
        .env("PEMLC_STUDY_TEST_PAUSE_MS", pause.to_string())
        .spawn()
        .unwrap()
}

#[test]
fn a_killed_worker_loses_no_finished_trial_and_its_own_is_given_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("study.db");
    let mut study = open(&path);
    let mut stuck = spawn(&path, 600_000);
    while study.trials().unwrap().is_empty() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut live = spawn(&path, 5);
    while !study.trials().unwrap().iter().any(|trial| trial.state == TrialState::Complete) {
        std::thread::sleep(Duration::from_millis(5));
    }
    stuck.kill().unwrap();
    stuck.wait().unwrap();
    assert!(live.wait().unwrap().success());
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!(study.give_back(1).unwrap(), [0]);
    assert_eq!(study.give_back(1).unwrap(), [0; 0]);
    work(&path, 20, Duration::ZERO);
    let trials = study.trials().unwrap();
    let complete: Vec<_> = trials.iter().filter(|trial| trial.state == TrialState::Complete).collect();
    assert_eq!((complete.len(), trials.len()), (20, 21));
    assert_eq!(trials[0].state, TrialState::Fail);
    assert!(complete.iter().any(|trial| trial.params == trials[0].params));
    let numbers: Vec<u64> = trials.iter().map(|trial| trial.number).collect();
    assert_eq!(numbers, (0..21).collect::<Vec<_>>());
}

#[test]
fn files_that_are_no_studies_stay_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let corrupt = folder.path().join("corrupt.db");
    std::fs::write(&corrupt, "this is a text and no database\n".repeat(100)).unwrap();
    let foreign = folder.path().join("foreign.db");
    rusqlite::Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE notes (text TEXT)").unwrap();
    for path in [corrupt, foreign] {
        let before = std::fs::read(&path).unwrap();
        let error = SqliteStudy::open(&path, "demo", &[]).err().unwrap();
        assert!(matches!(error, StorageError::Corrupt { .. } | StorageError::Foreign { .. }), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }
}

#[test]
fn another_space_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("study.db");
    drop(open(&path));
    let error = SqliteStudy::open(&path, "demo", &[("pemlc:space", json!({"other": 1}))]).err().unwrap();
    let text = error.to_string();
    assert!(text.contains(r#"{"other":1}"#) && text.contains("rate"), "{text}");
}

/// Optuna reads every field, adds trials of its own, and what it added is read here. `PYTHON` names the interpreter.
#[test]
fn optuna_opens_the_study() {
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let found = Command::new(&python).args(["-c", "import optuna, sqlalchemy"]).output();
    if !found.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: {python} has no optuna");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("study.db");
    work(&path, 3, Duration::ZERO);
    let script = r#"
import optuna, sys
study = optuna.load_study(study_name="demo", storage="sqlite:///" + sys.argv[1])
assert study.direction == optuna.study.StudyDirection.MAXIMIZE
assert "rate" in study.user_attrs["pemlc:space"]
trials = study.get_trials()
assert [t.number for t in trials] == [0, 1, 2]
for t in trials:
    assert t.state == optuna.trial.TrialState.COMPLETE and t.value == t.params["rank"] and t.duration is not None
    assert t.intermediate_values == {1: t.value} and t.user_attrs == {"steps": 1}
    assert t.params["sharing"] in ("shared", "per_task") and 1e-5 <= t.params["rate"] <= 1e-2
def objective(trial):
    trial.suggest_float("rate", 1e-5, 1e-2, log=True)
    trial.suggest_categorical("sharing", ["shared", "per_task"])
    trial.report(float("nan"), 1)
    return trial.suggest_int("rank", 4, 64, step=4)
study.optimize(objective, n_trials=2)
"#;
    let output = Command::new(&python).args(["-c", script]).arg(&path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(open(&path).attributes("steps").unwrap(), (0..3).map(|number| (number, json!(1))).collect());
    let trials = open(&path).trials().unwrap();
    assert_eq!(trials.len(), 5);
    assert_eq!(trials[4].value, trials[4].params.get("rank").copied());
    assert!(trials[4].intermediate[&1].is_nan());
}

/// Three trials reach the first rung. The best goes on; what is worse stops, and a worker that comes later sees all values.
#[test]
fn weak_trials_stop_at_a_rung() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("study.db");
    let (space, asha) = (space(), Asha::fractions(9, 3).unwrap());
    let random = RandomSampler { seed: 1 };
    let mut ended = Vec::new();
    for values in [[0.5, 0.6], [0.4, 0.9], [0.7, 0.2]] {
        let mut study = open(&path);
        let claim = study.claim(&space, 3, |_, number| random.sample(&space, number)).unwrap().unwrap();
        let steps = asha.rungs().iter().zip(values);
        let stopped = steps.map(|(step, value)| (*step, study.prune(&claim, *step, value, &asha).unwrap()));
        ended.push(stopped.take_while(|(_, pruned)| !pruned).map(|(step, _)| step).collect::<Vec<_>>());
    }
    assert_eq!(ended, [vec![1, 3], vec![], vec![1]]);
    let trials = open(&path).trials().unwrap();
    assert_eq!(trials[2].intermediate.iter().collect::<Vec<_>>(), [(&1, &0.7), (&3, &0.2)]);
}
