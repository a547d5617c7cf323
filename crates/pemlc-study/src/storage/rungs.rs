//! Rungs of successive halving. They are kept as Optuna's pruner keeps them, so that its workers and these judge each other's trials.

use super::sql::Database;
use super::{Claim, StorageError, Study, records};
use crate::asha::Asha;
use std::collections::BTreeMap;

/// Optuna's name of a rung's value among a trial's system attributes, without the rung's number.
const RUNG: &str = "completed_rung_";

impl Study {
    /// Records a value at a step as [`Self::report`] does, and says whether `asha` stops the trial there.
    pub fn prune(&mut self, claim: &Claim, step: u64, value: f64, asha: &Asha) -> Result<bool, StorageError> {
        self.within(|database, study| {
            records::report(database, claim.id, step, value)?;
            let (mut own, others) = rungs(database, study, claim.id)?;
            let known = own.len();
            let pruned = asha.prune(step, value, &mut own, &others);
            for (rung, value) in own.into_iter().skip(known) {
                let insert = "INSERT INTO trial_system_attributes (trial_id, key, value_json) VALUES (?1, ?2, ?3)";
                let cells = [claim.id.into(), format!("{RUNG}{rung}").into(), value.to_string().into()];
                database.execute(insert, &cells)?;
            }
            Ok(pruned)
        })
    }
}

/// By rung: the values of trial `id`, and those of all others.
type Rungs = (BTreeMap<u32, f64>, BTreeMap<u32, Vec<f64>>);

fn rungs(database: &mut dyn Database, study: i64, id: i64) -> Result<Rungs, StorageError> {
    let select = "SELECT a.trial_id, a.key, a.value_json FROM trial_system_attributes a JOIN trials t \
                  ON t.trial_id = a.trial_id WHERE t.study_id = ?1 ORDER BY t.number";
    let (mut own, mut others) = (BTreeMap::new(), BTreeMap::<u32, Vec<f64>>::new());
    for row in database.query(select, &[study.into()])? {
        let rung = row.text(1)?.strip_prefix(RUNG).and_then(|rung| rung.parse().ok());
        if let (Some(rung), Ok(value)) = (rung, row.text(2)?.parse()) {
            match row.integer(0)? == id {
                true => drop(own.insert(rung, value)),
                false => others.entry(rung).or_default().push(value),
            }
        }
    }
    Ok((own, others))
}
