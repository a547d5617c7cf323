//! JSON manifests with a `schema_version`.

use crate::atomic;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// Name of the task that is the frozen base model itself, as `pemlc export --include-base` adds it. No other task may have it.
pub const BASE_TASK: &str = "__base__";

/// Why a manifest cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ManifestError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path}: {reason}")]
    Malformed { path: PathBuf, reason: String },
    #[error("{path}: schema_version is {found}, but this build of pemlc knows up to {known}: update pemlc")]
    Newer { path: PathBuf, found: u64, known: u32 },
}

/// Reads `path`, whose `schema_version` must be from 1 to `known`.
pub(crate) fn read<T: DeserializeOwned>(path: &Path, known: u32) -> Result<T, ManifestError> {
    let malformed = |reason: String| ManifestError::Malformed { path: path.to_path_buf(), reason };
    let text =
        std::fs::read_to_string(path).map_err(|source| ManifestError::Io { path: path.to_path_buf(), source })?;
    // The version is looked at first: a newer file may well hold fields that this build would call unknown.
    let value: serde_json::Value = serde_json::from_str(&text).map_err(|error| malformed(error.to_string()))?;
    match value.get("schema_version").and_then(serde_json::Value::as_u64) {
        Some(found) if found > u64::from(known) => {
            return Err(ManifestError::Newer { path: path.to_path_buf(), found, known });
        }
        Some(found) if found > 0 => {}
        _ => return Err(malformed("`schema_version` is missing or not a positive integer".to_owned())),
    }
    serde_json::from_str(&text).map_err(|error| malformed(error.to_string()))
}

/// Writes `value` to `path` atomically, indented, with a final newline.
pub(crate) fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), ManifestError> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|error| ManifestError::Malformed { path: path.to_path_buf(), reason: error.to_string() })?;
    text.push('\n');
    atomic::write(path, text.as_bytes()).map_err(|source| ManifestError::Io { path: path.to_path_buf(), source })
}

/// Whether `name` can be one folder's name on every system, as a task's name must be.
pub fn is_folder_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 128
        && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '+' | '=' | '@'))
        && !name.starts_with('.')
}

/// Refuses manifests whose task names would lead out of their directory, or that name a task twice.
pub fn check_task_names<'a>(path: &Path, names: impl IntoIterator<Item = &'a str>) -> Result<(), ManifestError> {
    let malformed = |reason: String| ManifestError::Malformed { path: path.to_path_buf(), reason };
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        if !is_folder_name(name) {
            return Err(malformed(format!(
                "task name {name:?} cannot name a folder: use letters, digits, '-', '_' and '.'"
            )));
        }
        if name.eq_ignore_ascii_case("shared") {
            return Err(malformed(format!("task name {name:?} is the folder of the shared adapter")));
        }
        if name == BASE_TASK {
            return Err(malformed(format!(
                "task name {name:?} is the base model's own: pemlc export --include-base adds it"
            )));
        }
        if !seen.insert(name) {
            return Err(malformed(format!("task {name:?} is listed twice")));
        }
    }
    Ok(())
}
