//! Why adapters cannot be imported.

use crate::error::TrainError;
use pemlc_artifact::destination::DestinationError;
use pemlc_artifact::peft::PeftError;
use pemlc_data::TemplateError;
use std::path::PathBuf;

/// Why adapters cannot be imported. Nothing is left at the output path.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The base model, the tokenizer, or a file of the run.
    #[error(transparent)]
    Run(#[from] TrainError),
    /// The output path is taken.
    #[error(transparent)]
    Output(#[from] DestinationError),
    /// A folder cannot be read, or does not fit the base model.
    #[error("task `{task}`: {source}")]
    Adapter {
        /// The task.
        task: String,
        /// What is wrong.
        source: PeftError,
    },
    /// Two folders of a task want the same place.
    #[error("task `{task}`: {first} and {second} both hold {what}: a task has one")]
    TwoOfAKind {
        /// The task.
        task: String,
        /// `deltas`, or `a prefix or soft prompt`.
        what: &'static str,
        /// The folder before.
        first: PathBuf,
        /// The folder behind.
        second: PathBuf,
    },
    /// A template does not parse.
    #[error("template of task `{task}`: {source}")]
    Template {
        /// The task.
        task: String,
        /// Why.
        source: TemplateError,
    },
    /// A text to probe with cannot be used.
    #[error("{path}: {reason}")]
    ProbeText {
        /// The file, or `built-in probe texts`.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}
