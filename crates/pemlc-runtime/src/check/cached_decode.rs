//! Tokens fed one by one and in chunks through the cache, against one full run.

use super::compare::PerTask;
use super::subject::{MOST_ROWS, Reference, Subject, groups};
use crate::{Inputs, KeyValue, Outputs, RuntimeError};
use ndarray::{Array2, s};
use pemlc_artifact::artifact::CheckResult;

/// Chunk lengths of two passes: a prompt and then tokens one by one; from one token on in chunks.
const PASSES: [&[usize]; 2] = [&[6, 1, 1, 1, 5], &[1, 4, 3]];

pub(crate) fn check(subject: &mut Subject<'_>) -> Result<Vec<CheckResult>, RuntimeError> {
    let mut per_task = subject.per_task();
    for rows in groups(subject.rows.len(), MOST_ROWS) {
        let references = subject.references(&rows)?;
        for chunks in PASSES {
            decode(subject, &rows, chunks, &references, &mut per_task)?;
        }
    }
    Ok(per_task.results("cached-decode", "token by token and in chunks, against one full run"))
}

fn decode(
    subject: &mut Subject<'_>,
    rows: &[usize],
    chunks: &[usize],
    references: &[Reference],
    per_task: &mut PerTask<'_>,
) -> Result<(), RuntimeError> {
    let mut past: Option<Vec<KeyValue>> = None;
    let mut done = 0;
    for &chunk in chunks {
        let tokens = Array2::from_shape_fn((rows.len(), chunk), |(index, offset)| {
            subject.rows[rows[index]].tokens[done + offset]
        });
        let task_id = rows.iter().map(|&row| subject.rows[row].task as i64).collect();
        let mut inputs =
            Inputs::continued(&Array2::ones((rows.len(), done)), tokens, task_id, past.unwrap_or_default());
        if done == 0 {
            inputs.past = None;
        }
        let outputs = subject.session.run(&inputs)?;
        for (index, &row) in rows.iter().enumerate() {
            let comparison = per_task.of(subject.rows[row].task);
            let expected = references[index].slice(s![done..done + chunk, ..]);
            comparison.add_rows(outputs.logits.slice(s![index, .., ..]), expected, |offset| {
                format!(
                    "batch {}, {chunk} tokens after {done} cached, row {index}, position {}",
                    rows.len(),
                    done + offset
                )
            });
            if let Some(name) = changed(inputs.past.as_deref(), &outputs, index) {
                comparison.fail(|| {
                    format!(
                        "batch {}, {chunk} tokens after {done} cached, row {index}: {name} rewrites the cache",
                        rows.len()
                    )
                });
            }
        }
        done += chunk;
        past = Some(outputs.present);
    }
    Ok(())
}

/// The output whose first columns are not the cache that went in.
fn changed(past: Option<&[KeyValue]>, outputs: &Outputs, row: usize) -> Option<String> {
    for (layer, (before, after)) in past?.iter().zip(&outputs.present).enumerate() {
        let length = before.key.dim().2;
        for (part, before, after) in [("key", &before.key, &after.key), ("value", &before.value, &after.value)] {
            if before.slice(s![row, .., .., ..]) != after.slice(s![row, .., ..length, ..]) {
                return Some(format!("present.{layer}.{part}"));
            }
        }
    }
    None
}
