//! `metrics.jsonl`: one JSON object a line, for a step or for a score.

use crate::error::TrainError;
use pemlc_data::Score;
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The open file.
#[derive(Debug)]
pub(crate) struct Metrics {
    path: PathBuf,
    file: File,
}

/// One optimiser step.
#[derive(Debug, Serialize)]
pub(crate) struct StepLine {
    /// Steps done, this one included.
    pub(crate) step: u64,
    pub(crate) phase: &'static str,
    pub(crate) loss: f64,
    pub(crate) gradient_norm: f64,
    pub(crate) learning_rate: f64,
    pub(crate) prefix_learning_rate: f64,
    pub(crate) tokens: u64,
    pub(crate) seconds: f64,
}

/// What the search leans to.
#[derive(Debug, Serialize)]
pub(crate) struct MixtureLine {
    /// Steps done.
    pub(crate) step: u64,
    pub(crate) mixture: serde_json::Value,
}

/// A task's score after training, at the end of a stage, or of the base model.
#[derive(Debug, Serialize)]
pub(crate) struct ScoreLine<'a> {
    pub(crate) task: &'a str,
    pub(crate) metric: &'a str,
    pub(crate) base: bool,
    pub(crate) stage: &'static str,
    #[serde(flatten)]
    pub(crate) score: Score,
}

impl Metrics {
    /// Opens `path` and cuts it after `kept` bytes: lines behind the checkpoint that is resumed will be written again.
    pub(crate) fn open(path: &Path, kept: u64) -> Result<Self, TrainError> {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
            .map_err(TrainError::io(path))?;
        let length = file.metadata().map_err(TrainError::io(path))?.len().min(kept);
        file.set_len(length).map_err(TrainError::io(path))?;
        file.seek(SeekFrom::End(0)).map_err(TrainError::io(path))?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Appends a line.
    pub(crate) fn line(&mut self, line: &impl Serialize) -> Result<(), TrainError> {
        let mut text = serde_json::to_vec(line).map_err(|error| TrainError::io(&self.path)(error.into()))?;
        text.push(b'\n');
        self.file.write_all(&text).map_err(TrainError::io(&self.path))
    }

    /// Bytes so far, safely on disk.
    pub(crate) fn sync(&mut self) -> Result<u64, TrainError> {
        self.file.sync_data().map_err(TrainError::io(&self.path))?;
        self.file.stream_position().map_err(TrainError::io(&self.path))
    }
}
