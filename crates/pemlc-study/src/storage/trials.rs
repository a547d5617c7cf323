//! Trials of a study: claimed, reported, ended, given back. Each method is one transaction.

use super::sql::first;
use super::{StorageError, Study, records};
use crate::space::Space;
use crate::trial::{Trial, TrialState};
use serde_json::Value;
use std::collections::BTreeMap;

/// A trial that this worker runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    pub(super) id: i64,
    /// Counted from 0 within the study.
    pub number: u64,
    /// Internal representation: the number itself, or the index of a choice.
    pub params: BTreeMap<String, f64>,
}

impl Study {
    /// All trials, by number.
    pub fn trials(&mut self) -> Result<Vec<Trial>, StorageError> {
        let trials = self.within(records::trials)?;
        Ok(trials.into_iter().map(|(_, trial)| trial).collect())
    }

    /// Takes a trial that was given back, or makes one with the parameters that `sample` chooses from the trials so far and the new
    /// number. `None` when the study has `limit` trials that did not fail.
    pub fn claim(
        &mut self,
        space: &Space,
        limit: u64,
        sample: impl FnOnce(&[Trial], u64) -> BTreeMap<String, f64>,
    ) -> Result<Option<Claim>, StorageError> {
        self.within(|database, study| {
            let (ids, trials): (Vec<i64>, Vec<Trial>) = records::trials(database, study)?.into_iter().unzip();
            let waiting = ids.iter().zip(&trials).filter(|(_, trial)| trial.state == TrialState::Waiting);
            for (id, waiting) in waiting {
                if records::start(database, *id)? {
                    let (id, number) = (*id, waiting.number);
                    let mut params = waiting.params.clone();
                    if params.is_empty() {
                        params = sample(&trials, number);
                        records::insert_params(database, id, space, &params)?;
                    }
                    records::beat(database, id)?;
                    return Ok(Some(Claim { id, number, params }));
                }
            }
            if trials.iter().filter(|trial| trial.state != TrialState::Fail).count() as u64 >= limit {
                return Ok(None);
            }
            let number = trials.len() as u64;
            let params = sample(&trials, number);
            let id = records::insert(database, study, number, TrialState::Running)?;
            records::insert_params(database, id, space, &params)?;
            records::beat(database, id)?;
            Ok(Some(Claim { id, number, params }))
        })
    }

    /// Says that the worker of `claim` lives.
    pub fn heartbeat(&mut self, claim: &Claim) -> Result<(), StorageError> {
        self.within(|database, _| records::beat(database, claim.id))
    }

    /// Records a value at a step.
    pub fn report(&mut self, claim: &Claim, step: u64, value: f64) -> Result<(), StorageError> {
        self.within(|database, _| records::report(database, claim.id, step, value))
    }

    /// Sets a user attribute of a trial, for instance its costs.
    pub fn set_attribute(&mut self, claim: &Claim, key: &str, value: &Value) -> Result<(), StorageError> {
        let insert = "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (?1, ?2, ?3) \
                      ON CONFLICT (trial_id, key) DO UPDATE SET value_json = excluded.value_json";
        let cells = [claim.id.into(), key.into(), value.to_string().into()];
        self.within(|database, _| database.execute(insert, &cells).map(|_| ()))
    }

    /// The user attribute `key` of each trial that has it, by the trial's number.
    pub fn attributes(&mut self, key: &str) -> Result<BTreeMap<u64, Value>, StorageError> {
        let select = "SELECT t.number, a.value_json FROM trial_user_attributes a JOIN trials t \
                      ON t.trial_id = a.trial_id WHERE t.study_id = ?1 AND a.key = ?2";
        let rows = self.within(|database, study| database.query(select, &[study.into(), key.into()]))?;
        let mut found = BTreeMap::new();
        for row in rows {
            if let Ok(value) = serde_json::from_str(row.text(1)?) {
                found.insert(row.count(0)?, value);
            }
        }
        Ok(found)
    }

    /// Ends a trial; a complete one has a value.
    pub fn finish(&mut self, claim: &Claim, state: TrialState, value: Option<f64>) -> Result<(), StorageError> {
        self.within(|database, _| {
            if !records::end(database, claim.id, state)? {
                return Err(StorageError::NotRunning(claim.number));
            }
            value.map_or(Ok(()), |value| records::insert_value(database, claim.id, value))
        })
    }

    /// Fails running trials whose worker has been silent for more than `seconds`, and enqueues their parameters again. Gives the numbers of
    /// the failed trials.
    pub fn give_back(&mut self, seconds: u64) -> Result<Vec<u64>, StorageError> {
        self.within(|database, study| {
            let silent = format!(
                "SELECT t.trial_id, t.number FROM trials t JOIN trial_heartbeats h ON h.trial_id = t.trial_id \
                 WHERE t.study_id = ?1 AND t.state = 'RUNNING' AND {} > ?2 ORDER BY t.number",
                database.silence()
            );
            let mut failed = Vec::new();
            for row in database.query(&silent, &[study.into(), (seconds as f64).into()])? {
                let (id, number) = (row.integer(0)?, row.count(1)?);
                // Optuna's workers fail them too, without the study's lock.
                if !records::end(database, id, TrialState::Fail)? {
                    continue;
                }
                let count = database.query("SELECT count(*) FROM trials WHERE study_id = ?1", &[study.into()])?;
                let again = records::insert(database, study, first(&count)?.count(0)?, TrialState::Waiting)?;
                let copy = "INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json) \
                            SELECT CAST(?2 AS INTEGER), param_name, param_value, distribution_json FROM trial_params \
                            WHERE trial_id = ?1";
                database.execute(copy, &[id.into(), again.into()])?;
                failed.push(number);
            }
            Ok(failed)
        })
    }
}
