//! Why a checkpoint cannot be read.

use std::path::{Path, PathBuf};

/// Why a checkpoint cannot be read.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum CheckpointError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path}: {reason}")]
    Malformed { path: PathBuf, reason: String },
    #[error("{path}: {reason}")]
    Unsupported { path: PathBuf, reason: String },
    #[error("{path}: architecture {found:?} is not supported; `llama` and `qwen2` are")]
    Architecture { path: PathBuf, found: String },
    #[error(
        "{path}: tensor `{tensor}` is stored as {found}, which cannot be read; F32, F16, BF16, Q8_0, Q4_0, Q4_1 and Q6_K can: \
         convert the model to one of these"
    )]
    TensorType { path: PathBuf, tensor: String, found: String },
    #[error("{path}: tensor `{tensor}` is missing{}", near_names(near))]
    MissingTensor { path: PathBuf, tensor: String, near: Vec<String> },
    #[error("{path}: tensor `{tensor}` has shape {found:?}, the configuration asks for {expected:?}")]
    Shape { path: PathBuf, tensor: String, found: Vec<usize>, expected: Vec<usize> },
    #[error("{path}: {file} is missing: a Hugging Face model folder holds it")]
    MissingFile { path: PathBuf, file: String },
}

fn near_names(near: &[String]) -> String {
    if near.is_empty() { String::new() } else { format!("; near names: {}", near.join(", ")) }
}

impl CheckpointError {
    pub(super) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_path_buf(), source }
    }

    pub(super) fn malformed(path: &Path, reason: impl Into<String>) -> Self {
        Self::Malformed { path: path.to_path_buf(), reason: reason.into() }
    }

    pub(super) fn unsupported(path: &Path, reason: impl Into<String>) -> Self {
        Self::Unsupported { path: path.to_path_buf(), reason: reason.into() }
    }
}
