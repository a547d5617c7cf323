//! An unknown `task_id` never answers: its row is NaN, or the runtime raises an error; other rows of the batch are untouched.

use super::compare::Comparison;
use super::subject::Subject;
use crate::{Outputs, Padding, RuntimeError};
use ndarray::s;
use pemlc_artifact::artifact::CheckResult;

const NAME: &str = "bad-task-id";
const LENGTH: usize = 8;

pub(crate) fn check(subject: &mut Subject<'_>) -> Result<Vec<CheckResult>, RuntimeError> {
    let mut comparison = Comparison::new(subject.tolerances.widest());
    let bad = unknown_ids(subject.tasks.len());

    // Valid rows at both ends and in the middle; the bad ids replace the tasks of the rows between.
    let replaced = [None, Some(bad[0]), Some(bad[1]), None, Some(bad[2]), Some(bad[3]), Some(bad[4]), None];
    let batch: Vec<(usize, usize)> = (0..replaced.len()).map(|index| (index % subject.rows.len(), LENGTH)).collect();
    let rows: Vec<usize> = batch.iter().map(|(row, _)| *row).collect();
    let references = subject.references(&rows)?;
    let valid = subject.inputs(&batch, LENGTH, Padding::Right);

    // An error below proves nothing unless the same batch runs with valid ids.
    let outputs = subject.session.run(&valid)?;
    for (index, reference) in references.iter().enumerate() {
        let expected = reference.slice(s![..LENGTH, ..]);
        comparison.add_rows(outputs.logits.slice(s![index, .., ..]), expected, |position| {
            format!("all ids valid, batch {}, sequence {LENGTH}, row {index}, position {position}", batch.len())
        });
    }

    let mut mixed = valid.clone();
    for (id, replacement) in mixed.task_id.iter_mut().zip(replaced) {
        *id = replacement.unwrap_or(*id);
    }
    let outcome = match subject.session.run(&mixed) {
        Ok(outputs) => {
            for (index, reference) in references.iter().enumerate() {
                let expected = reference.slice(s![..LENGTH, ..]);
                match replaced[index] {
                    Some(id) => must_be_nan(&mut comparison, &outputs, index, id, &mixed.describe()),
                    None => comparison.add_rows(outputs.logits.slice(s![index, .., ..]), expected, |position| {
                        format!("beside rows with unknown ids, {}, row {index}, position {position}", mixed.describe())
                    }),
                }
            }
            "rows with unknown ids are NaN"
        }
        Err(RuntimeError::Run { .. }) => {
            // One id may have raised it for all: each has to, or be NaN.
            for id in bad {
                let mut one = valid.clone();
                if let Some(last) = one.task_id.last_mut() {
                    *last = id;
                }
                if let Ok(outputs) = subject.session.run(&one) {
                    must_be_nan(&mut comparison, &outputs, batch.len() - 1, id, &one.describe());
                }
            }
            "the runtime raises an error on unknown ids"
        }
        Err(error) => return Err(error),
    };
    let compared = format!("task_id {bad:?} beside valid rows; {outcome}; valid rows against one full run");
    Ok(vec![comparison.result(NAME, None, &compared)])
}

/// Ids that are none of `tasks` tasks': -1 wraps to the last task in some runtimes; 2^32 becomes task 0 when an index is narrowed to 32
/// bits.
pub(crate) fn unknown_ids(tasks: usize) -> [i64; 5] {
    [-1, tasks as i64, 1 << 32, i64::MAX, i64::MIN]
}

/// Row `row` of `outputs`, whose id is `id`, has no number in it. `place` says what was run.
pub(crate) fn must_be_nan(comparison: &mut Comparison, outputs: &Outputs, row: usize, id: i64, place: &str) {
    if !outputs.logits.slice(s![row, .., ..]).iter().all(|logit| logit.is_nan()) {
        comparison.fail(|| format!("task_id {id} was answered: row {row} of {place} has logits that are not NaN"));
    }
    for (layer, cache) in outputs.present.iter().enumerate() {
        let parts = [&cache.key, &cache.value];
        if !parts.into_iter().all(|part| part.slice(s![row, .., .., ..]).iter().all(|value| value.is_nan())) {
            comparison
                .fail(|| format!("task_id {id}: row {row} of {place} has a cache in layer {layer} that is not NaN"));
        }
    }
}
