//! A trial as a sampler and a pruner see it.

use std::collections::BTreeMap;

/// State of a trial; the names are Optuna's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrialState {
    /// Parameters are chosen; no worker has it yet.
    Waiting,
    /// A worker has it.
    Running,
    /// It has a value.
    Complete,
    /// Stopped early by the pruner.
    Pruned,
    /// Ended without a value.
    Fail,
}

impl TrialState {
    /// Name in the `state` column.
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "WAITING",
            Self::Running => "RUNNING",
            Self::Complete => "COMPLETE",
            Self::Pruned => "PRUNED",
            Self::Fail => "FAIL",
        }
    }

    /// The state that has `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Waiting, Self::Running, Self::Complete, Self::Pruned, Self::Fail]
            .into_iter()
            .find(|state| state.name() == name)
    }
}

/// One trial.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// Counted from 0 within the study.
    pub number: u64,
    /// How far it is.
    pub state: TrialState,
    /// Internal representation: the number itself, or the index of a choice.
    pub params: BTreeMap<String, f64>,
    /// Objective, larger is better; present exactly when complete.
    pub value: Option<f64>,
    /// Value by step.
    pub intermediate: BTreeMap<u64, f64>,
}

/// The trial of the largest value: of equal ones the first of `trials`, as Optuna has it. NaN is never the best.
pub fn best_trial(trials: &[Trial]) -> Option<&Trial> {
    let valued = trials.iter().filter_map(|trial| Some((trial, trial.value.filter(|value| !value.is_nan())?)));
    let best = valued.reduce(|best, next| if next.1 > best.1 { next } else { best });
    best.map(|(trial, _)| trial)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_the_largest_values_is_the_best() {
        let best = |values: &[Option<f64>]| {
            let trial = |(&value, number): (&Option<f64>, u64)| Trial {
                number,
                state: if value.is_some() { TrialState::Complete } else { TrialState::Pruned },
                params: BTreeMap::new(),
                value,
                intermediate: BTreeMap::new(),
            };
            let trials: Vec<Trial> = values.iter().zip(0..).map(trial).collect();
            best_trial(&trials).map(|trial| trial.number)
        };
        assert_eq!(best(&[None, Some(f64::NAN), Some(0.5), Some(0.9), Some(0.9), Some(f64::NAN), None]), Some(3));
        assert_eq!(best(&[None, Some(f64::NAN)]), None);
        assert_eq!(best(&[]), None);
    }
}
