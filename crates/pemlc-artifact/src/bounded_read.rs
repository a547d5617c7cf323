//! Files read whole, after a look at their size: a device, a pipe or a file of senseless size is an error, not memory.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Largest configuration that is read (`config.json`, `adapter_config.json`), in bytes: it is parsed into a tree, which takes tens of
/// times its size. Published ones stay below a hundred kilobytes.
pub const CONFIGURATION: u64 = 4 << 20;
/// Largest manifest or index of weight files, in bytes.
pub const MANIFEST: u64 = 64 << 20;
/// Largest text that is carried along as it is, or that only a tokenizer parses, in bytes. Tokenizers reach tens of megabytes.
pub const TEXT: u64 = 256 << 20;
/// Largest file of tensors that is read whole (adapters, probes), in bytes.
pub const TENSORS: u64 = 16 << 30;

/// The bytes of the regular file `path`, which may have `limit` of them.
pub fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    // Before it is opened: to open a pipe is to wait for its other end.
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let too_large = |found: u64| {
        let reason = format!("{found} bytes, at most {limit} expected");
        Err(io::Error::new(io::ErrorKind::InvalidData, reason))
    };
    if metadata.len() > limit {
        return too_large(metadata.len());
    }
    let mut bytes = Vec::new();
    bytes
        .try_reserve_exact(usize::try_from(metadata.len()).unwrap_or(usize::MAX))
        .map_err(|_| io::ErrorKind::OutOfMemory)?;
    // It may have grown since.
    File::open(path)?.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit { too_large(bytes.len() as u64) } else { Ok(bytes) }
}

/// As [`read()`], of UTF-8.
pub fn read_text(path: &Path, limit: u64) -> io::Result<String> {
    String::from_utf8(read(path, limit)?).map_err(|error| {
        let reason = format!("not UTF-8 from byte {} on", error.utf8_error().valid_up_to());
        io::Error::new(io::ErrorKind::InvalidData, reason)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_large_or_no_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text");
        std::fs::write(&path, b"caf\xc3\xa9 \xff").unwrap();
        assert_eq!(read(&path, 7).unwrap().len(), 7);
        let error = |path: &Path, limit| read_text(path, limit).unwrap_err().to_string();
        assert_eq!(error(&path, 6), "7 bytes, at most 6 expected");
        assert_eq!(error(&path, 7), "not UTF-8 from byte 6 on");
        assert_eq!(error(folder.path(), 7), "not a regular file");
        #[cfg(unix)]
        assert_eq!(error(Path::new("/dev/zero"), u64::MAX), "not a regular file");
    }
}
