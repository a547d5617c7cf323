//! What must hold of a study, wherever it is.
#![allow(dead_code)] // Each test file uses its own part of this.

pub(crate) mod server;

use pemlc_study::{Asha, Distribution, Location, Parameter, RandomSampler, Space, Study, TrialState};
use serde_json::json;
use std::process::{Child, Command};
use std::time::Duration;

pub(crate) fn space() -> Space {
    let parameter = |name: &str, distribution| Parameter { name: name.to_owned(), distribution, condition: None };
    Space::new(vec![
        parameter("rate", Distribution::Float { low: 1e-5, high: 1e-2, log: true }),
        parameter("rank", Distribution::Int { low: 4, high: 64, step: 4, log: false }),
        parameter("sharing", Distribution::Categorical { choices: vec![json!("shared"), json!("per_task")] }),
    ])
    .unwrap()
}

pub(crate) fn open(url: &str) -> Study {
    Study::open(&Location::parse(url, None).unwrap(), "demo", &[("pemlc:space", space().to_json())]).unwrap()
}

pub(crate) fn work(url: &str, trials: u64, pause: Duration) {
    let (space, mut study) = (space(), open(url));
    let random = RandomSampler { seed: 1 };
    while let Some(claim) = study.claim(&space, trials, |_, number| random.sample(&space, number)).unwrap() {
        study.report(&claim, 1, claim.params["rank"]).unwrap();
        std::thread::sleep(pause);
        study.set_attribute(&claim, "steps", &json!(1)).unwrap();
        study.finish(&claim, TrialState::Complete, Some(claim.params["rank"])).unwrap();
    }
}

/// What `worker_process` of each test file does, which is not a test of its own: [`spawn`] starts the executable again with it alone.
pub(crate) fn work_if_told() {
    if let Ok(url) = std::env::var("PEMLC_STUDY_TEST_URL") {
        let pause = std::env::var("PEMLC_STUDY_TEST_PAUSE_MS").unwrap().parse().unwrap();
        work(&url, 20, Duration::from_millis(pause));
    }
}

/// A process that works on 20 trials.
pub(crate) fn spawn(url: &str, pause: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["worker_process", "--exact"])
        .env("PEMLC_STUDY_TEST_URL", url)
        .env("PEMLC_STUDY_TEST_PAUSE_MS", pause.to_string())
        .spawn()
        .unwrap()
}

pub(crate) fn a_killed_worker_loses_nothing(url: &str) {
    let mut study = open(url);
    let mut stuck = spawn(url, 600_000);
    while study.trials().unwrap().is_empty() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut live = spawn(url, 5);
    while !study.trials().unwrap().iter().any(|trial| trial.state == TrialState::Complete) {
        std::thread::sleep(Duration::from_millis(5));
    }
    stuck.kill().unwrap();
    stuck.wait().unwrap();
    assert!(live.wait().unwrap().success());
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!(study.give_back(1).unwrap(), [0]);
    assert_eq!(study.give_back(1).unwrap(), [0; 0]);
    work(url, 20, Duration::ZERO);
    let trials = study.trials().unwrap();
    let complete: Vec<_> = trials.iter().filter(|trial| trial.state == TrialState::Complete).collect();
    assert_eq!((complete.len(), trials.len()), (20, 21));
    assert_eq!(trials[0].state, TrialState::Fail);
    assert!(complete.iter().any(|trial| trial.params == trials[0].params));
    let numbers: Vec<u64> = trials.iter().map(|trial| trial.number).collect();
    assert_eq!(numbers, (0..21).collect::<Vec<_>>());
}

/// Processes that claim as fast as they can: no trial is lost, none is done twice, no number is given twice.
pub(crate) fn workers_never_share_a_trial(url: &str) {
    drop(open(url));
    let workers: Vec<Child> = (0..4).map(|_| spawn(url, 0)).collect();
    for mut worker in workers {
        assert!(worker.wait().unwrap().success());
    }
    let trials = open(url).trials().unwrap();
    assert!(trials.iter().all(|trial| trial.state == TrialState::Complete));
    let numbers: Vec<u64> = trials.iter().map(|trial| trial.number).collect();
    assert_eq!(numbers, (0..20).collect::<Vec<_>>());
}

