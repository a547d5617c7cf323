//! The scorer: log-likelihoods of answers against those from the logits of `model.onnx`, and rows of drawn batches against themselves.

use super::super::compare::{Comparison, PerTask};
use super::super::fuzz::DrawnPrompts;
use super::super::{CheckOptions, Prepared};
use crate::{Padding, Row, RuntimeError, ScoreRow, Scorer, Session, score};
use ndarray::{Array2, ArrayView1, s};
use pemlc_artifact::artifact::{CheckResult, GraphRecord};
use std::collections::BTreeSet;
use std::path::Path;

pub(super) fn check(
    session: &mut dyn Session,
    path: &Path,
    prepared: &Prepared,
    record: &GraphRecord,
    options: &CheckOptions,
) -> Result<Vec<CheckResult>, RuntimeError> {
    let mut scorer = Scorer::open(session.kind(), path, &options.open)?;
    let mut per_task = PerTask::new(&prepared.tasks, &prepared.tolerances);
    likelihoods(session, &mut scorer, prepared, record, &mut per_task)?;
    let mut answered = Comparison::new(prepared.tolerances.widest());
    let drawn = options.drawn.quarter();
    for number in drawn.numbers() {
        batch(
            &mut scorer,
            prepared,
            record,
            &drawn.prompts(number, prepared.tasks.len()),
            &mut per_task,
            &mut answered,
        )?;
    }
    let compared = "log-likelihoods against model.onnx, drawn batches against each row alone";
    let mut results = per_task.results(&record.file, compared);
    if answered.has_failed() {
        results.push(answered.result(&record.file, None, compared));
    }
    Ok(results)
}

/// Every probe's tokens as a prompt, all in one batch padded on either side, against likelihoods from the logits of `model.onnx`.
fn likelihoods(
    session: &mut dyn Session,
    scorer: &mut Scorer,
    prepared: &Prepared,
    record: &GraphRecord,
    per_task: &mut PerTask<'_>,
) -> Result<(), RuntimeError> {
    let probes = &prepared.probes;
    let row = |probe: usize| Row { tokens: &probes.tokens[probe], task_id: probes.tasks[probe] as i64 };
    let rows: Vec<Row<'_>> = (0..probes.tokens.len()).map(row).collect();
    let left = scores(scorer, prepared, &rows, probes.longest(), Padding::Left)?;
    let right = scores(scorer, prepared, &rows, probes.longest(), Padding::Right)?;
    for (probe, row) in rows.iter().enumerate() {
        let task = probes.tasks[probe];
        let answers = record.answers.get(task).map_or(&[][..], Vec::as_slice);
        // The base model as a task has no answers of its own.
        if answers.is_empty() {
            continue;
        }
        let mut likelihoods = Vec::with_capacity(answers.len());
        for answer in answers {
            let read = answer.len().saturating_sub(1);
            let prompt = row.tokens.iter().filter_map(|token| u32::try_from(*token).ok());
            let places = answer.iter().enumerate().map(|(place, token)| (row.tokens.len() - 1 + place, *token));
            let request = ScoreRow {
                tokens: prompt.chain(answer.iter().take(read).copied()).collect(),
                task_id: row.task_id,
                queries: places.collect(),
            };
            let scores = score(session, &[request])?;
            likelihoods.push(scores.iter().flatten().map(|token| token.log_probability).sum::<f64>() as f32);
        }
        for (padding, found) in [("left", &left), ("right", &right)] {
            let own = found.slice(s![probe, ..answers.len().min(found.ncols())]);
            let place = || format!("probe {probe}, {padding}-padded");
            per_task.of(task).add(own, ArrayView1::from(&likelihoods), place);
        }
    }
    Ok(())
}

/// One drawn batch: rows as they are alone, NaN in the rows of unknown ids.
fn batch(
    scorer: &mut Scorer,
    prepared: &Prepared,
    record: &GraphRecord,
    drawn: &DrawnPrompts,
    per_task: &mut PerTask<'_>,
    answered: &mut Comparison,
) -> Result<(), RuntimeError> {
    let source: Vec<i64> = prepared.probes.tokens.iter().flatten().copied().collect();
    let texts = drawn.texts(&source);
    let row = |(tokens, task_id)| Row { tokens, task_id };
    let mut rows: Vec<Row<'_>> = texts.iter().map(Vec::as_slice).zip(drawn.task_ids()).map(row).collect();
    let known = |row: &Row<'_>| usize::try_from(row.task_id).ok().filter(|task| *task < prepared.tasks.len());
    let found = match scores(scorer, prepared, &rows, drawn.length, drawn.padding) {
        // A runtime may refuse unknown ids.
        Err(RuntimeError::Run { .. }) if rows.iter().any(|row| known(row).is_none()) => {
            rows.retain(|row| known(row).is_some());
            if rows.is_empty() {
                return Ok(());
            }
            scores(scorer, prepared, &rows, drawn.length, drawn.padding)?
        }
        answer => answer?,
    };
    for (index, row) in rows.iter().enumerate() {
        let Some(task) = known(row) else {
            if !found.row(index).iter().all(|score| score.is_nan()) {
                answered.fail(|| format!("task_id {} was answered: row {index} of {}", row.task_id, drawn.describe()));
            }
            continue;
        };
        let alone = scorer.scores(std::slice::from_ref(row), row.tokens.len(), Padding::Right)?;
        let answers = record.answers.get(task).map_or(0, Vec::len);
        if answers == 0 {
            continue;
        }
        let own = |scores: &Array2<f32>, row: usize| scores.slice(s![row, ..answers]).to_owned();
        let place = || format!("{}, row {index}", drawn.describe());
        per_task.of(task).add(own(&found, index).view(), own(&alone, 0).view(), place);
    }
    Ok(())
}

/// Scores of `rows`; of a graph that takes batches of one task, each task's rows by themselves.
fn scores(
    scorer: &mut Scorer,
    prepared: &Prepared,
    rows: &[Row<'_>],
    length: usize,
    padding: Padding,
) -> Result<Array2<f32>, RuntimeError> {
    if !prepared.manifest.one_task_per_batch {
        return scorer.scores(rows, length, padding);
    }
    let tasks: BTreeSet<i64> = rows.iter().map(|row| row.task_id).collect();
    let mut whole: Option<Array2<f32>> = None;
    for task in tasks {
        let places: Vec<usize> = (0..rows.len()).filter(|place| rows[*place].task_id == task).collect();
        let own: Vec<Row<'_>> = places.iter().map(|place| rows[*place]).collect();
        let part = scorer.scores(&own, length, padding)?;
        let whole = whole.get_or_insert_with(|| Array2::zeros((rows.len(), part.ncols())));
        for (place, scores) in places.iter().zip(part.rows()) {
            whole.row_mut(*place).assign(&scores);
        }
    }
    whole.ok_or_else(|| RuntimeError::Inputs("a batch without rows".to_owned()))
}
