//! What studies need of a database. Statements are written once: parameters are `?1`, `?2`, and what differs is asked of the database.

use super::StorageError;

/// A value in a statement or a row.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cell {
    Null,
    Integer(i64),
    Real(f64),
    Text(String),
}

/// A row that a query gave.
#[derive(Debug)]
pub(super) struct Row(pub(super) Vec<Cell>);

/// A value that cannot be there.
#[derive(Debug, thiserror::Error)]
#[error(
    "the study's tables hold {found}, where {expected} is expected: they were changed by something that is not Optuna"
)]
pub struct Unexpected {
    found: String,
    expected: &'static str,
}

/// A connection to an SQL database.
pub(super) trait Database: Send {
    /// What messages call it.
    fn place(&self) -> String;
    /// Optuna's tables.
    fn schema(&self) -> &'static str;
    /// The current time in UTC, as an expression.
    fn now(&self) -> &'static str;
    /// The current time as Optuna writes it into heartbeats, as an expression.
    fn beat(&self) -> &'static str;
    /// Seconds since the column `h.heartbeat`, as an expression.
    fn silence(&self) -> &'static str;
    /// Names of the tables.
    fn tables(&mut self) -> Result<Vec<String>, StorageError>;
    /// Starts a transaction.
    fn begin(&mut self) -> Result<(), StorageError>;
    /// Makes the transaction wait for others that create tables or studies.
    fn lock_database(&mut self) -> Result<(), StorageError>;
    /// Makes the transaction wait for others that work on this study.
    fn lock_study(&mut self, study: i64) -> Result<(), StorageError>;
    /// Executes statements without parameters, for instance `COMMIT`.
    fn batch(&mut self, statements: &str) -> Result<(), StorageError>;
    /// Executes one statement. How many rows it changed.
    fn execute(&mut self, statement: &str, parameters: &[Cell]) -> Result<u64, StorageError>;
    /// All rows of one statement.
    fn query(&mut self, statement: &str, parameters: &[Cell]) -> Result<Vec<Row>, StorageError>;
}

impl Row {
    pub(super) fn integer(&self, column: usize) -> Result<i64, Unexpected> {
        match self.0.get(column) {
            Some(Cell::Integer(value)) => Ok(*value),
            other => Err(Unexpected::of(other, "an integer")),
        }
    }

    /// An integer that counts something.
    pub(super) fn count(&self, column: usize) -> Result<u64, Unexpected> {
        u64::try_from(self.integer(column)?).map_err(|_| Unexpected::of(self.0.get(column), "an integer from 0"))
    }

    pub(super) fn real(&self, column: usize) -> Result<Option<f64>, Unexpected> {
        match self.0.get(column) {
            Some(Cell::Null) => Ok(None),
            Some(Cell::Integer(value)) => Ok(Some(*value as f64)),
            Some(Cell::Real(value)) => Ok(Some(*value)),
            other => Err(Unexpected::of(other, "a number")),
        }
    }

    pub(super) fn text(&self, column: usize) -> Result<&str, Unexpected> {
        match self.0.get(column) {
            Some(Cell::Text(text)) => Ok(text),
            other => Err(Unexpected::of(other, "a text")),
        }
    }
}

/// The first row of what cannot be empty.
pub(super) fn first(rows: &[Row]) -> Result<&Row, Unexpected> {
    rows.first().ok_or_else(|| Unexpected::of(None, "a row"))
}

impl Unexpected {
    pub(super) fn of(found: Option<&Cell>, expected: &'static str) -> Self {
        let found = match found {
            None => "nothing".to_owned(),
            Some(Cell::Null) => "NULL".to_owned(),
            Some(Cell::Integer(value)) => value.to_string(),
            Some(Cell::Real(value)) => value.to_string(),
            Some(Cell::Text(text)) => format!("{text:?}"),
        };
        Self { found, expected }
    }

    /// Of a column of this type.
    pub(super) fn column(kind: &str) -> Self {
        Self { found: format!("a column of type {kind}"), expected: "an integer, a number or a text" }
    }
}

impl From<i64> for Cell {
    fn from(value: i64) -> Self {
        Self::Integer(value)
    }
}

/// Counts of trials and steps, far below what an integer holds.
impl From<u64> for Cell {
    fn from(value: u64) -> Self {
        Self::Integer(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

impl From<f64> for Cell {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

impl From<Option<f64>> for Cell {
    fn from(value: Option<f64>) -> Self {
        value.map_or(Self::Null, Self::Real)
    }
}

impl From<&str> for Cell {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for Cell {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}
