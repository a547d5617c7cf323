//! A graph as a text to keep under version control, so that a change of it fails a test with a readable diff.
//!
//! The text is that of [`crate::inspect()`], by default without the hashes of weights: training again does not change it, another
//! operator, shape or number type does. For an artifact directory the facts of `pemlc.json` that clients rely on stand before it.
//!
//! In a Rust test, with `insta`:
//!
//! ```no_run
//! use pemlc_compiler::snapshot::{self, Options};
//! # macro_rules! assert_snapshot { ($text:expr) => { let _: String = $text; } }
//! # mod insta { pub(crate) use assert_snapshot; }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let text = snapshot::text("artifacts/sentiment".as_ref(), &Options::default())?;
//! insta::assert_snapshot!(text);
//! # Ok(())
//! # }
//! ```

use crate::inspect::{Hashes, InspectError, graph_file, name, show};
use pemlc_artifact::artifact::{ArtifactManifest, ArtifactPaths};
use pemlc_artifact::{ManifestError, atomic};
use similar::TextDiff;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the text holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Keep a hash of every weight, so that retraining changes the text.
    pub weights: bool,
    /// With `weights`: no hash for initialisers whose name contains one of these. Tables that the system's mathematics library had a part
    /// in differ between machines.
    pub elide: Vec<String>,
}

impl Options {
    /// As on the command line, each with a space in front.
    pub fn as_arguments(&self) -> String {
        let weights = if self.weights { " --weights" } else { "" };
        let elided: String = self.elide.iter().map(|part| format!(" --elide {part}")).collect();
        format!("{weights}{elided}")
    }
}

/// Why there is no snapshot, or none to compare with.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The graph cannot be shown.
    #[error(transparent)]
    Inspect(#[from] InspectError),
    /// The manifest beside it cannot be read.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The snapshot's file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// There is no snapshot yet.
    #[error(
        "{path} does not exist: look at the graph with `pemlc inspect`, then accept it: pemlc snapshot {dir} --accept {path}{options}"
    )]
    Missing {
        /// The snapshot's file.
        path: PathBuf,
        /// The artifact.
        dir: PathBuf,
        /// The options that were given, as on the command line.
        options: String,
    },
    /// The file is something else.
    #[error(
        "{path} is no snapshot of pemlc: its first line is not `{expected}`. Name another file, or remove this one"
    )]
    NotASnapshot {
        /// The file.
        path: PathBuf,
        /// How one begins.
        expected: &'static str,
    },
    /// The snapshot was accepted with other options.
    #[error("{path} was accepted {found} and is checked {wanted}: give the same options, or accept it again")]
    OtherOptions {
        /// The file.
        path: PathBuf,
        /// In words, as is `wanted`.
        found: String,
        /// What was asked for.
        wanted: String,
    },
}

/// How a snapshot's file begins; what follows says which weights are in it.
const FIRST_LINE: &str = "# pemlc snapshot 1";
/// Comparing takes at most so long; what is left by then is shown in larger pieces.
const PATIENCE: Duration = Duration::from_secs(10);

/// The snapshot of `path`, an `.onnx` file or an artifact directory. Deterministic: the same graph gives the same text everywhere.
pub fn text(path: &Path, options: &Options) -> Result<String, SnapshotError> {
    let mut text = String::new();
    if ArtifactPaths::new(path).manifest().is_file() {
        manifest(&mut text, &ArtifactManifest::read(path)?);
    }
    let hashes = if options.weights { Hashes::Without(&options.elide) } else { Hashes::Absent };
    text.push_str(&show(&graph_file(path)?, &hashes)?);
    Ok(text)
}

/// What clients rely on: not scores, hashes or versions of tools.
fn manifest(text: &mut String, manifest: &ArtifactManifest) {
    let value = serde_json::to_value(manifest).unwrap_or_default();
    for key in ["base_model", "method", "profile", "dtype", "opset", "ir_version"] {
        match value.get(key) {
            Some(serde_json::Value::String(value)) => drop(writeln!(text, "manifest {key} {}", name(value))),
            Some(value) if !value.is_null() => drop(writeln!(text, "manifest {key} {value}")),
            _ => {}
        }
    }
    for (id, task) in manifest.tasks.iter().enumerate() {
        let template = serde_json::json!(task.template);
        let _ = writeln!(text, "manifest task {id} {}: template {template}", name(&task.name));
        if !task.verbalizers.is_empty() {
            let _ = writeln!(
                text,
                "manifest task {id} {}: answers {}",
                name(&task.name),
                serde_json::json!(task.verbalizers)
            );
        }
    }
}

/// Writes the snapshot of `path` to `file`, whole or not at all. Whether that changed it.
pub fn accept(path: &Path, file: &Path, options: &Options) -> Result<bool, SnapshotError> {
    let text = format!("{}\n{}", header(options), text(path, options)?);
    let io_error = |source| SnapshotError::Io { path: file.to_owned(), source };
    if let Some(old) = read(file)? {
        is_snapshot(file, &old)?;
        if old == text {
            return Ok(false);
        }
    }
    atomic::write(file, text.as_bytes()).map_err(io_error)?;
    Ok(true)
}

/// Compares the snapshot of `path` with what was accepted into `file`: nothing, or a unified diff.
pub fn check(path: &Path, file: &Path, options: &Options) -> Result<Option<String>, SnapshotError> {
    let missing =
        || SnapshotError::Missing { path: file.to_owned(), dir: path.to_owned(), options: options.as_arguments() };
    let accepted = read(file)?.ok_or_else(missing)?;
    let found = is_snapshot(file, &accepted)?.to_owned();
    let wanted = header(options);
    if found != wanted {
        let words = |line: &str| line.trim_start_matches(FIRST_LINE).trim_start_matches([',', ' ']).to_owned();
        let (found, wanted) = (words(&found), words(&wanted));
        return Err(SnapshotError::OtherOptions { path: file.to_owned(), found, wanted });
    }
    let current = format!("{wanted}\n{}", text(path, options)?);
    if accepted == current {
        return Ok(None);
    }
    let diff = TextDiff::configure().timeout(PATIENCE).diff_lines(&accepted, &current);
    let mut unified = diff.unified_diff();
    let names = (name(&file.to_string_lossy()), name(&path.to_string_lossy()));
    Ok(Some(unified.context_radius(3).header(&names.0, &names.1).to_string()))
}

fn header(options: &Options) -> String {
    let elided = serde_json::json!(options.elide);
    match (options.weights, options.elide.is_empty()) {
        (false, _) => format!("{FIRST_LINE}, without weights"),
        (true, true) => format!("{FIRST_LINE}, with weights"),
        (true, false) => format!("{FIRST_LINE}, with weights but {elided}"),
    }
}

/// The first line, if it is one of ours.
fn is_snapshot<'a>(file: &Path, text: &'a str) -> Result<&'a str, SnapshotError> {
    let first = text.lines().next().unwrap_or_default();
    let other = || SnapshotError::NotASnapshot { path: file.to_owned(), expected: FIRST_LINE };
    first.starts_with(FIRST_LINE).then_some(first).ok_or_else(other)
}

/// The text of `file` with Unix line ends, whatever a checkout made of them; none if there is no such file.
fn read(file: &Path) -> Result<Option<String>, SnapshotError> {
    match std::fs::read(file) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).replace("\r\n", "\n"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(SnapshotError::Io { path: file.to_owned(), source }),
    }
}
