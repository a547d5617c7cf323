//! Trials of a study: claimed, reported, ended, given back. Each method is one immediate transaction.

use super::{SqliteStudy, StorageError, wrap};
use crate::space::Space;
use crate::trial::{Trial, TrialState};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use serde_json::Value;
use std::collections::BTreeMap;

/// Time as Optuna writes it, UTC for heartbeats and starts alike.
const NOW: &str = "strftime('%Y-%m-%d %H:%M:%f000', 'now')";

/// A trial that this worker runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    pub(super) id: i64,
    /// Counted from 0 within the study.
    pub number: u64,
    /// Internal representation: the number itself, or the index of a choice.
    pub params: BTreeMap<String, f64>,
}

impl SqliteStudy {
    /// All trials, by number.
    pub fn trials(&mut self) -> Result<Vec<Trial>, StorageError> {
        self.within(|connection, study| trials(connection, study))
    }

    /// Takes a trial that was given back, or makes one with the parameters that `sample` chooses from the trials so far and the new
    /// number. `None` when the study has `limit` trials that did not fail.
    pub fn claim(
        &mut self,
        space: &Space,
        limit: u64,
        sample: impl FnOnce(&[Trial], u64) -> BTreeMap<String, f64>,
    ) -> Result<Option<Claim>, StorageError> {
        self.within(|connection, study| {
            let trials = trials(connection, study)?;
            let (id, number, params) = match trials.iter().find(|trial| trial.state == TrialState::Waiting) {
                Some(waiting) => {
                    let find = "SELECT trial_id FROM trials WHERE study_id = ?1 AND number = ?2";
                    let id = connection.query_row(find, params![study, waiting.number], |row| row.get(0))?;
                    let start =
                        format!("UPDATE trials SET state = 'RUNNING', datetime_start = {NOW} WHERE trial_id = ?1");
                    connection.execute(&start, [id])?;
                    let mut params = waiting.params.clone();
                    if params.is_empty() {
                        params = sample(&trials, waiting.number);
                        insert_params(connection, id, space, &params)?;
                    }
                    (id, waiting.number, params)
                }
                None if trials.iter().filter(|trial| trial.state != TrialState::Fail).count() as u64 >= limit => {
                    return Ok(None);
                }
                None => {
                    let number = trials.len() as u64;
                    let params = sample(&trials, number);
                    let id = insert(connection, study, number, TrialState::Running)?;
                    insert_params(connection, id, space, &params)?;
                    (id, number, params)
                }
            };
            beat(connection, id)?;
            Ok(Some(Claim { id, number, params }))
        })
    }

    /// Says that the worker of `claim` lives.
    pub fn heartbeat(&mut self, claim: &Claim) -> Result<(), StorageError> {
        self.within(|connection, _| beat(connection, claim.id))
    }

    /// Records a value at a step.
    pub fn report(&mut self, claim: &Claim, step: u64, value: f64) -> Result<(), StorageError> {
        self.within(|connection, _| report(connection, claim.id, step, value))
    }

    /// Sets a user attribute of a trial, for instance its costs.
    pub fn set_attribute(&mut self, claim: &Claim, key: &str, value: &Value) -> Result<(), StorageError> {
        self.within(|connection, _| {
            let insert = "INSERT OR REPLACE INTO trial_user_attributes (trial_id, key, value_json) VALUES (?1, ?2, ?3)";
            connection.execute(insert, params![claim.id, key, value.to_string()])
        })?;
        Ok(())
    }

