//! The scorer: log-likelihoods of answers against those from the logits of `model.onnx`, and rows of drawn batches against themselves.

use super::super::bad_task_id::unknown_ids;
use super::super::compare::{Comparison, PerTask};
use super::super::prompts::DrawnPrompts;
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
    let mut found = Findings {
        record,
        per_task: PerTask::new(&prepared.tasks, &prepared.tolerances),
        other: Comparison::new(prepared.tolerances.widest()),
    };
    likelihoods(session, &mut scorer, prepared, &mut found)?;
    unknown(&mut scorer, prepared, &mut found)?;
    let drawn = options.drawn.quarter();
    for number in drawn.numbers() {
        let prompts = DrawnPrompts::draw(&drawn, number, prepared.tasks.len());
        batch(&mut scorer, prepared, &prompts, &mut found)?;
    }
    let mut compared = "log-likelihoods against model.onnx, drawn batches against each row alone".to_owned();
    if prepared.manifest.one_task_per_batch {
        mixed(&mut scorer, prepared, &mut found)?;
        compared.push_str(", rows of other tasks than the first row's are NaN");
    }
    let mut results = found.per_task.results(&record.file, &compared);
    if found.other.has_failed() {
        results.push(found.other.result(&record.file, None, &compared));
    }
    Ok(results)
}

/// What was found so far.
struct Findings<'a> {
    record: &'a GraphRecord,
    per_task: PerTask<'a>,
    /// Rows of unknown tasks, and of tasks without answers.
    other: Comparison,
}

impl Findings<'_> {
    /// How many answers `task` has: the base model as a task has none.
    fn answers(&self, task: usize) -> usize {
        self.record.answers.get(task).map_or(0, Vec::len)
    }

    /// One row of `task`: the scores of its answers, and none where other tasks have more answers.
    fn add(
        &mut self,
        task: usize,
        found: ArrayView1<'_, f32>,
        expected: ArrayView1<'_, f32>,
        place: impl Fn() -> String,
    ) {
        let answers = self.answers(task);
        let own = answers.min(found.len());
        let comparison = if answers == 0 { &mut self.other } else { self.per_task.of(task) };
        let absent = found.iter().enumerate().skip(own).find(|(_, score)| **score != f32::NEG_INFINITY);
        if let Some((column, score)) = absent {
            comparison.fail(|| format!("{}: score {column} is {score}, but the task has {answers} answers", place()));
        }
        if answers > 0 {
            comparison.add(found.slice(s![..own]), expected.slice(s![..answers.min(expected.len())]), place);
        }
    }
}

/// Every probe's tokens as a prompt, all in one batch padded on either side, against likelihoods from the logits of `model.onnx`.
fn likelihoods(
    session: &mut dyn Session,
    scorer: &mut Scorer,
    prepared: &Prepared,
    findings: &mut Findings<'_>,
) -> Result<(), RuntimeError> {
    let probes = &prepared.probes;
    let row = |probe: usize| Row { tokens: &probes.tokens[probe], task_id: probes.tasks[probe] as i64 };
    let rows: Vec<Row<'_>> = (0..probes.tokens.len()).map(row).collect();
    let left = scores(scorer, prepared, &rows, probes.longest(), Padding::Left)?;
    let right = scores(scorer, prepared, &rows, probes.longest(), Padding::Right)?;
    for (probe, row) in rows.iter().enumerate() {
        let task = probes.tasks[probe];
        let answers = findings.record.answers.get(task).map_or(&[][..], Vec::as_slice);
        let mut likelihoods: Vec<f32> = Vec::with_capacity(answers.len());
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
            let place = || format!("probe {probe}, {padding}-padded");
            findings.add(task, found.row(probe), ArrayView1::from(&likelihoods), place);
        }
    }
    Ok(())
}

/// Each id that is no task's beside task 0: its row is NaN, or the runtime raises an error.
fn unknown(scorer: &mut Scorer, prepared: &Prepared, findings: &mut Findings<'_>) -> Result<(), RuntimeError> {
    let tokens = &prepared.probes.tokens[0];
    let row = |task_id: i64| Row { tokens, task_id };
    for id in unknown_ids(prepared.tasks.len()) {
        match scorer.scores(&[row(0), row(id)], tokens.len(), Padding::Right) {
            Ok(found) if found.row(1).iter().all(|score| score.is_nan()) => {}
            Ok(_) => findings.other.fail(|| format!("task_id {id} was answered beside task 0")),
            Err(RuntimeError::Run { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// One drawn batch: rows as they are alone, NaN in the rows of unknown ids.
fn batch(
    scorer: &mut Scorer,
    prepared: &Prepared,
    drawn: &DrawnPrompts,
    findings: &mut Findings<'_>,
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
        let place = || format!("{}, row {index}", drawn.describe());
        match known(row) {
            Some(task) => {
                let alone = scorer.scores(std::slice::from_ref(row), row.tokens.len(), Padding::Right)?;
                findings.add(task, found.row(index), alone.row(0), place);
            }
            None if found.row(index).iter().all(|score| score.is_nan()) => {}
            None => findings.other.fail(|| format!("task_id {} was answered: {}", row.task_id, place())),
        }
    }
    Ok(())
}

/// Batches of two tasks each, every task once the first row's: rows of the other have no scores.
fn mixed(scorer: &mut Scorer, prepared: &Prepared, findings: &mut Findings<'_>) -> Result<(), RuntimeError> {
    let tokens = &prepared.probes.tokens[0];
    let row = |task: usize| Row { tokens, task_id: task as i64 };
    let tasks = prepared.tasks.len();
    for (first, other) in (0..tasks).map(|task| (task, (task + 1) % tasks)).filter(|(first, other)| first != other) {
        let alone = scorer.scores(&[row(first)], tokens.len(), Padding::Right)?;
        let found = scorer.scores(&[row(first), row(other), row(first)], tokens.len(), Padding::Right)?;
        let place = || format!("rows of task_id {first}, {other} and {first}");
        for index in [0, 2] {
            findings.add(first, found.row(index), alone.row(0), place);
        }
        if !found.row(1).iter().all(|score| score.is_nan()) {
            findings.other.fail(|| format!("{}: the second row, of another task than the first, has scores", place()));
        }
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
