//! Rows that a model runs to score every candidate answer.

use crate::batch::pad;
use crate::task::{Task, evenly_spaced};

/// One row to run, and what to read from its logits. Over all rows of an example,
/// `loglik[choice] += log p(token | hidden state at position)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScoringRow {
    /// Index of the task.
    pub task: usize,
    /// Index into the task's validation examples.
    pub example: usize,
    /// Tokens to run.
    pub tokens: Vec<u32>,
    /// What to read.
    pub queries: Vec<Query>,
}

/// Add `log p(token | hidden state at position)` to the log-likelihood of `choice`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query {
    /// Position in the row.
    pub position: usize,
    /// Token whose probability counts.
    pub token: u32,
    /// Index of the answer that it belongs to.
    pub choice: usize,
}

/// Scoring rows padded on the right to one rectangle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScoringBatch {
    /// The rows.
    pub rows: Vec<ScoringRow>,
    /// Columns: tokens of the longest row.
    pub length: usize,
    /// `[rows, length]`; padding is token 0.
    pub input_ids: Vec<i64>,
    /// `[rows, length]`: 1 for a token, 0 for padding.
    pub attention_mask: Vec<i64>,
    /// `[rows]`.
    pub task_ids: Vec<i64>,
}

/// The rows that score a task's validation examples, at most `limit` of them, spread evenly.
///
/// An example whose answers differ in their last token alone (one-token answers do) is one row; any other has a row for each
/// answer.
pub fn scoring_rows(task_index: usize, task: &Task, limit: Option<usize>) -> Vec<ScoringRow> {
    let mut rows = Vec::new();
    for index in evenly_spaced(task.validation.len(), limit) {
        let example = &task.validation[index];
        let first = example.first_position();
        let queries = |choice: usize, answer: &[u32]| -> Vec<Query> {
            let query = |(offset, &token)| Query { position: first + offset, token, choice };
            answer.iter().enumerate().map(query).collect()
        };
        let row = |tokens, queries| ScoringRow { task: task_index, example: index, tokens, queries };
        let answers = || example.answers.iter().enumerate();
        let inputs: Vec<Vec<u32>> = example.answers.iter().map(|answer| example.input_for(answer)).collect();
        match inputs.split_first() {
            Some((first, others)) if others.iter().all(|other| other == first) => {
                let all = answers().flat_map(|(choice, answer)| queries(choice, answer)).collect();
                rows.push(row(first.clone(), all));
            }
            _ => {
                let each = inputs.into_iter().zip(answers());
                rows.extend(each.map(|(tokens, (choice, answer))| row(tokens, queries(choice, answer))));
            }
        }
    }
    rows
}

/// Batches of rows of like length, the longest first (so that a lack of memory shows at once). Equal lengths keep their order.
pub fn scoring_batches(mut rows: Vec<ScoringRow>, batch_size: usize) -> Vec<ScoringBatch> {
    rows.sort_by_key(|row| std::cmp::Reverse(row.tokens.len()));
    let batch = |rows: &[ScoringRow]| {
        let (input_ids, attention_mask, length) = pad(rows.iter().map(|row| row.tokens.as_slice()));
        let task_ids = rows.iter().map(|row| row.task as i64).collect();
        ScoringBatch { rows: rows.to_vec(), length, input_ids, attention_mask, task_ids }
    };
    rows.chunks(batch_size.max(1)).map(batch).collect()
}
