//! Checkpoints of trials are kept while they can still win, or tell what went wrong.

use pemlc_artifact::run::RunPaths;
use pemlc_study::{Trial, TrialState, best_trial};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

/// Removes the checkpoints of all ended trials but the best, and nothing else of their run directories. `runs` are the directories that
/// trials of this study have begun to write: a folder of another search is none of them, whatever its name. `failures` are the trials whose
/// training failed: the last good checkpoint is what there is to look into.
pub(super) fn sweep(trials: &[Trial], runs: &BTreeMap<u64, Value>, failures: &BTreeMap<u64, Value>) {
    let best = best_trial(trials).map(|trial| trial.number);
    let ended = |trial: &&Trial| !matches!(trial.state, TrialState::Waiting | TrialState::Running);
    let kept = |trial: &&Trial| Some(trial.number) == best || failures.contains_key(&trial.number);
    for trial in trials.iter().filter(ended).filter(|trial| !kept(trial)) {
        let Some(run) = runs.get(&trial.number).and_then(Value::as_str) else { continue };
        let checkpoints = RunPaths::new(Path::new(run)).checkpoints();
        // Another worker may be sweeping too, or the directory may be on another machine.
        if let Err(error) = std::fs::remove_dir_all(&checkpoints)
            && error.kind() != ErrorKind::NotFound
        {
            eprintln!("warning: {} could not be removed: {error}", checkpoints.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn running_trials_failed_ones_and_the_best_keep_theirs() {
        let folder = tempfile::tempdir().expect("a folder");
        let states = [
            (TrialState::Complete, Some(0.5)),
            (TrialState::Complete, Some(0.9)),
            (TrialState::Complete, Some(0.9)),
            (TrialState::Pruned, None),
            (TrialState::Fail, None),
            (TrialState::Running, None),
            // It found its directory taken, and has none.
            (TrialState::Fail, None),
            // Its loss was not finite.
            (TrialState::Fail, None),
        ];
        let trials = states.iter().zip(0..).map(|(&(state, value), number)| Trial {
            number,
            state,
            params: BTreeMap::new(),
            value,
            intermediate: BTreeMap::new(),
        });
        let trials: Vec<Trial> = trials.collect();
        let run = |number: u64| folder.path().join(number.to_string());
        for number in 0..8 {
            std::fs::create_dir_all(run(number).join("checkpoints/step-000001")).expect("a folder");
            std::fs::write(run(number).join("run.json"), "{}").expect("a file");
        }
        let runs = [0, 1, 2, 3, 4, 5, 7].map(|number| (number, run(number).display().to_string().into())).into();
        let failures = [(7, "the loss is NaN".into())].into();
        sweep(&trials, &runs, &failures);
        sweep(&trials, &runs, &failures);
        let kept: Vec<u64> = (0..8).filter(|number| run(*number).join("checkpoints").exists()).collect();
        assert_eq!(kept, [1, 5, 6, 7]);
        assert!((0..8).all(|number| run(number).join("run.json").exists()));
    }
}
