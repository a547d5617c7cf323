//! Why a study cannot be used.

use std::path::PathBuf;

/// Why a study cannot be used. Whatever it is, the file is as it was.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The file is no SQLite database, or a damaged one.
    #[error("{path}: not a readable SQLite database: {reason}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        reason: String,
    },
    /// A database of something else.
    #[error("{path}: an SQLite database, but not an Optuna study: its tables are {tables}")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Names of its tables.
        tables: String,
    },
    /// Optuna's tables in a version that is not known here.
    #[error("{path}: Optuna schema version {found}, this build knows 12; `optuna storage upgrade` may help")]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
    },
    /// The study was made for another space or other tasks.
    #[error("study `{name}` has another {key}:\n  stored: {stored}\n  asked:  {asked}")]
    Differs {
        /// Name of the study.
        name: String,
        /// The attribute that differs.
        key: String,
        /// What is stored.
        stored: String,
        /// What the caller has.
        asked: String,
    },
    /// The study minimises, or has several objectives.
    #[error("study `{0}` does not maximise one objective")]
    Direction(String),
    /// Another worker has ended or taken back the trial.
    #[error("trial {0} is not running any more: its worker was taken for dead, or somebody else ended it")]
    NotRunning(u64),
    /// What SQLite says of a statement.
    #[error("{path}: {source}")]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: rusqlite::Error,
    },
}
