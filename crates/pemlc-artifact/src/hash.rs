//! SHA-256 of files, for manifests.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Files hashed at a time: beyond this a disk is the limit.
const MAX_HASHERS: usize = 8;

/// One file, as a manifest records it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FileHash {
    /// Path relative to the directory that the manifest describes, with `/`.
    pub path: String,
    /// Lower-case hexadecimal SHA-256.
    pub sha256: String,
    /// Size in bytes.
    pub bytes: u64,
}

/// Hashes `file` in pieces; `name` is the path to record.
pub fn hash_file(file: &Path, name: &str) -> io::Result<FileHash> {
    if !fs::metadata(file)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut reader = File::open(file)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0u8; 1 << 20];
    let mut bytes = 0u64;
    loop {
        let read = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&buffer[..read]);
        bytes += read as u64;
    }
    Ok(FileHash { path: name.to_owned(), sha256: hexadecimal(&hasher.finalize()), bytes })
}

/// Hashes files, each with the path to record, several at a time. Results are in the order of `files`.
pub fn hash_files(files: &[(PathBuf, String)]) -> Vec<io::Result<FileHash>> {
    let results: Vec<OnceLock<io::Result<FileHash>>> = files.iter().map(|_| OnceLock::new()).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(index) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|index| *index < files.len()) {
            let (file, name) = &files[index];
            // Every index is handed out once, so that the place is empty.
            let _ = results[index].set(hash_file(file, name));
        }
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(files.len()).min(MAX_HASHERS);
    std::thread::scope(|scope| {
        (1..workers).for_each(|_| drop(scope.spawn(work)));
        work();
    });
    let missed = || Err(io::Error::other("the thread that hashes it ended early"));
    results.into_iter().map(|result| result.into_inner().unwrap_or_else(missed)).collect()
}

/// Lower-case hexadecimal SHA-256 of `bytes`.
pub fn hash_bytes(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

/// Hashes every file under `directory`, sorted by path, without those for which `skip` of the relative path (with `/`)
/// answers true. A skipped directory is not entered. Links are not followed.
pub fn hash_directory(directory: &Path, skip: &dyn Fn(&str) -> bool) -> io::Result<Vec<FileHash>> {
    let mut hashes = Vec::new();
    visit(directory, "", skip, &mut hashes)?;
    hashes.sort_by(|left, right| left.path.cmp(&right.path));
    Ok(hashes)
}

fn visit(directory: &Path, prefix: &str, skip: &dyn Fn(&str) -> bool, hashes: &mut Vec<FileHash>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if skip(&name) {
            continue;
        }
        let kind = entry.file_type()?;
        if kind.is_dir() {
            visit(&entry.path(), &format!("{name}/"), skip, hashes)?;
        } else if kind.is_file() {
            hashes.push(hash_file(&entry.path(), &name)?);
        }
    }
    Ok(())
}

/// The first recorded file that is missing or differs under `directory`, in words; none when all are as recorded.
pub fn first_difference(directory: &Path, recorded: &[FileHash]) -> Option<String> {
    recorded.iter().find_map(|expected| {
        let path = directory.join(&expected.path);
        match hash_file(&path, &expected.path) {
            Err(error) => Some(format!("{}: {error}", path.display())),
            Ok(found) if found != *expected => Some(format!(
                "{}: SHA-256 {} ({} bytes), but {} ({} bytes) is recorded",
                path.display(),
                found.sha256,
                found.bytes,
                expected.sha256,
                expected.bytes
            )),
            Ok(_) => None,
        }
    })
}

fn hexadecimal(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_hashed_together_keep_their_order_and_their_errors() {
        let folder = tempfile::tempdir().unwrap();
        let files: Vec<(PathBuf, String)> =
            (0..20).map(|n| (folder.path().join(n.to_string()), format!("name {n}"))).collect();
        for (n, (path, _)) in files.iter().enumerate().filter(|(n, _)| *n != 7) {
            fs::write(path, vec![n as u8; 1000 * n]).unwrap();
        }
        let hashes = hash_files(&files);
        assert_eq!(hashes.len(), files.len());
        for ((path, name), hash) in files.iter().zip(hashes) {
            match hash {
                Ok(hash) => assert_eq!(hash, hash_file(path, name).unwrap()),
                Err(error) => assert_eq!((name.as_str(), error.kind()), ("name 7", io::ErrorKind::NotFound)),
            }
        }
        assert!(hash_files(&[]).is_empty());
    }

    #[test]
    fn hashes_a_tree_in_path_order_and_finds_what_changed() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("b/c")).unwrap();
        fs::create_dir_all(folder.path().join("checkpoints")).unwrap();
        fs::write(folder.path().join("b/c/abc"), "abc").unwrap();
        fs::write(folder.path().join("a"), "").unwrap();
        fs::write(folder.path().join("checkpoints/1"), "not hashed").unwrap();
        let hashes = hash_directory(folder.path(), &|path| path == "checkpoints").unwrap();
        // The digests of "" and "abc" in FIPS 180-4.
        insta::assert_json_snapshot!(hashes, @r#"
        [
          {
            "path": "a",
            "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "bytes": 0
          },
          {
            "path": "b/c/abc",
            "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            "bytes": 3
          }
        ]
        "#);
        assert_eq!(first_difference(folder.path(), &hashes), None);
        fs::write(folder.path().join("b/c/abc"), "abd").unwrap();
        assert!(first_difference(folder.path(), &hashes).unwrap().contains("b/c/abc"));
    }
}
