//! The one ONNX Runtime environment of the process.

use crate::{OpenOptions, RuntimeError, locate_ort};
use ort::environment::Environment;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

/// The library can be loaded once a process, and its environment created once, even after it was dropped.
static ENVIRONMENT: OnceLock<(PathBuf, Environment)> = OnceLock::new();
static LOADING: Mutex<()> = Mutex::new(());

/// The environment, created on the first call.
pub(crate) fn environment(options: &OpenOptions) -> Result<&'static Environment, RuntimeError> {
    // Two threads must not both try to create it: the loser would get an error about the winner's environment.
    let _guard = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
    let wanted = match &options.ort_library {
        Some(path) => path.clone(),
        None => match ENVIRONMENT.get() {
            Some((_, environment)) => return Ok(environment),
            None => locate_ort()?,
        },
    };
    let failed = |message: String| RuntimeError::OrtLibrary { path: wanted.clone(), message };
    // ort tries a relative path beside the executable first.
    let library = wanted.canonicalize().map_err(|error| failed(error.to_string()))?;
    if let Some((loaded, environment)) = ENVIRONMENT.get() {
        return if *loaded == library { Ok(environment) } else { Err(failed(already(loaded))) };
    }
    let environment = ort::init_from(&library)
        .map_err(|error| failed(error.to_string()))?
        .with_name("pemlc")
        .with_telemetry(false)
        .build()
        .map_err(|error| failed(error.to_string()))?;
    // Errors come back as values; ONNX Runtime would print them as well.
    environment.set_log_level(ort::logging::LogLevel::Fatal);
    Ok(&ENVIRONMENT.get_or_init(|| (library, environment)).1)
}

/// Version of the loaded library: what its file name says (`libonnxruntime.so.1.32.0`), else its build information.
pub(crate) fn version() -> String {
    let Some((library, _)) = ENVIRONMENT.get() else { return "not loaded".to_owned() };
    let name = library.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    match name.split_once(".so.") {
        Some((_, version)) if version.contains('.') => version.to_owned(),
        _ => ort::info().to_owned(),
    }
}

fn already(loaded: &Path) -> String {
    format!("{} is loaded already, and a process can load one library only", loaded.display())
}
