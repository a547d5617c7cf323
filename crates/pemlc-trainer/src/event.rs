//! What training tells while it runs.

use pemlc_data::Score;
use std::path::PathBuf;

/// Receives events, in order.
pub trait Observer {
    /// Called from the training thread: return soon.
    fn event(&mut self, event: Event);

    /// Called after each step of `TrainRequest::score_at` with the mean score of all tasks. Whether training goes on.
    fn scored(&mut self, _step: u64, _score: f64) -> Next {
        Next::Continue
    }
}

/// What comes after a score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The next step.
    Continue,
    /// Nothing: the run ends without a manifest.
    Stop,
}

/// Something that happened in a run.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Everything is loaded and checked; the first step comes next.
    Started {
        /// Numbers that the optimiser may change.
        trainable_parameters: u64,
        /// Numbers of the frozen base model.
        base_parameters: u64,
        /// Names of the tasks, in `task_id` order.
        tasks: Vec<String>,
        /// For instance `cpu` or `cuda:0`.
        device: String,
        /// Steps done already, when a checkpoint was resumed.
        resumed_at: Option<u64>,
        /// Optimiser steps of the whole run.
        steps: u64,
    },
    /// A phase begins: `search` (mixed operations), `tune` (after it, or from the start), `retrain` (from fresh weights), `evaluation`.
    Phase {
        /// Name.
        name: &'static str,
        /// What it does, in words.
        detail: String,
    },
    /// The search ended: the cell that it found, in words.
    Architecture(String),
    /// An optimiser step is done.
    Step {
        /// Steps done, this one included.
        step: u64,
        /// Steps of the whole run.
        steps: u64,
        /// Mean nats per answer token.
        loss: f64,
        /// Tokens through forward and backward per second, padding excluded.
        tokens_per_second: f64,
        /// Of LoRA (of the prompt when there is no LoRA).
        learning_rate: f64,
        /// `search`, `tune` or `retrain`.
        phase: &'static str,
    },
    /// A task's validation examples are scored.
    Evaluated {
        /// Name.
        task: String,
        /// The metric's name.
        metric: String,
        /// Its value and standard error.
        score: Score,
        /// `base` for the untouched base model, or the stage of training that ended: `soft`, `discretised`, `tuned`, `retrained`, `trained`.
        stage: &'static str,
    },
    /// A checkpoint is written.
    Checkpoint {
        /// Its folder.
        path: PathBuf,
    },
    /// Something that a user should know and may be right to ignore.
    Warning(String),
    /// `run.json` is written.
    Finished,
}

/// Ignores everything.
impl Observer for () {
    fn event(&mut self, _event: Event) {}
}
