//! Log-probabilities of given tokens, for scoring answers.

use crate::{Inputs, Padding, Row, RuntimeError, Session};
use ndarray::ArrayView1;

/// One row: tokens, and which next tokens to score after which positions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScoreRow {
    /// Tokens of the row, without padding.
    pub tokens: Vec<u32>,
    /// Task of the row.
    pub task_id: i64,
    /// `(position, token)`: score `token` under the logits at `position`.
    pub queries: Vec<(usize, u32)>,
}

/// The answer to one query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenScore {
    /// Natural logarithm of the token's probability.
    pub log_probability: f64,
    /// Whether no token is likelier.
    pub is_argmax: bool,
}

/// Scores `rows` in one batch, right-padded. The answer has one list a row, one entry a query.
///
/// # Errors
/// When a query lies outside its row or the vocabulary, when running fails, and when the logits asked for are not finite.
pub fn score(session: &mut dyn Session, rows: &[ScoreRow]) -> Result<Vec<Vec<TokenScore>>, RuntimeError> {
    let tokens: Vec<Vec<i64>> =
        rows.iter().map(|row| row.tokens.iter().map(|token| i64::from(*token)).collect()).collect();
    let batch: Vec<Row<'_>> =
        rows.iter().zip(&tokens).map(|(row, tokens)| Row { tokens, task_id: row.task_id }).collect();
    for (index, row) in rows.iter().enumerate() {
        if let Some((position, _)) = row.queries.iter().find(|(position, _)| *position >= row.tokens.len()) {
            let length = row.tokens.len();
            return Err(RuntimeError::Inputs(format!("row {index}: query at position {position} of {length} tokens")));
        }
    }
    let length = tokens.iter().map(Vec::len).max().unwrap_or(0);
    let outputs = session.run(&Inputs::prefill(&batch, length, Padding::Right))?;
    let mut answers = Vec::with_capacity(rows.len());
    for (index, row) in rows.iter().enumerate() {
        let mut scores = Vec::with_capacity(row.queries.len());
        for &(position, token) in &row.queries {
            let logits = outputs.logits.slice(ndarray::s![index, position, ..]);
            let scored = token_score(logits, token as usize).map_err(|problem| match problem {
                Problem::NotFinite => {
                    RuntimeError::NotFinite { runtime: session.kind(), row: index, position, task_id: row.task_id }
                }
                Problem::OutOfVocabulary => RuntimeError::Inputs(format!(
                    "row {index}: token {token} is outside the vocabulary of {}",
                    logits.len()
                )),
            })?;
            scores.push(scored);
        }
        answers.push(scores);
    }
    Ok(answers)
}

#[derive(Debug, PartialEq)]
enum Problem {
    NotFinite,
    OutOfVocabulary,
}

/// Log-softmax in f64: the sum over a large vocabulary loses digits in f32.
fn token_score(logits: ArrayView1<'_, f32>, token: usize) -> Result<TokenScore, Problem> {
    let chosen = f64::from(*logits.get(token).ok_or(Problem::OutOfVocabulary)?);
    if !logits.iter().all(|logit| logit.is_finite()) {
        return Err(Problem::NotFinite);
    }
    let largest = logits.iter().fold(f64::NEG_INFINITY, |largest, logit| largest.max(f64::from(*logit)));
    let sum: f64 = logits.iter().map(|logit| (f64::from(*logit) - largest).exp()).sum();
    Ok(TokenScore { log_probability: chosen - largest - sum.ln(), is_argmax: chosen >= largest })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::aview1;

    #[test]
    fn log_probabilities_are_those_of_a_softmax() {
        // Logits ln 1, ln 2, ln 5: probabilities 1/8, 2/8, 5/8.
        let logits = [0.0, 2.0_f32.ln(), 5.0_f32.ln()];
        let score = |token| token_score(aview1(&logits), token);
        let close = |found: f64, expected: f64| (found - expected).abs() < 1e-7;
        assert!(
            matches!(score(0), Ok(TokenScore { log_probability, is_argmax: false }) if close(log_probability, (1.0f64 / 8.0).ln()))
        );
        assert!(
            matches!(score(2), Ok(TokenScore { log_probability, is_argmax: true }) if close(log_probability, (5.0f64 / 8.0).ln()))
        );
        assert_eq!(score(3), Err(Problem::OutOfVocabulary));
        assert_eq!(token_score(aview1(&[f32::NAN, 1.0]), 1), Err(Problem::NotFinite));
    }
}
