//! Batches of 1 to 5 rows and sequences of 1 to 40 tokens, ragged and right-padded, against one full run of the same rows.
//!
//! A causal model's logits at a position depend on nothing behind it, so that one full run has the answer for every shape. The full
//! run itself is held to `prefill`, which is held to the trainer.

use super::subject::{MOST_ROWS, ROW_LENGTH, Subject};
use crate::{Padding, RuntimeError};
use ndarray::s;
use pemlc_artifact::artifact::CheckResult;

/// Batch and sequence.
const SHAPES: [(usize, usize); 8] = [(1, 1), (2, 3), (3, 17), (4, 8), (1, ROW_LENGTH), (5, 23), (4, 1), (2, 31)];

pub(crate) fn check(subject: &mut Subject<'_>) -> Result<Vec<CheckResult>, RuntimeError> {
    let mut per_task = subject.per_task();
    let rows: Vec<usize> = (0..subject.rows.len()).collect();
    for rows in rows.chunks(MOST_ROWS) {
        let references = subject.references(rows)?;
        for (&index, reference) in rows.iter().zip(&references) {
            let row = &subject.rows[index];
            if let Some(beginning) = subject.beginnings.get(&row.probe) {
                per_task.of(row.task).add_rows(reference.view(), beginning.view(), |position| {
                    format!("sequence {ROW_LENGTH} against prefill, row {index}, position {position}")
                });
            }
        }
    }
    // Again from the first shape until every row, and so every task, had its turn.
    let rounds = rows.len().div_ceil(SHAPES.iter().map(|(batch_size, _)| batch_size).sum());
    let mut first = 0;
    for (batch_size, length) in SHAPES.into_iter().cycle().take(rounds * SHAPES.len()) {
        let chosen: Vec<usize> = (first..first + batch_size).map(|row| row % rows.len()).collect();
        let batch: Vec<(usize, usize)> =
            chosen.iter().enumerate().map(|(index, row)| (*row, used(index, length))).collect();
        // Other rows, and so other tasks, for the next shape.
        first += batch_size;
        let references = subject.references(&chosen)?;
        let outputs = subject.session.run(&subject.inputs(&batch, length, Padding::Right))?;
        for (index, &(row, used)) in batch.iter().enumerate() {
            let found = outputs.logits.slice(s![index, ..used, ..]);
            per_task.of(subject.rows[row].task).add_rows(found, references[index].view(), |position| {
                format!("batch {batch_size}, sequence {length}, row {index} of {used} tokens, position {position}")
            });
        }
    }
    Ok(per_task.results("shapes", "batch 1-5, sequence 1-40, right-padded, against one full run"))
}

/// Tokens of batch row `index`: the first row fills the sequence, others are shorter.
fn used(index: usize, length: usize) -> usize {
    length - (index * 5) % length
}
