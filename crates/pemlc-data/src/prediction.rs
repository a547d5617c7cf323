//! From log-likelihoods to a predicted answer.

use crate::config::{Metric, Normalize};
use crate::example::Example;
use crate::task::Task;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

/// What a model answered to one example: one line of `predictions.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// `file:line` of the example.
    pub id: String,
    /// Log-likelihood of each answer, normalised as the task says.
    pub scores: Vec<f64>,
    /// Index of the predicted answer. For free text: 1 if greedy decoding gives the answer, else 0.
    pub predicted: usize,
    /// Index of the right answer. For free text: 1.
    pub gold: usize,
    /// The predicted number, for Pearson: the expectation of the answer's index under the answers' probabilities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// The right number, for Pearson.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<f64>,
}

/// The prediction for an example from the summed log-likelihood of each of its answers, in order.
///
/// The most likely answer wins, the first one of equals. NaN never wins; when every score is NaN, `predicted` is the number of
/// answers, which is never right.
pub fn predict(task: &Task, example: &Example, logliks: &[f64]) -> Prediction {
    let scores = normalized(task, example, logliks);
    let best = ranked(&scores).first().copied().filter(|&index| !scores[index].is_nan());
    let value = (task.metric == Metric::Pearson).then(|| expected_index(&scores));
    Prediction {
        id: example.id.clone(),
        predicted: best.unwrap_or(scores.len()),
        gold: example.gold,
        value,
        target: example.score,
        scores,
    }
}

/// The prediction for a free-text example: `loglik` of its answer, and whether each of its tokens was the model's most
/// likely one.
pub fn predict_free_text(task: &Task, example: &Example, loglik: f64, greedy: bool) -> Prediction {
    Prediction {
        id: example.id.clone(),
        scores: normalized(task, example, &[loglik]),
        predicted: usize::from(greedy),
        gold: 1,
        value: None,
        target: None,
    }
}

/// The indices of `scores`, the highest first. Equal ones keep their order, and NaN stands behind all.
pub fn ranked(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&left, &right| {
        let (left, right) = (scores[left], scores[right]);
        left.is_nan().cmp(&right.is_nan()).then(right.partial_cmp(&left).unwrap_or(Ordering::Equal))
    });
    order
}

impl Normalize {
    /// What answers are compared by: the summed log-likelihood of each over its length. `tokens` are those of the answers, `characters` counts
    /// those of their texts, without what separates them from the prompt.
    pub fn scores(self, logliks: &[f64], tokens: &[Vec<u32>], characters: &[usize]) -> Vec<f64> {
        let lengths = tokens.iter().map(Vec::len).zip(characters);
        let divisor = |(tokens, &characters): (usize, &usize)| match self {
            Self::None => 1,
            Self::Tokens => tokens.max(1),
            Self::Characters => characters.max(1),
        };
        logliks.iter().zip(lengths).map(|(loglik, lengths)| loglik / divisor(lengths) as f64).collect()
    }
}

fn normalized(task: &Task, example: &Example, logliks: &[f64]) -> Vec<f64> {
    task.config.normalize().scores(logliks, &example.answers, &example.answer_chars)
}

/// `sum_i i softmax(scores)_i`.
fn expected_index(scores: &[f64]) -> f64 {
    let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights = scores.iter().map(|score| (score - highest).exp());
    let (total, moment) = weights
        .enumerate()
        .fold((0.0, 0.0), |(total, moment), (index, weight)| (total + weight, moment + index as f64 * weight));
    moment / total
}
