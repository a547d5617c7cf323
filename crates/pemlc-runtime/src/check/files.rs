//! The artifact's files: are they those that the manifest describes, and what did the check find?

use crate::{RuntimeError, RuntimeKind};
use pemlc_artifact::artifact::{ArtifactManifest, ArtifactPaths, Validation};
use pemlc_artifact::hash::{self, FileHash};
use pemlc_artifact::tensors::TensorError;
use pemlc_artifact::{ManifestError, atomic};
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
    /// The model card cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Card {
        /// The model card.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
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
/// least one runtime and every one passed. `card` makes the model card out of the manifest, where the check measured what it shows: it is
/// written anew, and its hash comes into the manifest with the validation, at once.
///
/// # Errors
/// When the manifest cannot be read, or it or the card cannot be written. `validated` is then never true beside files of another hash.
pub fn record(
    dir: &Path,
    validation: &Validation,
    card: Option<fn(&ArtifactManifest) -> String>,
) -> Result<(), CheckError> {
    let old = ArtifactManifest::read(dir)?;
    let mut manifest = ArtifactManifest {
        validated: !validation.runtimes.is_empty() && validation.runtimes.iter().all(|runtime| runtime.passed),
        validation: Some(validation.clone()),
        ..old.clone()
    };
    if let Some(text) = card.map(|card| card(&manifest)) {
        write_card(&ArtifactPaths::new(dir), old, &mut manifest, &text)?;
    }
    manifest.write(dir)?;
    Ok(())
}

/// Writes the model card and puts its hash into `manifest`, unless it is what `old`, the manifest on disk, says already or the artifact
/// has none.
fn write_card(
    paths: &ArtifactPaths,
    old: ArtifactManifest,
    manifest: &mut ArtifactManifest,
    text: &str,
) -> Result<(), CheckError> {
    let path = paths.model_card();
    let name = path.strip_prefix(paths.root()).unwrap_or(&path).to_string_lossy().into_owned();
    let new = FileHash { path: name, sha256: hash::hash_bytes(text.as_bytes()), bytes: text.len() as u64 };
    let Some(card) = manifest.files.iter_mut().find(|file| file.path == new.path && **file != new) else {
        return Ok(());
    };
    *card = new;
    // Were this to end between the card and the manifest, an earlier check would vouch for another card than there is.
    if old.validated {
        ArtifactManifest { validated: false, ..old }.write(paths.root())?;
    }
    atomic::write(&path, text.as_bytes()).map_err(|source| CheckError::Card { path, source })
}