/// Three trials reach the first rung. The best goes on; what is worse stops, and a worker that comes later sees all values.
pub(crate) fn weak_trials_stop_at_a_rung(url: &str) {
    let (space, asha) = (space(), Asha::fractions(9, 3).unwrap());
    let random = RandomSampler { seed: 1 };
    let mut ended = Vec::new();
    for values in [[0.5, 0.6], [0.4, 0.9], [0.7, 0.2]] {
        let mut study = open(url);
        let claim = study.claim(&space, 3, |_, number| random.sample(&space, number)).unwrap().unwrap();
        let steps = asha.rungs().iter().zip(values);
        let stopped = steps.map(|(step, value)| (*step, study.prune(&claim, *step, value, &asha).unwrap()));
        ended.push(stopped.take_while(|(_, pruned)| !pruned).map(|(step, _)| step).collect::<Vec<_>>());
    }
    assert_eq!(ended, [vec![1, 3], vec![], vec![1]]);
    let trials = open(url).trials().unwrap();
    assert_eq!(trials[2].intermediate.iter().collect::<Vec<_>>(), [(&1, &0.7), (&3, &0.2)]);
}

/// Optuna reads every field, takes no live worker for dead, prunes against our rungs, adds trials of its own, and what it added is read
/// here. `PYTHON` names the interpreter, which needs `modules`.
pub(crate) fn optuna_opens_the_study(url: &str, modules: &str) {
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let found = Command::new(&python).args(["-c", &format!("import {modules}")]).output();
    if !found.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: {python} cannot import {modules}");
        return;
    }
    work(url, 3, Duration::ZERO);
    let mut study = open(url);
    let space = space();
    let sample = |number| RandomSampler { seed: 1 }.sample(&space, number);
    let running = study.claim(&space, 4, |_, number| sample(number)).unwrap().unwrap();
    let asha = Asha::new(3, vec![1, 3, 9]).unwrap();
    assert!(!study.prune(&running, 1, 0.5, &asha).unwrap());
    let output = Command::new(&python).args(["-c", OPTUNA]).arg(url).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    study.finish(&running, TrialState::Pruned, None).unwrap();
    assert_eq!(study.attributes("steps").unwrap(), (0..3).map(|number| (number, json!(1))).collect());
    let trials = study.trials().unwrap();
    assert_eq!(trials.len(), 7);
    assert_eq!(trials[5].value, trials[5].params.get("rank").copied());
    assert!(trials[5].intermediate[&1].is_nan());
    assert_eq!(trials[6].state, TrialState::Pruned);
}

const OPTUNA: &str = r#"
import optuna, sys
storage = optuna.storages.RDBStorage(sys.argv[1], heartbeat_interval=60, grace_period=120)
study = optuna.load_study(study_name="demo", storage=storage, pruner=optuna.pruners.SuccessiveHalvingPruner(1, reduction_factor=3))
assert study.direction == optuna.study.StudyDirection.MAXIMIZE
assert "rate" in study.user_attrs["pemlc:space"]
optuna.storages.fail_stale_trials(study)
trials = study.get_trials()
assert [t.number for t in trials] == [0, 1, 2, 3]
assert trials[3].state == optuna.trial.TrialState.RUNNING and trials[3].system_attrs == {"completed_rung_0": 0.5}
for t in trials[:3]:
    assert t.state == optuna.trial.TrialState.COMPLETE and t.value == t.params["rank"] and t.duration is not None
    assert t.intermediate_values == {1: t.value} and t.user_attrs == {"steps": 1}
    assert t.params["sharing"] in ("shared", "per_task") and 1e-5 <= t.params["rate"] <= 1e-2
def objective(trial):
    trial.suggest_float("rate", 1e-5, 1e-2, log=True)
    trial.suggest_categorical("sharing", ["shared", "per_task"])
    trial.report(float("nan"), 1)
    return trial.suggest_int("rank", 4, 64, step=4)
def weak(trial):
    trial.report(0.4, 1)
    assert trial.should_prune()
    raise optuna.TrialPruned()
study.optimize(objective, n_trials=2)
study.optimize(weak, n_trials=1)
assert study.get_trials()[6].system_attrs == {"completed_rung_0": 0.4}
"#;
