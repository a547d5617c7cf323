//! Read-only files in memory, without copying them.

use super::CheckpointError;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// One mapped file.
#[derive(Debug)]
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

    /// Gives back the memory that reading `range` took; reading it again fetches it again.
    pub(super) fn release(&self, range: Range<usize>) {
        if let Some(map) = &self.map
            && range.end <= map.len()
            && range.start < range.end
        {
            // SAFETY: the map is of a file and never written to, so pages that are dropped come back with the same bytes. It is
            // a hint: an error changes nothing but memory.
            #[cfg(unix)]
            let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len()) };
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }
}
