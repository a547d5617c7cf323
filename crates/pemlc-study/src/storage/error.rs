//! Why a study cannot be used.

use super::sql::Unexpected;
use std::path::PathBuf;

/// Why a study cannot be used. Whatever it is, the database is as it was.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// No URL or path that is known here.
    #[error("`{0}` names no study: expected sqlite:///FILE, a path, or postgresql://USER@HOST:PORT/DATABASE")]
    Location(String),
    /// A PostgreSQL URL that cannot be read.
    #[error("the PostgreSQL URL cannot be read ({0}): expected postgresql://USER@HOST:PORT/DATABASE")]
    PostgresUrl(String),
    /// Encryption was asked for.
    #[error(
        "sslmode=require: this build speaks no TLS. Connect to a proxy on this machine that does (an SSH tunnel, for instance), with sslmode=disable"
    )]
    Tls,
    /// The file is no SQLite database, or a damaged one.
    #[error("{path}: not a readable SQLite database: {reason}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        reason: String,
    },
    /// A database of something else.
    #[error(
        "{place}: a database, but not of Optuna studies: its tables are {tables}. Give the study a database of its own"
    )]
    Foreign {
        /// The file or URL.
        place: String,
        /// Names of its tables.
        tables: String,
    },
    /// Optuna's tables in a version that is not known here.
    #[error("{place}: Optuna schema version {found}, this build knows 12; `optuna storage upgrade` may help")]
    Version {
        /// The file or URL.
        place: String,
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
    /// What stands in a table cannot be.
    #[error(transparent)]
    Unexpected(#[from] Unexpected),
    /// What SQLite says of a statement.
    #[error("{path}: {source}")]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: rusqlite::Error,
    },
    /// No connection to a server.
    #[error(
        "{url}: cannot connect: {reason}. Check that the server runs there, and that it lets this user in (PGPASSWORD holds a password)"
    )]
    Connect {
        /// The server, without a password.
        url: String,
        /// What is in the way.
        reason: String,
    },
    /// What a PostgreSQL server says of a statement.
    #[error("{url}: {reason}")]
    Postgres {
        /// The server, without a password.
        url: String,
        /// What it says.
        reason: String,
    },
}
