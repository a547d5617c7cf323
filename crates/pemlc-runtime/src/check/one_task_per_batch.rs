//! Of a graph that takes batches of one task: rows of another task than the first row's are NaN, and rows of its are what they are alone.

use super::compare::Comparison;
use super::probes::Probes;
use crate::{Inputs, Padding, Row, RuntimeError, Session};
use ndarray::s;
use pemlc_artifact::artifact::CheckResult;

const NAME: &str = "one-task-per-batch";
const LENGTH: usize = 8;

/// `session` is the graph itself, with nothing between.
pub(crate) fn check(
    session: &mut dyn Session,
    probes: &Probes,
    tasks: usize,
    tolerance: f64,
) -> Result<Vec<CheckResult>, RuntimeError> {
    let mut comparison = Comparison::new(tolerance);
    let tokens: Vec<i64> = probes.tokens.iter().flatten().copied().cycle().take(LENGTH).collect();
    let row = |task: usize| Row { tokens: &tokens, task_id: task as i64 };
    for first in 0..tasks {
        let alone = session.run(&Inputs::prefill(&[row(first)], LENGTH, Padding::Right))?;
        // Its own rows at both ends, one of each other task between.
        let order: Vec<usize> =
            std::iter::once(first).chain((0..tasks).filter(|task| *task != first)).chain([first]).collect();
        let rows: Vec<Row<'_>> = order.iter().map(|task| row(*task)).collect();
        let inputs = Inputs::prefill(&rows, LENGTH, Padding::Right);
        let mixed = session.run(&inputs)?;
        for (place, task) in order.iter().enumerate() {
            let found = mixed.logits.slice(s![place, .., ..]);
            let cache = || {
                let parts = mixed.present.iter().flat_map(|layer| [&layer.key, &layer.value]);
                parts.flat_map(move |part| part.slice(s![place, .., .., ..]).iter().copied().collect::<Vec<f32>>())
            };
            if *task == first {
                comparison.add_rows(found, alone.logits.slice(s![0, .., ..]), |position| {
                    format!("{}, row {place}, position {position}", inputs.describe())
                });
            } else if !found.iter().all(|logit| logit.is_nan()) || !cache().all(|value| value.is_nan()) {
                comparison.fail(|| {
                    format!("{}: row {place} of another task than the first row's was answered", inputs.describe())
                });
            }
        }
    }
    let compared = "rows of the first row's task against themselves alone; rows of other tasks are NaN";
    Ok(vec![comparison.result(NAME, None, compared)])
}
