//! Batches of 1 to 5 rows and sequences of 1 to 40 tokens, ragged and right-padded, against one full run of the same rows.
//!
//! A causal model's logits at a position depend on nothing behind it, so that one full run has the answer for every shape. The full
//! run itself is held to `prefill`, which is held to the trainer.

use super::subject::{ROW_LENGTH, Subject};
use crate::{Padding, RuntimeError};
use ndarray::s;
use pemlc_artifact::artifact::CheckResult;

/// Batch and sequence.
const SHAPES: [(usize, usize); 8] = [(1, 1), (2, 3), (3, 17), (4, 8), (1, ROW_LENGTH), (5, 23), (4, 1), (2, 31)];

pub(crate) fn check(subject: &mut Subject<'_>) -> Result<Vec<CheckResult>, RuntimeError> {
    let mut per_task = subject.per_task();
    let reference = subject.reference()?;
    for (index, row) in subject.rows.iter().enumerate() {
        if let Some(beginning) = subject.beginnings.get(&row.probe) {
            per_task.of(row.task).add_rows(reference.slice(s![index, .., ..]), beginning.view(), |position| {
                format!("sequence {ROW_LENGTH} against prefill, row {index}, position {position}")
            });
        }
    }
    let mut first = 0;
    for (batch_size, length) in SHAPES {
        let batch: Vec<(usize, usize)> =
            (0..batch_size).map(|index| ((first + index) % subject.rows.len(), used(index, length))).collect();
        // Other rows, and so other tasks, for the next shape.
        first += batch_size;
        let outputs = subject.session.run(&subject.inputs(&batch, length, Padding::Right))?;
        for (index, &(row, used)) in batch.iter().enumerate() {
            let found = outputs.logits.slice(s![index, ..used, ..]);
            per_task.of(subject.rows[row].task).add_rows(found, reference.slice(s![row, .., ..]), |position| {
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
