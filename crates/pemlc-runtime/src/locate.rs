//! Where the ONNX Runtime library is.

use crate::RuntimeError;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The version of ONNX Runtime that this build is tested with.
pub const ORT_VERSION: &str = "1.32.0";

/// The library's file name inside the PyPI package and in the cache.
pub const ORT_LIBRARY: &str = "libonnxruntime.so.1.32.0";

/// The folder for what is fetched once: `$PEMLC_CACHE`, else `$XDG_CACHE_HOME/pemlc`, else `~/.cache/pemlc`; `None` without a home.
pub fn cache_dir() -> Option<PathBuf> {
    cache_dir_from(&|name| std::env::var_os(name))
}

/// The ONNX Runtime library: `$PEMLC_ORT_DYLIB`, else `$ORT_DYLIB_PATH`, else `onnxruntime/VERSION/` in the cache folder, else beside
/// the executable.
///
/// # Errors
/// When it is in none of these places, or a variable names a file that does not exist. The message lists them and says how to get it.
pub fn locate_ort() -> Result<PathBuf, RuntimeError> {
    let executable = std::env::current_exe().ok();
    locate(&|name| std::env::var_os(name), executable.as_deref())
}

type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

fn cache_dir_from(environment: Environment<'_>) -> Option<PathBuf> {
    let path = |name: &str| environment(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    path("PEMLC_CACHE")
        .or_else(|| path("XDG_CACHE_HOME").map(|folder| folder.join("pemlc")))
        .or_else(|| path("HOME").map(|folder| folder.join(".cache").join("pemlc")))
}

fn locate(environment: Environment<'_>, executable: Option<&Path>) -> Result<PathBuf, RuntimeError> {
    let mut looked = Vec::new();
    for variable in ["PEMLC_ORT_DYLIB", "ORT_DYLIB_PATH"] {
        match environment(variable).filter(|value| !value.is_empty()).map(PathBuf::from) {
            None => looked.push(format!("${variable} (not set)")),
            Some(path) if path.is_file() => return Ok(path),
            // A wish that cannot be met is an error, not a reason to take another library.
            Some(path) => {
                let message = format!("no such file (named by ${variable})");
                return Err(RuntimeError::OrtLibrary { path, message });
            }
        }
    }
    let cached = cache_dir_from(environment).map(|cache| cache.join("onnxruntime").join(ORT_VERSION));
    let beside = executable.and_then(Path::parent).map(Path::to_owned);
    for folder in [cached, beside].into_iter().flatten() {
        let path = folder.join(ORT_LIBRARY);
        if path.is_file() {
            return Ok(path);
        }
        looked.push(path.display().to_string());
    }
    Err(RuntimeError::OrtNotFound { looked })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_library_that_is_nowhere_lists_the_places_and_the_command() {
        let environment = |name: &str| (name == "HOME").then(|| OsString::from("/users/someone"));
        let error = locate(&environment, Some(Path::new("/opt/pemlc/pemlc"))).err().map(|error| error.to_string());
        let expected = "the ONNX Runtime library was not found; looked at:\n  \
             $PEMLC_ORT_DYLIB (not set)\n  \
             $ORT_DYLIB_PATH (not set)\n  \
             /users/someone/.cache/pemlc/onnxruntime/1.32.0/libonnxruntime.so.1.32.0\n  \
             /opt/pemlc/libonnxruntime.so.1.32.0\n\
             Get it with `cargo xtask setup`, or take onnxruntime/capi/libonnxruntime.so.1.32.0 out of the PyPI package \
             onnxruntime==1.32.0 and set PEMLC_ORT_DYLIB to its path";
        assert_eq!(error.as_deref(), Some(expected));
    }

    #[test]
    fn the_variable_wins_and_must_exist() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let cached = folder.path().join("onnxruntime").join(ORT_VERSION).join(ORT_LIBRARY);
        fs::create_dir_all(cached.parent().ok_or("no parent")?)?;
        fs::write(&cached, b"library")?;
        let other = folder.path().join("other.so");
        let environment = |name: &str| match name {
            "PEMLC_CACHE" => Some(folder.path().as_os_str().to_owned()),
            "PEMLC_ORT_DYLIB" => other.exists().then(|| other.as_os_str().to_owned()),
            _ => None,
        };
        assert_eq!(locate(&environment, None)?, cached);
        fs::write(&other, b"library")?;
        assert_eq!(locate(&environment, None)?, other);

        let missing = |name: &str| (name == "PEMLC_ORT_DYLIB").then(|| OsString::from("/nowhere/ort.so"));
        let error = locate(&missing, None).err().map(|error| error.to_string());
        let expected = "ONNX Runtime library /nowhere/ort.so: no such file (named by $PEMLC_ORT_DYLIB)";
        assert_eq!(error.as_deref(), Some(expected));
        Ok(())
    }
}
