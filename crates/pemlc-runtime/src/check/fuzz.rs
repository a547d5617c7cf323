//! Batches of drawn sizes: every row as it is alone, without padding or cache.

use super::bad_task_id;
use super::compare::{Comparison, PerTask};
use super::drawn::{Case, Drawn, DrawnRow};
use super::subject::Subject;
use crate::{Inputs, Outputs, Padding, Row, RuntimeError};
use ndarray::s;
use pemlc_artifact::artifact::CheckResult;
use std::collections::BTreeSet;

const NAME: &str = "drawn-shapes";

/// Draws and checks the cases of `drawn`, and more until every task was drawn; none is longer than `positions` tokens.
pub(crate) fn check(
    subject: &mut Subject<'_>,
    drawn: &Drawn,
    positions: usize,
) -> Result<Vec<CheckResult>, RuntimeError> {
    let mut per_task = subject.per_task();
    let mut answered = Comparison::new(subject.tolerances.widest());
    let source: Vec<i64> = subject.probes.tokens.iter().flatten().copied().collect();
    let (tasks, takes_ids) = (subject.tasks.len(), subject.session.takes_task_id());
    let mut undrawn: BTreeSet<usize> = (0..tasks).collect();
    let mut count = 0;
    let further = drawn.further(tasks).map(|number| (number, true));
    for (number, is_further) in drawn.numbers().map(|number| (number, false)).chain(further) {
        if is_further && undrawn.is_empty() {
            break;
        }
        let case = Case::draw(drawn, number, tasks, takes_ids, subject.probes.vocabulary(), positions);
        run(subject, &case, &source, &mut per_task, &mut answered)?;
        for task in case.rows.iter().filter_map(|row| task(subject, row)) {
            undrawn.remove(&task);
        }
        count += 1;
    }
    let compared = format!("{count} drawn batches of seed {}, each row against itself alone", drawn.seed);
    let mut results = per_task.results(NAME, &compared);
    if answered.has_failed() {
        results.push(answered.result(NAME, None, &compared));
    }
    Ok(results)
}

/// `answered` fails when an unknown id was.
fn run(
    subject: &mut Subject<'_>,
    case: &Case,
    source: &[i64],
    per_task: &mut PerTask<'_>,
    answered: &mut Comparison,
) -> Result<(), RuntimeError> {
    let text = |row: &DrawnRow| -> Vec<i64> {
        let tokens = source.iter().copied().cycle().skip(row.source % source.len().max(1));
        tokens.take(row.cached.count + row.new.count).collect()
    };
    let texts: Vec<Vec<i64>> = case.rows.iter().map(text).collect();
    let outputs = match answer(subject, case, &texts) {
        Ok(outputs) => outputs,
        // A runtime may refuse unknown ids; then the rows beside them are run without.
        Err(RuntimeError::Run { .. }) if case.rows.iter().any(|row| task(subject, row).is_none()) => {
            let rows = case.rows.iter().filter(|row| task(subject, row).is_some()).cloned().collect();
            let known = Case { rows, ..*case };
            return if known.rows.is_empty() { Ok(()) } else { run(subject, &known, source, per_task, answered) };
        }
        Err(error) => return Err(error),
    };
    for (index, (row, tokens)) in case.rows.iter().zip(&texts).enumerate() {
        let Some(task) = task(subject, row) else {
            bad_task_id::must_be_nan(answered, &outputs, index, row.task_id, &case.describe());
            continue;
        };
        let alone = Row { tokens, task_id: row.task_id };
        let alone = subject.session.run(&Inputs::prefill(&[alone], tokens.len(), Padding::Right))?;
        let found = outputs.logits.slice(s![index, row.new.start..row.new.start + row.new.count, ..]);
        let expected = alone.logits.slice(s![0, row.cached.count.., ..]);
        per_task
            .of(task)
            .add_rows(found, expected, |position| format!("{}, row {index}, new token {position}", case.describe()));
    }
    Ok(())
}

/// The row's task, unless its id is none's.
fn task(subject: &Subject<'_>, row: &DrawnRow) -> Option<usize> {
    usize::try_from(row.task_id).ok().filter(|task| *task < subject.tasks.len())
}

/// The cached tokens are run first, then the new ones behind them.
fn answer(subject: &mut Subject<'_>, case: &Case, texts: &[Vec<i64>]) -> Result<Outputs, RuntimeError> {
    let (first, mut second) = case.inputs(texts);
    if case.past > 0 {
        second.past = Some(subject.session.run(&first)?.present);
    }
    subject.session.run(&second)
}
