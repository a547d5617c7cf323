//! Studies in Optuna's relational schema, in an SQLite file or a PostgreSQL database that several processes share.

mod error;
mod location;
mod postgres;
mod records;
mod rungs;
mod schema;
mod sql;
mod sqlite;
mod trials;

pub use error::StorageError;
pub use location::{Location, PostgresUrl};
pub use sql::Unexpected;
pub use trials::Claim;

use self::postgres::Postgres;
use self::sql::Database;
use self::sqlite::Sqlite;
use serde_json::Value;

/// One study, opened by one worker.
pub struct Study {
    database: Box<dyn Database>,
    study: i64,
}

impl Study {
    /// Opens the study `name` of `location`, or makes it and Optuna's tables. `attributes`, for instance the space, are stored with a new
    /// study as user attributes, and an old one must have them as they are here.
    pub fn open(location: &Location, name: &str, attributes: &[(&str, Value)]) -> Result<Self, StorageError> {
        let mut database: Box<dyn Database> = match location {
            Location::Sqlite(path) => Box::new(Sqlite::open(path)?),
            Location::Postgres(url) => Box::new(Postgres::open(url)?),
        };
        let study = transaction(database.as_mut(), |database| {
            database.lock_database()?;
            schema::check(database)?;
            schema::study(database, name, attributes)
        })?;
        Ok(Self { database, study })
    }

    /// One transaction, in which no other worker changes this study.
    fn within<T>(
        &mut self,
        work: impl FnOnce(&mut dyn Database, i64) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        let study = self.study;
        transaction(self.database.as_mut(), |database| {
            database.lock_study(study)?;
            work(database, study)
        })
    }
}

fn transaction<T>(
    database: &mut dyn Database,
    work: impl FnOnce(&mut dyn Database) -> Result<T, StorageError>,
) -> Result<T, StorageError> {
    database.begin()?;
    let result = work(database);
    match result {
        Ok(value) => {
            database.batch("COMMIT")?;
            Ok(value)
        }
        Err(error) => {
            // What went wrong says more than that it could not be undone: a lost connection undoes it too.
            let _ = database.batch("ROLLBACK");
            Err(error)
        }
    }
}
