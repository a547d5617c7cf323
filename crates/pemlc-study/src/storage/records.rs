//! Rows of one trial: written, and all trials read back.

use super::StorageError;
use super::sql::{Database, Row, first};
use crate::space::Space;
use crate::trial::{Trial, TrialState};
use std::collections::BTreeMap;

/// A new trial's id.
pub(super) fn insert(
    database: &mut dyn Database,
    study: i64,
    number: u64,
    state: TrialState,
) -> Result<i64, StorageError> {
    let start = if state == TrialState::Running { database.now() } else { "NULL" };
    let insert = format!(
        "INSERT INTO trials (number, study_id, state, datetime_start) VALUES (?1, ?2, '{}', {start}) RETURNING trial_id",
        state.name()
    );
    let made = database.query(&insert, &[number.into(), study.into()])?;
    Ok(first(&made)?.integer(0)?)
}

pub(super) fn insert_params(
    database: &mut dyn Database,
    id: i64,
    space: &Space,
    values: &BTreeMap<String, f64>,
) -> Result<(), StorageError> {
    for parameter in space.parameters() {
        if let Some(value) = values.get(&parameter.name) {
            let insert = "INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json) \
                          VALUES (?1, ?2, ?3, ?4)";
            let distribution = parameter.distribution.to_json().to_string();
            database
                .execute(insert, &[id.into(), parameter.name.as_str().into(), (*value).into(), distribution.into()])?;
        }
    }
    Ok(())
}

pub(super) fn report(database: &mut dyn Database, id: i64, step: u64, value: f64) -> Result<(), StorageError> {
    let (value, kind) = encode(value);
    let insert = format!(
        "INSERT INTO trial_intermediate_values (trial_id, step, intermediate_value, intermediate_value_type) \
         VALUES (?1, ?2, ?3, '{kind}') ON CONFLICT (trial_id, step) DO UPDATE SET \
         intermediate_value = excluded.intermediate_value, intermediate_value_type = excluded.intermediate_value_type"
    );
    database.execute(&insert, &[id.into(), step.into(), value.into()]).map(|_| ())
}

pub(super) fn insert_value(database: &mut dyn Database, id: i64, value: f64) -> Result<(), StorageError> {
    let (value, kind) = encode(value);
    let insert =
        format!("INSERT INTO trial_values (trial_id, objective, value, value_type) VALUES (?1, 0, ?2, '{kind}')");
    database.execute(&insert, &[id.into(), value.into()]).map(|_| ())
}

pub(super) fn beat(database: &mut dyn Database, id: i64) -> Result<(), StorageError> {
    let beat = format!(
        "INSERT INTO trial_heartbeats (trial_id, heartbeat) VALUES (?1, {}) \
         ON CONFLICT (trial_id) DO UPDATE SET heartbeat = excluded.heartbeat",
        database.beat()
    );
    database.execute(&beat, &[id.into()]).map(|_| ())
}

/// Takes a waiting trial. Whether nobody else has it: Optuna's workers take them without the study's lock.
pub(super) fn start(database: &mut dyn Database, id: i64) -> Result<bool, StorageError> {
    let start = format!(
        "UPDATE trials SET state = 'RUNNING', datetime_start = {} WHERE trial_id = ?1 AND state = 'WAITING'",
        database.now()
    );
    Ok(database.execute(&start, &[id.into()])? == 1)
}

/// Whether it was running until now.
pub(super) fn end(database: &mut dyn Database, id: i64, state: TrialState) -> Result<bool, StorageError> {
    let end = format!(
        "UPDATE trials SET state = '{}', datetime_complete = {} WHERE trial_id = ?1 AND state = 'RUNNING'",
        state.name(),
        database.now()
    );
    Ok(database.execute(&end, &[id.into()])? == 1)
}

/// Optuna stores what is not finite as a word.
fn encode(value: f64) -> (Option<f64>, &'static str) {
    match value {
        _ if value.is_finite() => (Some(value), "FINITE"),
        _ if value.is_nan() => (None, "NAN"),
        _ if value > 0.0 => (None, "INF_POS"),
        _ => (None, "INF_NEG"),
    }
}

fn decode(value: Option<f64>, kind: &str) -> f64 {
    match kind {
        "INF_POS" => f64::INFINITY,
        "INF_NEG" => f64::NEG_INFINITY,
        _ => value.unwrap_or(f64::NAN),
    }
}

/// All trials with their ids, by number.
pub(super) fn trials(database: &mut dyn Database, study: i64) -> Result<Vec<(i64, Trial)>, StorageError> {
    let heads = "SELECT trial_id, number, CAST(state AS VARCHAR(8)) FROM trials WHERE study_id = ?1 ORDER BY number";
    let mut trials = Vec::new();
    let mut places = BTreeMap::new();
    for row in database.query(heads, &[study.into()])? {
        let id = row.integer(0)?;
        places.insert(id, trials.len());
        let trial = Trial {
            number: row.count(1)?,
            state: TrialState::from_name(row.text(2)?).unwrap_or(TrialState::Fail),
            params: BTreeMap::new(),
            value: None,
            intermediate: BTreeMap::new(),
        };
        trials.push((id, trial));
    }
    let mut each = |columns: &str, table: &str, put: &dyn Fn(&mut Trial, &Row) -> Result<(), StorageError>| {
        let select = format!(
            "SELECT r.trial_id, {columns} FROM {table} r JOIN trials t ON t.trial_id = r.trial_id WHERE t.study_id = ?1"
        );
        for row in database.query(&select, &[study.into()])? {
            if let Some((_, trial)) = places.get(&row.integer(0)?).and_then(|place| trials.get_mut(*place)) {
                put(trial, &row)?;
            }
        }
        Ok::<(), StorageError>(())
    };
    each("r.param_name, r.param_value", "trial_params", &|trial, row| {
        trial.params.insert(row.text(1)?.to_owned(), row.real(2)?.unwrap_or(f64::NAN));
        Ok(())
    })?;
    each("r.value, CAST(r.value_type AS VARCHAR(7))", "trial_values", &|trial, row| {
        trial.value = Some(decode(row.real(1)?, row.text(2)?));
        Ok(())
    })?;
    let columns = "r.step, r.intermediate_value, CAST(r.intermediate_value_type AS VARCHAR(7))";
    each(columns, "trial_intermediate_values", &|trial, row| {
        trial.intermediate.insert(row.count(1)?, decode(row.real(2)?, row.text(3)?));
        Ok(())
    })?;
    Ok(trials)
}
