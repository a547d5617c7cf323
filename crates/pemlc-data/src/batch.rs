//! Rows of tokens, padded to one rectangle.

/// A training batch. The rows are padded on the right to the longest one; the loss is on the answers' tokens alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Rows.
    pub rows: usize,
    /// Columns: tokens of the longest row.
    pub length: usize,
    /// `[rows, length]`, row after row; padding is token 0.
    pub input_ids: Vec<i64>,
    /// `[rows, length]`: 1 for a token, 0 for padding.
    pub attention_mask: Vec<i64>,
    /// `[rows]`: index of each row's task.
    pub task_ids: Vec<i64>,
    /// What to predict, in order of rows and positions.
    pub targets: Vec<Target>,
    /// `[rows]`: `file:line` of each row's example.
    pub example_ids: Vec<String>,
}

/// Predict `token` from the hidden state at `position` of `row`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// Row of the batch.
    pub row: usize,
    /// Column of the batch.
    pub position: usize,
    /// The right token.
    pub token: u32,
}

/// `input_ids` and `attention_mask` of rows padded on the right, and their length.
pub(crate) fn pad<'a>(rows: impl Iterator<Item = &'a [u32]> + Clone) -> (Vec<i64>, Vec<i64>, usize) {
    let length = rows.clone().map(<[u32]>::len).max().unwrap_or(0);
    let mut input_ids = Vec::new();
    let mut attention_mask = Vec::new();
    for row in rows {
        input_ids.extend(row.iter().map(|&token| i64::from(token)));
        attention_mask.extend(row.iter().map(|_| 1));
        input_ids.extend(std::iter::repeat_n(0, length - row.len()));
        attention_mask.extend(std::iter::repeat_n(0, length - row.len()));
    }
    (input_ids, attention_mask, length)
}
