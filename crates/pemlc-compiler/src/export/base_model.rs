//! The base model of a run, wherever it is now.

use super::ExportError;
use pemlc_artifact::Checkpoint;
use pemlc_artifact::hash::FileHash;
use pemlc_artifact::run::BaseModel;
use std::path::{Path, PathBuf};

/// Opens the base model and compares it, file by file, with what the run recorded.
pub(super) fn open_base(recorded: &BaseModel, given: Option<&Path>) -> Result<Checkpoint, ExportError> {
    let path = given.map_or_else(|| PathBuf::from(&recorded.path), Path::to_owned);
    let checkpoint = Checkpoint::open(&path)?;
    let differs = |reason: String| ExportError::OtherBase { path: path.clone(), reason };
    if checkpoint.config() != &recorded.config {
        return Err(differs("its configuration is another".to_owned()));
    }
    let found = checkpoint.file_hashes()?;
    for expected in &recorded.files {
        // A model may move or be renamed as a whole; a single file has the name of its model.
        let same_name = |file: &&FileHash| file.path == expected.path || recorded.files.len() == 1;
        match found.iter().find(same_name) {
            Some(file) if file.sha256 == expected.sha256 => {}
            Some(file) => {
                let (path, sha256, expected) = (&file.path, &file.sha256, &expected.sha256);
                return Err(differs(format!("{path} has SHA-256 {sha256}, the run used {expected}")));
            }
            None => return Err(differs(format!("{} is missing", expected.path))),
        }
    }
    Ok(checkpoint)
}
