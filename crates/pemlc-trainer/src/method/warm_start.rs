//! A warm start: the frozen model's own keys and values of a text, cut or repeated to the length of the prefix.
//!
//! A row that stands in front of every token at position 0 must look to position `p` as the token at position `i` of a text in front of
//! it would: as a key at position `i - n`, where `n` is how many rows there are.

use super::{PrefixShape, Start};
use crate::backbone::Input;
use crate::error::TrainError;
use crate::parameters::host;

/// Keys and values `[sets, layers, kv_heads, length, head_dim]`.
pub(super) fn rows(start: &Start<'_>, shape: &PrefixShape) -> Result<(Vec<f32>, Vec<f32>), TrainError> {
    let [sets, layers, kv_heads, length, head_dim] = shape.rows();
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    for set in 0..sets {
        let tokens = tokens(start, shape.config.text.as_deref(), set)?;
        if tokens.is_empty() {
            return Err(TrainError::NoWarmText);
        }
        let text: Vec<i64> = tokens.iter().map(|token| i64::from(*token)).collect();
        let input = Input {
            rows: 1,
            length: text.len(),
            input_ids: &text,
            attention_mask: &vec![1; text.len()],
            task_ids: &[0],
        };
        let frequencies = shape.model.rope_inverse_frequencies();
        for layer in start.backbone.keys_values(&input).into_iter().take(layers) {
            let (key, value) = (host(layer.key), host(layer.value));
            for head in 0..kv_heads {
                for row in 0..length {
                    let at = (head * text.len() + token(row, length, text.len())) * head_dim;
                    keys.extend(rotated(&key[at..at + head_dim], row as f64 - length as f64, &frequencies));
                    values.extend_from_slice(&value[at..at + head_dim]);
                }
            }
        }
    }
    Ok((keys, values))
}

/// Which of a text's `count` tokens row `row` of `length` is made of. The last rows are the text's last tokens, so that what stands
/// nearest to the real tokens is its end.
pub(super) fn token(row: usize, length: usize, count: usize) -> usize {
    (count * length + row - length) % count
}

/// Tokens of `text` or, without one, of task `task`'s template without its fields or, if nothing is left, of its first training prompt.
pub(super) fn tokens(start: &Start<'_>, text: Option<&str>, task: usize) -> Result<Vec<u32>, TrainError> {
    let task = start.tasks.tasks.get(task);
    let literal = match (text, task) {
        (Some(text), _) => text.to_owned(),
        (None, Some(task)) => literal(&task.config.template),
        (None, None) => String::new(),
    };
    let tokens = if literal.trim().is_empty() { Vec::new() } else { start.tokenizer.encode(literal.trim())? };
    if !tokens.is_empty() || text.is_some() {
        return Ok(tokens);
    }
    Ok(task.and_then(|task| task.train.first()).map(|example| example.prompt.clone()).unwrap_or_default())
}

/// A template without its fields.
fn literal(template: &str) -> String {
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        text.push_str(before);
        if let Some(escaped) = after.strip_prefix('{') {
            text.push('{');
            rest = escaped;
        } else {
            rest = after.split_once('}').map_or("", |(_, after)| after);
        }
    }
    text.push_str(rest);
    text.replace("}}", "}")
}

/// `key` rotated by `position`, in f64.
fn rotated(key: &[f32], position: f64, frequencies: &[f32]) -> Vec<f32> {
    let half = key.len() / 2;
    let mut out = key.to_vec();
    for (i, frequency) in frequencies.iter().enumerate() {
        let (sine, cosine) = (position * f64::from(*frequency)).sin_cos();
        let (a, b) = (f64::from(key[i]), f64::from(key[i + half]));
        out[i] = (a * cosine - b * sine) as f32;
        out[i + half] = (b * cosine + a * sine) as f32;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_without_their_fields() {
        assert_eq!(literal("Review: {sentence}\nSentiment:"), "Review: \nSentiment:");
        assert_eq!(literal("{{x}} is {y}"), "{x} is ");
        assert_eq!(literal("{a}{b}"), "");
    }
}
