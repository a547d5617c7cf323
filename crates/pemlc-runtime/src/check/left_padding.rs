//! Rows of unlike lengths padded on the left, as clients do for generation, and one cached step after them, against one full run.

use super::subject::Subject;
use crate::{Inputs, Padding, RuntimeError};
use ndarray::{Array2, s};
use pemlc_artifact::artifact::CheckResult;

const LENGTHS: [usize; 4] = [12, 7, 1, 10];

pub(crate) fn check(subject: &mut Subject<'_>) -> Result<Vec<CheckResult>, RuntimeError> {
    let mut per_task = subject.per_task();
    let reference = subject.reference()?;
    let longest = LENGTHS.into_iter().max().unwrap_or(1);
    let batch: Vec<(usize, usize)> =
        LENGTHS.into_iter().enumerate().map(|(index, used)| (index % subject.rows.len(), used)).collect();
    let inputs = subject.inputs(&batch, longest, Padding::Left);
    let outputs = subject.session.run(&inputs)?;
    for (index, &(row, used)) in batch.iter().enumerate() {
        let found = outputs.logits.slice(s![index, longest - used.., ..]);
        per_task.of(subject.rows[row].task).add_rows(found, reference.slice(s![row, .., ..]), |position| {
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
        per_task.of(subject.rows[row].task).add(found, reference.slice(s![row, used, ..]), || {
            format!("row {index}, cached step after {used} tokens and {} of padding", longest - used)
        });
    }
    Ok(per_task.results("left-padding", "left-padded rows and a cached step, against one full run without padding"))
}