    /// The user attribute `key` of each trial that has it, by the trial's number.
    pub fn attributes(&mut self, key: &str) -> Result<BTreeMap<u64, Value>, StorageError> {
        self.within(|connection, study| {
            let mut statement = connection.prepare(
                "SELECT t.number, a.value_json FROM trial_user_attributes a JOIN trials t ON t.trial_id = a.trial_id \
                 WHERE t.study_id = ?1 AND a.key = ?2",
            )?;
            let rows: Vec<(u64, String)> = statement
                .query_map(params![study, key], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<rusqlite::Result<_>>()?;
            Ok(rows
                .into_iter()
                .filter_map(|(number, text)| Some((number, serde_json::from_str(&text).ok()?)))
                .collect())
        })
    }

    /// Ends a trial; a complete one has a value.
    pub fn finish(&mut self, claim: &Claim, state: TrialState, value: Option<f64>) -> Result<(), StorageError> {
        let ended = self.within(|connection, _| {
            let ended = end(connection, claim.id, state)?;
            if let (true, Some(value)) = (ended, value) {
                let (value, kind) = encode(value);
                let insert = "INSERT INTO trial_values (trial_id, objective, value, value_type) VALUES (?1, 0, ?2, ?3)";
                connection.execute(insert, params![claim.id, value, kind])?;
            }
            Ok(ended)
        })?;
        if ended { Ok(()) } else { Err(StorageError::NotRunning(claim.number)) }
    }

    /// Fails running trials whose worker has been silent for more than `seconds`, and enqueues their parameters again. Gives the numbers of
    /// the failed trials.
    pub fn give_back(&mut self, seconds: u64) -> Result<Vec<u64>, StorageError> {
        self.within(|connection, study| {
            let silent = "SELECT t.trial_id, t.number FROM trials t JOIN trial_heartbeats h ON h.trial_id = t.trial_id \
                          WHERE t.study_id = ?1 AND t.state = 'RUNNING' \
                          AND (julianday('now') - julianday(h.heartbeat)) * 86400 > ?2 ORDER BY t.number";
            let mut statement = connection.prepare(silent)?;
            let dead: Vec<(i64, u64)> = statement
                .query_map(params![study, seconds], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<rusqlite::Result<_>>()?;
            for (id, _) in &dead {
                end(connection, *id, TrialState::Fail)?;
                let count = "SELECT count(*) FROM trials WHERE study_id = ?1";
                let number = connection.query_row(count, [study], |row| row.get(0))?;
                let again = insert(connection, study, number, TrialState::Waiting)?;
                let copy = "INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json) \
                            SELECT ?2, param_name, param_value, distribution_json FROM trial_params WHERE trial_id = ?1";
                connection.execute(copy, [*id, again])?;
            }
            Ok(dead.into_iter().map(|(_, number)| number).collect())
        })
    }

    pub(super) fn within<T>(
        &mut self,
        work: impl FnOnce(&Transaction, i64) -> rusqlite::Result<T>,
    ) -> Result<T, StorageError> {
        let run = || {
            let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let result = work(&transaction, self.study)?;
            transaction.commit()?;
            Ok(result)
        };
        run().map_err(|source| wrap(&self.path, source))
    }
}

fn insert(connection: &Connection, study: i64, number: u64, state: TrialState) -> rusqlite::Result<i64> {
    let start = if state == TrialState::Running { NOW } else { "NULL" };
    let insert = format!("INSERT INTO trials (number, study_id, state, datetime_start) VALUES (?1, ?2, ?3, {start})");
    connection.execute(&insert, params![number, study, state.name()])?;
    Ok(connection.last_insert_rowid())
}

fn insert_params(
    connection: &Connection,
    id: i64,
    space: &Space,
    values: &BTreeMap<String, f64>,
) -> rusqlite::Result<()> {
    for parameter in space.parameters() {
        if let Some(value) = values.get(&parameter.name) {
            let insert = "INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json) \
                          VALUES (?1, ?2, ?3, ?4)";
            let distribution = parameter.distribution.to_json().to_string();
            connection.execute(insert, params![id, parameter.name, value, distribution])?;
        }
    }
    Ok(())
}

pub(super) fn report(connection: &Connection, id: i64, step: u64, value: f64) -> rusqlite::Result<()> {
    let (value, kind) = encode(value);
    let insert = "INSERT OR REPLACE INTO trial_intermediate_values \
                  (trial_id, step, intermediate_value, intermediate_value_type) VALUES (?1, ?2, ?3, ?4)";
    connection.execute(insert, params![id, step, value, kind]).map(|_| ())
}

fn beat(connection: &Connection, id: i64) -> rusqlite::Result<()> {
    let beat = format!("INSERT OR REPLACE INTO trial_heartbeats (trial_id, heartbeat) VALUES (?1, {NOW})");
    connection.execute(&beat, [id]).map(|_| ())
}

/// Whether it was running until now.
fn end(connection: &Connection, id: i64, state: TrialState) -> rusqlite::Result<bool> {
    let end =
        format!("UPDATE trials SET state = ?2, datetime_complete = {NOW} WHERE trial_id = ?1 AND state = 'RUNNING'");
    Ok(connection.execute(&end, params![id, state.name()])? == 1)
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

fn trials(connection: &Connection, study: i64) -> rusqlite::Result<Vec<Trial>> {
    let mut statement =
        connection.prepare("SELECT trial_id, number, state FROM trials WHERE study_id = ?1 ORDER BY number")?;
    let heads: Vec<(i64, u64, String)> = statement
        .query_map([study], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let mut params = connection.prepare("SELECT param_name, param_value FROM trial_params WHERE trial_id = ?1")?;
    let mut steps = connection.prepare(
        "SELECT step, intermediate_value, intermediate_value_type FROM trial_intermediate_values WHERE trial_id = ?1",
    )?;
    let mut value = connection.prepare("SELECT value, value_type FROM trial_values WHERE trial_id = ?1")?;
    let mut read = |(id, number, state): (i64, u64, String)| {
        Ok(Trial {
            number,
            state: TrialState::from_name(&state).unwrap_or(TrialState::Fail),
            params: params.query_map([id], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<rusqlite::Result<_>>()?,
            value: value.query_row([id], |row| Ok(decode(row.get(0)?, &row.get::<_, String>(1)?))).optional()?,
            intermediate: steps
                .query_map([id], |row| Ok((row.get(0)?, decode(row.get(1)?, &row.get::<_, String>(2)?))))?
                .collect::<rusqlite::Result<_>>()?,
        })
    };
    heads.into_iter().map(&mut read).collect()
}
