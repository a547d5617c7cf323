//! Greedy generation with a cache.

use crate::{Inputs, Padding, Row, RuntimeError, Session};
use ndarray::{Array2, s};

/// When to stop generating.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenerateOptions {
    /// At most so many tokens.
    pub max_new_tokens: usize,
    /// Tokens that end the answer; they are not part of it.
    pub eos_token_ids: Vec<u32>,
}

/// What was generated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generated {
    /// New tokens, without the end token.
    pub tokens: Vec<u32>,
    /// Whether an end token came before `max_new_tokens`.
    pub ended: bool,
}

/// Continues `tokens` as task `task_id`, taking the likeliest token at each step. `on_token` sees each one as it comes.
///
/// # Errors
/// When `tokens` is empty, when running fails, and when the logits are not finite, as they are for an unknown task.
pub fn generate(
    session: &mut dyn Session,
    tokens: &[u32],
    task_id: i64,
    options: &GenerateOptions,
    on_token: &mut dyn FnMut(u32),
) -> Result<Generated, RuntimeError> {
    let prompt: Vec<i64> = tokens.iter().map(|token| i64::from(*token)).collect();
    let mut inputs = Inputs::prefill(&[Row { tokens: &prompt, task_id }], prompt.len(), Padding::Right);
    let mut generated = Vec::new();
    for _ in 0..options.max_new_tokens {
        let outputs = session.run(&inputs)?;
        let last = inputs.sequence_length() - 1;
        let logits = outputs.logits.slice(s![0, last, ..]);
        if !logits.iter().all(|logit| logit.is_finite()) {
            return Err(RuntimeError::NotFinite { runtime: session.kind(), row: 0, position: last, task_id });
        }
        let token = argmax(logits.iter().copied());
        if options.eos_token_ids.contains(&token) {
            return Ok(Generated { tokens: generated, ended: true });
        }
        on_token(token);
        generated.push(token);
        let next = Array2::from_elem((1, 1), i64::from(token));
        inputs = Inputs::continued(&inputs.attention_mask, next, inputs.task_id.clone(), outputs.present);
    }
    Ok(Generated { tokens: generated, ended: false })
}

/// The first of the largest values.
fn argmax(logits: impl Iterator<Item = f32>) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (token, logit) in (0u32..).zip(logits) {
        if logit > best.1 {
            best = (token, logit);
        }
    }
    best.0
}
