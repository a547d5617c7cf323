//! Tables and studies: made where there are none, checked where there are.

use super::StorageError;
use super::sql::{Database, first};
use serde_json::Value;

const VERSION: i64 = 12;
/// Tables by which Optuna's schema is known.
const KNOWN: [&str; 4] = ["studies", "trials", "version_info", "trial_heartbeats"];

/// Creates Optuna's tables in an empty database and refuses any other content.
pub(super) fn check(database: &mut dyn Database) -> Result<(), StorageError> {
    let tables = database.tables()?;
    if tables.is_empty() {
        return database.batch(database.schema());
    }
    if !KNOWN.iter().all(|name| tables.iter().any(|table| table == name)) {
        return Err(StorageError::Foreign { place: database.place(), tables: tables.join(", ") });
    }
    let version = database.query("SELECT schema_version FROM version_info", &[])?;
    match version.first().map(|row| row.integer(0)).transpose()? {
        Some(VERSION) => Ok(()),
        found => Err(StorageError::Version { place: database.place(), found: found.unwrap_or(0) }),
    }
}

/// The study of this name, with these attributes.
pub(super) fn study(
    database: &mut dyn Database,
    name: &str,
    attributes: &[(&str, Value)],
) -> Result<i64, StorageError> {
    let known = database.query("SELECT study_id FROM studies WHERE study_name = ?1", &[name.into()])?;
    match known.first() {
        Some(row) => {
            let study = row.integer(0)?;
            compare(database, (study, name), attributes)?;
            Ok(study)
        }
        None => create(database, name, attributes),
    }
}

fn compare(
    database: &mut dyn Database,
    (study, name): (i64, &str),
    attributes: &[(&str, Value)],
) -> Result<(), StorageError> {
    let directions = "SELECT CAST(direction AS VARCHAR(8)) FROM study_directions WHERE study_id = ?1";
    let directions = database.query(directions, &[study.into()])?;
    if directions.len() != 1 || directions[0].text(0)? != "MAXIMIZE" {
        return Err(StorageError::Direction(name.to_owned()));
    }
    for (key, asked) in attributes {
        let stored = "SELECT value_json FROM study_user_attributes WHERE study_id = ?1 AND key = ?2";
        let stored = database.query(stored, &[study.into(), (*key).into()])?;
        let stored = stored.first().map(|row| row.text(0)).transpose()?;
        if stored.and_then(|text| serde_json::from_str::<Value>(text).ok()).as_ref() != Some(asked) {
            return Err(StorageError::Differs {
                name: name.to_owned(),
                key: (*key).to_owned(),
                stored: stored.unwrap_or("nothing").to_owned(),
                asked: asked.to_string(),
            });
        }
    }
    Ok(())
}

fn create(database: &mut dyn Database, name: &str, attributes: &[(&str, Value)]) -> Result<i64, StorageError> {
    let made = database.query("INSERT INTO studies (study_name) VALUES (?1) RETURNING study_id", &[name.into()])?;
    let study = first(&made)?.integer(0)?;
    let direction = "INSERT INTO study_directions (direction, study_id, objective) VALUES ('MAXIMIZE', ?1, 0)";
    database.execute(direction, &[study.into()])?;
    for (key, value) in attributes {
        let insert = "INSERT INTO study_user_attributes (study_id, key, value_json) VALUES (?1, ?2, ?3)";
        database.execute(insert, &[study.into(), (*key).into(), value.to_string().into()])?;
    }
    Ok(study)
}
