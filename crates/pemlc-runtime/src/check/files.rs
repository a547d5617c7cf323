//! The artifact's files: are they those that the manifest describes, and what did the check find?

use crate::{RuntimeError, RuntimeKind};
use pemlc_artifact::ManifestError;
use pemlc_artifact::artifact::{ArtifactManifest, ArtifactPaths, Validation};
use pemlc_artifact::hash;
use pemlc_artifact::tensors::TensorError;
use std::path::{Path, PathBuf};

/// Why an artifact cannot be checked.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// A runtime was asked for that cannot run the artifact.
    #[error(
        "the artifact has number types or operators ({dtype}, opset {opset}) that {kind} does not know; it is for {known}"
    )]
    NotFor {
        /// What was asked for.
        kind: RuntimeKind,
        /// The artifact's number type.
        dtype: String,
        /// Opset of its operators.
        opset: i64,
        /// What it is for.
        known: String,
    },
    /// `pemlc.json` cannot be read or written.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// `pemlc.json` does not vouch for a file that the check needs.
    #[error("{}: `files` does not list {file}: export the artifact again", path.display())]
    Unlisted {
        /// The manifest.
        path: PathBuf,
        /// The file.
        file: String,
    },
    /// A file is not the one that was exported.
    #[error("{0}: this is not what was exported, export it again")]
    Changed(String),
    /// The probes cannot be read.
    #[error(transparent)]
    Tensors(#[from] TensorError),
    /// The probes are not this artifact's.
    #[error("{}: {message}", path.display())]
    Probes {
        /// The probes' file.
        path: PathBuf,
        /// What was found, what was expected.
        message: String,
    },
    /// A runtime is not available.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// Fails unless every file that the manifest lists has its size and hash, and those that the check reads are among them.
pub(crate) fn verify(paths: &ArtifactPaths, manifest: &ArtifactManifest) -> Result<(), CheckError> {
    let needed = [(paths.graph(), true), (paths.graph_data(), false), (paths.probes(), true)];
    for (path, required) in needed {
        let name = path.strip_prefix(paths.root()).unwrap_or(&path).to_string_lossy().into_owned();
        if (required || path.exists()) && !manifest.files.iter().any(|file| file.path == name) {
            return Err(CheckError::Unlisted { path: paths.manifest(), file: name });
        }
    }
    match hash::first_difference(paths.root(), &manifest.files) {
        Some(difference) => Err(CheckError::Changed(difference)),
        None => Ok(()),
    }
}

/// Writes `validation` into the `pemlc.json` of the artifact at `dir`, atomically. `validated` becomes true only when there is at
/// least one runtime and every one passed.
///
/// # Errors
/// When the manifest cannot be read or written.
pub fn record(dir: &Path, validation: &Validation) -> Result<(), CheckError> {
    let mut manifest = ArtifactManifest::read(dir)?;
    manifest.validated = !validation.runtimes.is_empty() && validation.runtimes.iter().all(|runtime| runtime.passed);
    manifest.validation = Some(validation.clone());
    manifest.write(dir)?;
    Ok(())
}
