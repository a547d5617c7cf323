//! PostgreSQL: a server that workers on several machines reach. Transactions on one study wait for each other by the lock of its row, which
//! is the lock that Optuna takes when it numbers a trial.

use super::StorageError;
use super::location::PostgresUrl;
use super::sql::{Cell, Database, Row, Unexpected};
use postgres::error::Error;
use postgres::types::{ToSql, Type};
use postgres::{Client, NoTls};
use std::time::{Duration, Instant};

/// How long a worker waits for a server that has gone, in steps of a second.
const PATIENCE: Duration = Duration::from_secs(60);
/// A worker that freezes in a transaction must not hold the others up for ever.
const SESSION: &str = "SET lock_timeout = '60s'; SET idle_in_transaction_session_timeout = '60s'";
/// What Optuna's own transactions have.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";
/// Any number will do: it is the same for everyone who creates studies in a database.
const CREATION: &str = "DO $$ BEGIN PERFORM pg_advisory_xact_lock(8101112); END $$";

/// A connection to a server, which is made again when it is lost between transactions.
pub(super) struct Postgres {
    client: Client,
    url: PostgresUrl,
}

impl Postgres {
    pub(super) fn open(url: &PostgresUrl) -> Result<Self, StorageError> {
        Ok(Self { client: connect(url)?, url: url.clone() })
    }

    fn wrap(&self, error: &Error) -> StorageError {
        StorageError::Postgres { url: self.place(), reason: explain(error) }
    }

    fn reconnect(&mut self) -> Result<(), StorageError> {
        let start = Instant::now();
        loop {
            match connect(&self.url) {
                Ok(client) => {
                    self.client = client;
                    return Ok(());
                }
                Err(error) if start.elapsed() > PATIENCE => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_secs(1)),
            }
        }
    }
}

impl Database for Postgres {
    fn place(&self) -> String {
        self.url.to_string()
    }

    fn schema(&self) -> &'static str {
        include_str!("schema_postgres.sql")
    }

    fn now(&self) -> &'static str {
        "clock_timestamp() AT TIME ZONE 'UTC'"
    }

    /// In the session's time zone, as `current_timestamp` is that Optuna writes.
    fn beat(&self) -> &'static str {
        "CAST(clock_timestamp() AS TIMESTAMP WITHOUT TIME ZONE)"
    }

    fn silence(&self) -> &'static str {
        "CAST(EXTRACT(EPOCH FROM clock_timestamp() - CAST(h.heartbeat AS TIMESTAMP WITH TIME ZONE)) AS DOUBLE PRECISION)"
    }

    fn tables(&mut self) -> Result<Vec<String>, StorageError> {
        let rows =
            self.query("SELECT CAST(tablename AS TEXT) FROM pg_tables WHERE schemaname = current_schema()", &[])?;
        Ok(rows.iter().map(|row| row.text(0).map(str::to_owned)).collect::<Result<_, _>>()?)
    }

    /// Where a lost connection shows, before anything is done.
    fn begin(&mut self) -> Result<(), StorageError> {
        if self.client.batch_execute(BEGIN).is_ok() {
            return Ok(());
        }
        self.reconnect()?;
        self.batch(BEGIN)
    }

    fn lock_database(&mut self) -> Result<(), StorageError> {
        self.batch(CREATION)
    }

    fn lock_study(&mut self, study: i64) -> Result<(), StorageError> {
        self.query("SELECT study_id FROM studies WHERE study_id = ?1 FOR UPDATE", &[study.into()]).map(|_| ())
    }

    fn batch(&mut self, statements: &str) -> Result<(), StorageError> {
        self.client.batch_execute(statements).map_err(|error| self.wrap(&error))
    }

    fn execute(&mut self, statement: &str, parameters: &[Cell]) -> Result<u64, StorageError> {
        let statement = self.client.prepare(&statement.replace('?', "$")).map_err(|error| self.wrap(&error))?;
        let values = values(parameters, statement.params())?;
        self.client.execute(&statement, &borrowed(&values)).map_err(|error| self.wrap(&error))
    }

    fn query(&mut self, statement: &str, parameters: &[Cell]) -> Result<Vec<Row>, StorageError> {
        let statement = self.client.prepare(&statement.replace('?', "$")).map_err(|error| self.wrap(&error))?;
        let values = values(parameters, statement.params())?;
        let rows = self.client.query(&statement, &borrowed(&values)).map_err(|error| self.wrap(&error))?;
        rows.iter().map(|row| self.row(row)).collect()
    }
}

impl Postgres {
    fn row(&self, row: &postgres::Row) -> Result<Row, StorageError> {
        let mut cells = Vec::with_capacity(row.len());
        for (index, column) in row.columns().iter().enumerate() {
            let cell = match *column.type_() {
                Type::INT4 => {
                    row.try_get::<_, Option<i32>>(index).map(|value| value.map(|value| Cell::Integer(value.into())))
                }
                Type::INT8 => row.try_get::<_, Option<i64>>(index).map(|value| value.map(Cell::Integer)),
                Type::FLOAT8 => row.try_get::<_, Option<f64>>(index).map(|value| value.map(Cell::Real)),
                Type::TEXT | Type::VARCHAR => {
                    row.try_get::<_, Option<String>>(index).map(|value| value.map(Cell::Text))
                }
                ref other => return Err(Unexpected::column(other.name()).into()),
            };
            cells.push(cell.map_err(|error| self.wrap(&error))?.unwrap_or(Cell::Null));
        }
        Ok(Row(cells))
    }
}

type Parameter = Box<dyn ToSql + Sync>;

/// The parameters in the types that the statement has.
fn values(cells: &[Cell], types: &[Type]) -> Result<Vec<Parameter>, Unexpected> {
    let value = |(cell, kind): (&Cell, &Type)| -> Result<Parameter, Unexpected> {
        Ok(match (cell, kind) {
            (Cell::Null, &Type::INT4) => Box::new(None::<i32>),
            (Cell::Null, &Type::FLOAT8) => Box::new(None::<f64>),
            (Cell::Null, _) => Box::new(None::<String>),
            (Cell::Integer(value), &Type::INT4) => {
                Box::new(i32::try_from(*value).map_err(|_| Unexpected::of(Some(cell), "an integer of 32 bits"))?)
            }
            (Cell::Integer(value), _) => Box::new(*value),
            (Cell::Real(value), _) => Box::new(*value),
            (Cell::Text(text), _) => Box::new(text.clone()),
        })
    };
    cells.iter().zip(types).map(value).collect()
}

fn borrowed(values: &[Parameter]) -> Vec<&(dyn ToSql + Sync)> {
    values.iter().map(AsRef::as_ref).collect()
}

fn connect(url: &PostgresUrl) -> Result<Client, StorageError> {
    let client = url.config().connect(NoTls).and_then(|mut client| {
        client.batch_execute(SESSION)?;
        Ok(client)
    });
    client.map_err(|error| StorageError::Connect { url: url.to_string(), reason: explain(&error) })
}

/// What the server says, or else the error with its causes.
fn explain(error: &Error) -> String {
    if let Some(error) = error.as_db_error() {
        let more = [error.detail(), error.hint()].into_iter().flatten();
        return std::iter::once(error.message()).chain(more).collect::<Vec<_>>().join("; ");
    }
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    std::iter::once(error.to_string()).chain(causes.map(ToString::to_string)).collect::<Vec<_>>().join(": ")
}
