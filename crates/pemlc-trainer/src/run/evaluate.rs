//! Scores of the validation examples, by the likelihood of their answers.

use super::prepare::Prepared;
use crate::adaptation::Adaptation;
use crate::backbone::{Backbone, Input, Query};
use pemlc_data::{Prediction, Task, evaluate_metric, predict, predict_free_text, scoring_batches, scoring_rows};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

/// Mean of all tasks' scores on the validation examples that a finished run is scored on, and how many tokens were read. `None` when `stop`
/// was set meanwhile.
pub(crate) fn mean(run: &Prepared, adaptation: &Adaptation, stop: &AtomicBool) -> Option<(f64, u64)> {
    let (tasks, evaluation) = (&run.tasks.tasks, &run.config.evaluation);
    let (mut total, mut tokens) = (0.0, 0);
    for (index, task) in tasks.iter().enumerate() {
        let (limit, rows) = (evaluation.limit, evaluation.batch_size);
        let (scored, read) = score(&run.backbone, adaptation, index, task, limit, rows, stop)?;
        total += evaluate_metric(task, &scored).value;
        tokens += read;
    }
    Some((total / tasks.len().max(1) as f64, tokens))
}

/// What a model answers to a task's validation examples, at most `limit` of them, in file order, and how many tokens it read. `None` when `stop` was set meanwhile.
pub(crate) fn score(
    backbone: &Backbone,
    adaptation: &Adaptation,
    index: usize,
    task: &Task,
    limit: usize,
    batch_size: usize,
    stop: &AtomicBool,
) -> Option<(Vec<Prediction>, u64)> {
    /// Log-likelihood of each answer, and whether greedy decoding gives it.
    type Answers = Vec<(f64, bool)>;
    let mut examples: BTreeMap<usize, Answers> = BTreeMap::new();
    let mut tokens = 0;
    for batch in scoring_batches(scoring_rows(index, task, Some(limit)), batch_size) {
        if stop.load(Ordering::Relaxed) {
            return None;
        }
        let input = Input {
            rows: batch.rows.len(),
            length: batch.length,
            input_ids: &batch.input_ids,
            attention_mask: &batch.attention_mask,
            task_ids: &batch.task_ids,
        };
        tokens += batch.attention_mask.iter().sum::<i64>() as u64;
        let places = batch
            .rows
            .iter()
            .enumerate()
            .flat_map(|(row, scoring)| scoring.queries.iter().map(move |query| (row, scoring.example, query)));
        let queries: Vec<Query> = places
            .clone()
            .map(|(row, _, query)| Query { position: row * batch.length + query.position, token: query.token })
            .collect();
        let scores = backbone.score(&input, &queries, adaptation);
        for ((_, example, query), score) in places.zip(scores) {
            let count = task.validation[example].answers.len();
            let answers = examples.entry(example).or_insert_with(|| vec![(0.0, true); count]);
            let (total, greedy) = &mut answers[query.choice];
            *total += score.log_probability;
            *greedy &= score.greedy;
        }
    }
    let prediction = |(example, answers): (usize, Answers)| {
        let example = &task.validation[example];
        match answers.first() {
            Some((total, greedy)) if task.is_free_text() => predict_free_text(task, example, *total, *greedy),
            _ => predict(task, example, &answers.iter().map(|(total, _)| *total).collect::<Vec<_>>()),
        }
    };
    Some((examples.into_iter().map(prediction).collect(), tokens))
}
