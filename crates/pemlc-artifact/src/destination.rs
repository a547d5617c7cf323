//! Whether a directory may be written, or replaced: before any work, and so that nothing is lost that this program did not write.

use crate::atomic::tidy;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Why a directory must not be written.
#[derive(Debug, thiserror::Error)]
pub enum DestinationError {
    /// It holds something, and is not to be replaced.
    #[error("{0} exists and is not empty: choose another output directory, or replace it with --force")]
    NotEmpty(PathBuf),
    /// It is to be replaced, and is nothing that was written by the command.
    #[error(
        "{path} holds no {manifest}, so it is nothing that --force may delete: choose another output directory, or remove it by hand"
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// The file that would say so.
        manifest: &'static str,
    },
    /// Replacing it would delete what is read.
    #[error("{path} holds {input}, which is an input: choose another output directory")]
    HoldsInput {
        /// The directory.
        path: PathBuf,
        /// The input in it.
        input: PathBuf,
    },
    /// It cannot be looked into.
    #[error("{path}: {source}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
}

/// Fails unless `destination` is free: absent or empty, or, with `replace`, a directory with the file `manifest` and none of `inputs` in it.
///
/// A process that was killed while it replaced the directory may have left it under another name: it is put back first.
pub fn check_destination(
    destination: &Path,
    replace: bool,
    manifest: &'static str,
    inputs: &[&Path],
) -> Result<(), DestinationError> {
    let path = || destination.to_owned();
    let io_error = |source| DestinationError::Io { path: path(), source };
    tidy(destination).map_err(io_error)?;
    let occupied = match fs::read_dir(destination) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(io_error(error)),
    };
    if !occupied {
        return Ok(());
    }
    if !replace {
        return Err(DestinationError::NotEmpty(path()));
    }
    if !destination.join(manifest).is_file() {
        return Err(DestinationError::Foreign { path: path(), manifest });
    }
    let whole = destination.canonicalize().map_err(io_error)?;
    // An input that is not there is told where it is read.
    let inside = |input: &&&Path| input.canonicalize().is_ok_and(|input| input.starts_with(&whole));
    match inputs.iter().find(inside) {
        Some(input) => Err(DestinationError::HoldsInput { path: path(), input: input.to_path_buf() }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_written_before_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        };
        for name in ["runs/one/run.json", "runs/two/run.json", "artifact/pemlc.json", "artifact/inputs/a/run.json"] {
            file(name);
        }
        fs::create_dir(folder.path().join("empty")).unwrap();
        let check = |name: &str, replace: bool, inputs: &[&str]| {
            let inputs: Vec<PathBuf> = inputs.iter().map(|input| folder.path().join(input)).collect();
            let inputs: Vec<&Path> = inputs.iter().map(PathBuf::as_path).collect();
            let checked = check_destination(&folder.path().join(name), replace, "pemlc.json", &inputs);
            checked.map_err(|error| error.to_string().replace(&folder.path().display().to_string(), ""))
        };
        assert_eq!(check("absent", false, &[]), Ok(()));
        assert_eq!(check("empty", false, &[]), Ok(()));
        assert_eq!(check("artifact", true, &["runs/one", "nowhere"]), Ok(()));
        assert_eq!(
            check("artifact", false, &[]).unwrap_err(),
            "/artifact exists and is not empty: choose another output directory, or replace it with --force"
        );
        let foreign = "holds no pemlc.json, so it is nothing that --force may delete: choose another output directory, or remove it by hand";
        assert_eq!(check("runs/one", true, &["runs/one"]).unwrap_err(), format!("/runs/one {foreign}"));
        assert_eq!(check("runs", true, &["runs/one"]).unwrap_err(), format!("/runs {foreign}"));
        assert_eq!(
            check("artifact", true, &["runs/one", "artifact/inputs/a"]).unwrap_err(),
            "/artifact holds /artifact/inputs/a, which is an input: choose another output directory"
        );
    }
}
