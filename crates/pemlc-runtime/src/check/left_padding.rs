//! Rows of unlike lengths padded on the left, as clients do for generation, and one cached step after them, against one full run.

use super::compare::PerTask;
use super::subject::{Subject, groups};
use crate::{Inputs, Padding, RuntimeError};
use ndarray::{Array2, s};
use pemlc_artifact::artifact::CheckResult;

/// Lengths of a batch's rows. The first is the longest and has no padding: every row is another than the first in some batch.
const LENGTHS: [usize; 4] = [12, 7, 1, 10];

pub(crate) fn check(subject: &mut Subject<'_>) -> Result<Vec<CheckResult>, RuntimeError> {
    let mut per_task = subject.per_task();
    for rows in groups(subject.rows.len(), LENGTHS.len()) {
        batch(subject, &rows, &mut per_task)?;
    }
    Ok(per_task.results("left-padding", "left-padded rows and a cached step, against one full run without padding"))
}

/// One batch of `rows`, as many as there are lengths.
fn batch(subject: &mut Subject<'_>, rows: &[usize], per_task: &mut PerTask<'_>) -> Result<(), RuntimeError> {
    let references = subject.references(rows)?;
    let longest = LENGTHS.into_iter().max().unwrap_or(1);
    let batch: Vec<(usize, usize)> = rows.iter().copied().zip(LENGTHS).collect();
    let inputs = subject.inputs(&batch, longest, Padding::Left);
    let outputs = subject.session.run(&inputs)?;
    for (index, &(row, used)) in batch.iter().enumerate() {
        let found = outputs.logits.slice(s![index, longest - used.., ..]);
        per_task.of(subject.rows[row].task).add_rows(found, references[index].view(), |position| {
            format!("row {index} of {used} tokens after {} of padding, position {position}", longest - used)
        });
    }

    let next = Array2::from_shape_fn((batch.len(), 1), |(index, _)| {
        let (row, used) = batch[index];
        subject.rows[row].tokens[used]
    });
    let inputs = Inputs::continued(&inputs.attention_mask, next, inputs.task_id, outputs.present);
    let outputs = subject.session.run(&inputs)?;
    for (index, &(row, used)) in batch.iter().enumerate() {
        let found = outputs.logits.slice(s![index, 0, ..]);
        per_task.of(subject.rows[row].task).add(found, references[index].slice(s![used, ..]), || {
            format!("row {index}, cached step after {used} tokens and {} of padding", longest - used)
        });
    }
    Ok(())
}
