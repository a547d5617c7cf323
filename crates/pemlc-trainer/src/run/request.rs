//! What a run is asked to do, and how it ended.

use crate::config::RunConfig;
use crate::device::DeviceChoice;
use pemlc_artifact::run::{Costs, RunManifest};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// A run to train.
#[derive(Debug, Clone)]
pub struct TrainRequest {
    /// The run file.
    pub config: RunConfig,
    /// The run file's folder, which its paths are relative to.
    pub config_dir: PathBuf,
    /// The run directory.
    pub output: PathBuf,
    /// Where to compute.
    pub device: DeviceChoice,
    /// Whether to go on from the newest checkpoint of `output`.
    pub resume: bool,
    /// Steps before the last one after which the validation examples are scored and `Observer::scored` is asked whether to go on. Scoring
    /// changes nothing of what is trained.
    pub score_at: Vec<u64>,
    /// Set to true from elsewhere, it makes training save a checkpoint after the current step and return.
    pub stop: Arc<AtomicBool>,
}

/// How training ended.
#[derive(Debug, Clone, PartialEq)]
pub enum TrainOutcome {
    /// `run.json` is written.
    Finished(Box<RunManifest>),
    /// Stopped as asked; `--resume` goes on.
    Interrupted {
        /// The newest checkpoint; `None` before the first step, when there is nothing to resume.
        checkpoint: Option<PathBuf>,
    },
    /// The observer stopped it after a score.
    Stopped {
        /// Steps done.
        step: u64,
        /// What they cost.
        costs: Box<Costs>,
    },
}
