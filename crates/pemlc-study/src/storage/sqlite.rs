//! SQLite: a file, which is locked as a whole while a transaction lasts.

use super::StorageError;
use super::sql::{Cell, Database, Row, Unexpected};
use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags, ToSql, params_from_iter};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a transaction waits for another process.
const BUSY: Duration = Duration::from_secs(60);

/// An open file.
pub(super) struct Sqlite {
    connection: Connection,
    path: PathBuf,
}

impl Sqlite {
    pub(super) fn open(path: &Path) -> Result<Self, StorageError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).and_then(|connection| {
            connection.busy_timeout(BUSY)?;
            Ok(connection)
        });
        let path = path.to_owned();
        match connection {
            Ok(connection) => Ok(Self { connection, path }),
            Err(source) => Err(wrap(&path, source)),
        }
    }
}

impl Database for Sqlite {
    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn schema(&self) -> &'static str {
        include_str!("schema_sqlite.sql")
    }

    fn now(&self) -> &'static str {
        "strftime('%Y-%m-%d %H:%M:%f000', 'now')"
    }

    fn beat(&self) -> &'static str {
        self.now()
    }

    fn silence(&self) -> &'static str {
        "(julianday('now') - julianday(h.heartbeat)) * 86400"
    }

    fn tables(&mut self) -> Result<Vec<String>, StorageError> {
        let rows = self.query("SELECT name FROM sqlite_master WHERE type = 'table'", &[])?;
        Ok(rows.iter().map(|row| row.text(0).map(str::to_owned)).collect::<Result<_, _>>()?)
    }

    /// Nobody else writes from here on.
    fn begin(&mut self) -> Result<(), StorageError> {
        self.batch("BEGIN IMMEDIATE")
    }

    fn lock_database(&mut self) -> Result<(), StorageError> {
        Ok(())
    }

    fn lock_study(&mut self, _study: i64) -> Result<(), StorageError> {
        Ok(())
    }

    fn batch(&mut self, statements: &str) -> Result<(), StorageError> {
        self.connection.execute_batch(statements).map_err(|source| wrap(&self.path, source))
    }

    fn execute(&mut self, statement: &str, parameters: &[Cell]) -> Result<u64, StorageError> {
        let changed = self.connection.execute(statement, params_from_iter(parameters));
        changed.map(|rows| rows as u64).map_err(|source| wrap(&self.path, source))
    }

    fn query(&mut self, statement: &str, parameters: &[Cell]) -> Result<Vec<Row>, StorageError> {
        let read = || {
            let mut statement = self.connection.prepare(statement)?;
            let columns = statement.column_count();
            let mut rows = statement.query(params_from_iter(parameters))?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                let cells = (0..columns).map(|column| row.get_ref(column).map(cell));
                found.push(cells.collect::<rusqlite::Result<Vec<_>>>()?);
            }
            Ok(found)
        };
        let rows = read().map_err(|source| wrap(&self.path, source))?;
        Ok(rows
            .into_iter()
            .map(|cells| cells.into_iter().collect::<Result<_, _>>().map(Row))
            .collect::<Result<_, _>>()?)
    }
}

impl ToSql for Cell {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Self::Null => ToSqlOutput::Owned(Value::Null),
            Self::Integer(value) => ToSqlOutput::Owned(Value::Integer(*value)),
            Self::Real(value) => ToSqlOutput::Owned(Value::Real(*value)),
            Self::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
        })
    }
}

fn cell(value: ValueRef) -> Result<Cell, Unexpected> {
    Ok(match value {
        ValueRef::Null => Cell::Null,
        ValueRef::Integer(value) => Cell::Integer(value),
        ValueRef::Real(value) => Cell::Real(value),
        ValueRef::Text(text) => Cell::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(_) => return Err(Unexpected::column("BLOB")),
    })
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
