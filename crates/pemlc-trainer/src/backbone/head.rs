//! The output head on the few positions that matter, in pieces: full logits of a batch would be the largest tensor of all.

use super::{Backbone, norm, wide};
use crate::adaptation::cast;
use crate::parameters::host;
use burn::tensor::{DType, IndexingUpdateOp, Int, Tensor, TensorData, activation::softmax, s};

/// Bytes of one piece of f32 logits.
const PIECE: usize = 32 << 20;

/// Rows of the output head whose number type is changed at a time.
const CAST_ROWS: usize = 4096;

/// Read the probability of `token` from the hidden state at `position` (counted over all rows).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query {
    /// `row * length + column`.
    pub position: usize,
    /// The token.
    pub token: u32,
}

/// What the model says of one token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenScore {
    /// Natural logarithm of its probability.
    pub log_probability: f64,
    /// Whether no token is likelier.
    pub greedy: bool,
}

impl Backbone {
    /// Sum of `-log p(token)` over `queries`, and its gradient, times `scale`, with respect to `x` `[tokens, hidden]`, the output of the
    /// last layer. By hand: `softmax(h E^T) E - E[token]` needs no one-hot matrix, and the logits of one piece at a time.
    pub(super) fn loss(&self, x: Tensor<2>, queries: &[Query], scale: f32) -> (f64, Tensor<2>) {
        let positions = self.indices(queries.iter().map(|query| query.position));
        let selected = x.clone().select(0, positions.clone());
        let (normalized, saved) = norm::forward(selected.clone(), &self.norm, self.config.rms_norm_eps);
        let head = self.output_head();
        let mut loss = 0.0;
        let mut gradients = Vec::new();
        for (piece, queries) in self.pieces(normalized, queries) {
            let logits = wide(piece.matmul(head.clone().transpose()));
            let probabilities = softmax(logits.clone(), 1);
            loss -= self.scores(logits, &probabilities, queries).iter().map(|score| score.log_probability).sum::<f64>();
            let tokens = self.indices(queries.iter().map(|query| query.token as usize));
            let right = head.clone().select(0, tokens);
            gradients.push((cast(probabilities, self.dtype).matmul(head.clone()) - right) * scale);
        }
        let gradient = norm::backward(selected, &self.norm, &saved, Tensor::cat(gradients, 0));
        (loss, x.zeros_like().select_assign(0, positions, gradient, IndexingUpdateOp::Add))
    }

    /// What the model says of each queried token, given the output of the last layer.
    pub(super) fn token_scores(&self, x: Tensor<2>, queries: &[Query]) -> Vec<TokenScore> {
        let positions = self.indices(queries.iter().map(|query| query.position));
        let (normalized, _) = norm::forward(x.select(0, positions), &self.norm, self.config.rms_norm_eps);
        let head = self.output_head().transpose();
        let mut scores = Vec::with_capacity(queries.len());
        for (piece, queries) in self.pieces(normalized, queries) {
            let logits = wide(piece.matmul(head.clone()));
            let probabilities = softmax(logits.clone(), 1);
            scores.extend(self.scores(logits, &probabilities, queries));
        }
        scores
    }

    /// Logits `[positions, vocab]`, f32 (f64 in an exact pass), at `positions` (counted over all rows).
    pub(super) fn logits_at(&self, x: Tensor<2>, positions: &[usize]) -> Tensor<2> {
        let positions = self.indices(positions.iter().copied());
        let (normalized, _) = norm::forward(x.select(0, positions), &self.norm, self.config.rms_norm_eps);
        let head = self.output_head();
        if head.dtype() == normalized.dtype() {
            return wide(normalized.matmul(head.transpose()));
        }
        // The largest weight of all is not held twice, in another number type.
        let part = |rows: Tensor<2>| normalized.clone().matmul(cast(rows, normalized.dtype()).transpose());
        wide(Tensor::cat(head.split(CAST_ROWS, 0).into_iter().map(part).collect(), 1))
    }

    fn scores(&self, logits: Tensor<2>, probabilities: &Tensor<2>, queries: &[Query]) -> Vec<TokenScore> {
        // log sum exp = largest logit - log of largest probability: no second pass of exponentials.
        let tokens = self.indices(queries.iter().map(|query| query.token as usize)).unsqueeze_dim::<2>(1);
        let chosen = host(logits.clone().gather(1, tokens));
        let largest = host(logits.max_dim(1));
        let share = host(probabilities.clone().max_dim(1));
        let score = |((chosen, largest), share): ((f32, f32), f32)| TokenScore {
            log_probability: f64::from(chosen) - f64::from(largest) + f64::from(share).ln(),
            greedy: chosen >= largest,
        };
        chosen.into_iter().zip(largest).zip(share).map(score).collect()
    }

    /// Pieces of rows of `x`, with their queries.
    fn pieces<'a>(&self, x: Tensor<2>, queries: &'a [Query]) -> impl Iterator<Item = (Tensor<2>, &'a [Query])> {
        let rows = (PIECE / 4 / self.config.vocab_size).max(1);
        queries.chunks(rows).enumerate().map(move |(index, queries)| {
            let start = index * rows;
            (x.clone().slice(s![start..start + queries.len(), ..]), queries)
        })
    }

    fn indices(&self, values: impl Iterator<Item = usize>) -> Tensor<1, Int> {
        let values: Vec<i64> = values.map(|value| value as i64).collect();
        let count = values.len();
        Tensor::from_data(TensorData::new(values, [count]), (&self.device, DType::I64))
    }
}
