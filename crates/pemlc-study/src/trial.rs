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
