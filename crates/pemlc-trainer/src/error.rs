//! Why training fails.

use crate::config::ConfigError;
use crate::device::DeviceError;
use pemlc_artifact::checkpoint::CheckpointError;
use pemlc_artifact::manifest::ManifestError;
use pemlc_artifact::peft::PeftError;
use pemlc_artifact::tensors::TensorError;
use pemlc_data::{DataError, ExpandError, TokenizerError};
use std::path::{Path, PathBuf};

/// Why training fails.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The run file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A path in the run file.
    #[error("{key}: {source}")]
    Path {
        /// Key of the run file.
        key: &'static str,
        /// What is wrong.
        source: ExpandError,
    },
    /// A setting that the base model cannot have.
    #[error("`{key}` is {value}, expected {expected}")]
    Setting {
        /// Key of the run file.
        key: &'static str,
        /// What it is.
        value: String,
        /// What it should be.
        expected: String,
    },
    /// The device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The base model.
    #[error(transparent)]
    Model(#[from] CheckpointError),
    /// The tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The tasks' data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A file that cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A tensor file.
    #[error(transparent)]
    Tensors(#[from] TensorError),
    /// A manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// An adapter folder.
    #[error(transparent)]
    Adapter(#[from] PeftError),
    /// The tokenizer knows tokens that the model does not.
    #[error(
        "{example}: token {token} is outside the model's vocabulary of {vocabulary}: tokenizer and model do not belong together"
    )]
    Vocabulary {
        /// Example.
        example: String,
        /// The token.
        token: u32,
        /// Rows of the embedding table.
        vocabulary: usize,
    },
    /// The run directory holds a run.
    #[error("{0} already holds a run: continue it with --resume, choose another directory with --output, or remove it")]
    Occupied(PathBuf),
    /// There is no checkpoint to go on from.
    #[error("{0} holds no checkpoint to resume from: run without --resume to start")]
    NothingToResume(PathBuf),
    /// The run is finished.
    #[error(
        "{0} holds a finished run: there is nothing to resume. To train anew choose another directory with --output"
    )]
    AlreadyFinished(PathBuf),
    /// The run file has changed since the checkpoint was written.
    #[error(
        "{checkpoint} was written under another configuration, so it cannot be resumed:\n{difference}\nrestore these settings, or \
         start a new run in another directory with --output"
    )]
    Changed {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// Keys with both values, one a line.
        difference: String,
    },
    /// A checkpoint that does not hold what it should.
    #[error("{path}: {reason}; remove this checkpoint to resume from the one before it")]
    BadCheckpoint {
        /// The checkpoint's folder or file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The loss or a gradient is infinite or not a number.
    #[error(
        "step {step}: the {what} is {value}; examples of this step: {}. {} Lower the learning rates, or look at these examples",
        examples.join(", "), last_good(checkpoint.as_deref())
    )]
    NotFinite {
        /// The step, from 1.
        step: u64,
        /// `loss` or `gradient norm`.
        what: &'static str,
        /// Its value.
        value: f64,
        /// Ids of the step's examples.
        examples: Vec<String>,
        /// The newest checkpoint.
        checkpoint: Option<PathBuf>,
    },
    /// The text of the warm start has no tokens.
    #[error(
        "`prefix.text` has no tokens, but the prefix starts warm from it: give it a text, or set prefix.init = \"cold\""
    )]
    NoWarmText,
    /// The text that a soft prompt starts from has no tokens.
    #[error(
        "`prompt.text` has no tokens, but the prompt starts from it: give it a text, or set prompt.init = \"vocabulary\""
    )]
    NoPromptText,
}

fn last_good(checkpoint: Option<&Path>) -> String {
    match checkpoint {
        Some(path) => format!("The last checkpoint is {}.", path.display()),
        None => "There is no checkpoint yet.".to_owned(),
    }
}

impl TrainError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}
