//! Studies in Optuna's relational schema, in an SQLite file that several processes share.

mod error;
mod rungs;
mod trials;

pub use error::StorageError;
pub use trials::Claim;

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, TransactionBehavior, params};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

const SCHEMA: &str = include_str!("schema.sql");
const SCHEMA_VERSION: i64 = 12;
/// How long a statement waits for another process.
const BUSY: Duration = Duration::from_secs(60);

/// One study, opened by one worker.
pub struct SqliteStudy {
    connection: Connection,
    path: PathBuf,
    study: i64,
}

impl SqliteStudy {
    /// Opens the study `name` of `path`, or makes both. `attributes`, for instance the space, are stored with a new study as user
    /// attributes, and an old one must have them as they are here.
    pub fn open(path: &Path, name: &str, attributes: &[(&str, Value)]) -> Result<Self, StorageError> {
        let sqlite = |source| wrap(path, source);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(path, flags).map_err(sqlite)?;
        connection.busy_timeout(BUSY).map_err(sqlite)?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sqlite)?;
        check_schema(&transaction, path)?;
        let known = "SELECT study_id FROM studies WHERE study_name = ?1";
        let known: Option<i64> = transaction.query_row(known, [name], |row| row.get(0)).optional().map_err(sqlite)?;
        let study = match known {
            Some(study) => {
                check_study(&transaction, path, (study, name), attributes)?;
                study
            }
            None => create(&transaction, name, attributes).map_err(sqlite)?,
        };
        transaction.commit().map_err(sqlite)?;
        Ok(Self { connection, path: path.to_owned(), study })
    }
}

fn wrap(path: &Path, source: rusqlite::Error) -> StorageError {
    let path = path.to_owned();
    match source.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            StorageError::Corrupt { path, reason: source.to_string() }
        }
        _ => StorageError::Sqlite { path, source },
    }
}

/// Creates Optuna's tables in an empty database and refuses any other content.
fn check_schema(connection: &Connection, path: &Path) -> Result<(), StorageError> {
    let sqlite = |source| wrap(path, source);
    let tables: Option<String> = connection
        .query_row("SELECT group_concat(name, ', ') FROM sqlite_master WHERE type = 'table'", [], |row| row.get(0))
        .map_err(sqlite)?;
    let Some(tables) = tables else {
        return connection.execute_batch(SCHEMA).map_err(sqlite);
    };
    if !["studies", "trials", "version_info", "trial_heartbeats"]
        .iter()
        .all(|name| tables.split(", ").any(|t| t == *name))
    {
        return Err(StorageError::Foreign { path: path.to_owned(), tables });
    }
    let version = connection.query_row("SELECT schema_version FROM version_info", [], |row| row.get(0));
    match version.map_err(sqlite)? {
        SCHEMA_VERSION => Ok(()),
        found => Err(StorageError::Version { path: path.to_owned(), found }),
    }
}

fn check_study(
    connection: &Connection,
    path: &Path,
    (study, name): (i64, &str),
    attributes: &[(&str, Value)],
) -> Result<(), StorageError> {
    let sqlite = |source| wrap(path, source);
    let directions = "SELECT group_concat(direction) FROM study_directions WHERE study_id = ?1";
    let directions: Option<String> = connection.query_row(directions, [study], |row| row.get(0)).map_err(sqlite)?;
    if directions.as_deref() != Some("MAXIMIZE") {
        return Err(StorageError::Direction(name.to_owned()));
    }
    for (key, asked) in attributes {
        let stored = "SELECT value_json FROM study_user_attributes WHERE study_id = ?1 AND key = ?2";
        let stored: Option<String> =
            connection.query_row(stored, params![study, key], |row| row.get(0)).optional().map_err(sqlite)?;
        let value = stored.as_deref().and_then(|text| serde_json::from_str::<Value>(text).ok());
        if value.as_ref() != Some(asked) {
            return Err(StorageError::Differs {
                name: name.to_owned(),
                key: (*key).to_owned(),
                stored: stored.unwrap_or_else(|| "nothing".to_owned()),
                asked: asked.to_string(),
            });
        }
    }
    Ok(())
}

fn create(connection: &Connection, name: &str, attributes: &[(&str, Value)]) -> rusqlite::Result<i64> {
    connection.execute("INSERT INTO studies (study_name) VALUES (?1)", [name])?;
    let study = connection.last_insert_rowid();
    let direction = "INSERT INTO study_directions (direction, study_id, objective) VALUES ('MAXIMIZE', ?1, 0)";
    connection.execute(direction, [study])?;
    for (key, value) in attributes {
        let insert = "INSERT INTO study_user_attributes (study_id, key, value_json) VALUES (?1, ?2, ?3)";
        connection.execute(insert, params![study, key, value.to_string()])?;
    }
    Ok(study)
}
