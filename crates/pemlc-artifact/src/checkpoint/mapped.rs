//! Read-only files in memory, without copying them.

use super::CheckpointError;
use std::fs::File;
use std::path::{Path, PathBuf};

/// One mapped file.
pub(super) struct MappedFile {
    pub(super) path: PathBuf,
    /// None for an empty file, which cannot be mapped.
    map: Option<memmap2::Mmap>,
}

impl MappedFile {
    pub(super) fn open(path: &Path) -> Result<Self, CheckpointError> {
        let io = |source| CheckpointError::io(path, source);
        let file = File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        if !metadata.is_file() {
            return Err(CheckpointError::malformed(path, "not a regular file"));
        }
        let map = if metadata.len() == 0 {
            None
        } else {
            // SAFETY: the map is read-only, and `Checkpoint` asks its callers not to change the files while it is open. Its
            // bytes are only ever read as integers, of which any value is valid.
            Some(unsafe { memmap2::Mmap::map(&file) }.map_err(io)?)
        };
        Ok(Self { path: path.to_path_buf(), map })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }
}
