//! What goes into a graph and what comes out, in terms of rows, tasks and caches.

use crate::{RawTensor, RuntimeError};
use ndarray::{Array1, Array2, Array3, Array4, ArrayD, IxDyn, s};
use std::fmt::Write as _;

/// Keys and values of one layer, each `[batch_size, kv_heads, length, head_dim]`.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyValue {
    /// Keys, rotated, without prefix rows.
    pub key: Array4<f32>,
    /// Values, without prefix rows.
    pub value: Array4<f32>,
}

/// Everything that one run takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Inputs {
    /// Tokens `[batch_size, sequence_length]`.
    pub input_ids: Array2<i64>,
    /// 1 at tokens, 0 at padding, cached tokens first: `[batch_size, total_sequence_length]`.
    pub attention_mask: Array2<i64>,
    /// Positions of the new tokens `[batch_size, sequence_length]`.
    pub position_ids: Array2<i64>,
    /// Task of each row `[batch_size]`.
    pub task_id: Array1<i64>,
    /// The cache, one entry a layer; `None` is an empty cache.
    pub past: Option<Vec<KeyValue>>,
}

/// Everything that one run gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Outputs {
    /// Logits `[batch_size, sequence_length, vocab]`.
    pub logits: Array3<f32>,
    /// The cache including the new tokens, one entry a layer.
    pub present: Vec<KeyValue>,
}

/// The cache's fixed dimensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheShape {
    /// Decoder layers.
    pub layers: usize,
    /// Key-value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Number type. Sessions take and give f32 and convert at the edge.
    pub dtype: CacheType,
}

/// Number type of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheType {
    /// 32 bits.
    F32,
    /// 16 bits.
    F16,
}

/// Where padding goes in rows shorter than the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Padding {
    /// Before the tokens, as for generation.
    Left,
    /// After the tokens, as for scoring.
    Right,
}

/// One batch row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row<'a> {
    /// Tokens.
    pub tokens: &'a [i64],
    /// Task.
    pub task_id: i64,
}

impl Inputs {
    /// A batch with an empty cache: `rows` padded to `length` with token 0. Rows longer than `length` are cut.
    pub fn prefill(rows: &[Row<'_>], length: usize, padding: Padding) -> Self {
        let mut input_ids = Array2::zeros((rows.len(), length));
        let mut attention_mask = Array2::zeros((rows.len(), length));
        for (index, row) in rows.iter().enumerate() {
            let used = row.tokens.len().min(length);
            let start = match padding {
                Padding::Left => length - used,
                Padding::Right => 0,
            };
            for (offset, token) in row.tokens.iter().take(used).enumerate() {
                input_ids[[index, start + offset]] = *token;
                attention_mask[[index, start + offset]] = 1;
            }
        }
        let position_ids = positions(&attention_mask, length);
        let task_id = rows.iter().map(|row| row.task_id).collect();
        Self { input_ids, attention_mask, position_ids, task_id, past: None }
    }

    /// The next `tokens` `[batch_size, sequence_length]` after `mask` `[batch_size, past_sequence_length]`, whose cache is `past`.
    pub fn continued(mask: &Array2<i64>, tokens: Array2<i64>, task_id: Array1<i64>, past: Vec<KeyValue>) -> Self {
        let (batch, new) = tokens.dim();
        let old = mask.ncols();
        let mut attention_mask = Array2::ones((batch, old + new));
        if mask.nrows() == batch {
            attention_mask.slice_mut(s![.., ..old]).assign(mask);
        }
        let position_ids = positions(&attention_mask, new);
        Self { input_ids: tokens, attention_mask, position_ids, task_id, past: Some(past) }
    }

    /// Rows of the batch.
    pub fn batch_size(&self) -> usize {
        self.input_ids.nrows()
    }

    /// New tokens of each row.
    pub fn sequence_length(&self) -> usize {
        self.input_ids.ncols()
    }

    /// Cached tokens of each row.
    pub fn past_length(&self) -> usize {
        self.past.as_ref().and_then(|layers| layers.first()).map_or(0, |layer| layer.key.dim().2)
    }

    /// The same as tensors by name; an absent cache is an empty one. A graph may not have all of these inputs.
    pub(crate) fn feed(&self, cache: CacheShape) -> Vec<(String, RawTensor)> {
        let integers = |array: ArrayD<i64>| RawTensor::I64(array);
        let mut feed = vec![
            ("input_ids".to_owned(), integers(self.input_ids.clone().into_dyn())),
            ("attention_mask".to_owned(), integers(self.attention_mask.clone().into_dyn())),
            ("position_ids".to_owned(), integers(self.position_ids.clone().into_dyn())),
            ("task_id".to_owned(), integers(self.task_id.clone().into_dyn())),
        ];
        let empty = || ArrayD::zeros(IxDyn(&[self.batch_size(), cache.kv_heads, 0, cache.head_dim]));
        for layer in 0..cache.layers {
            let past = self.past.as_ref().and_then(|layers| layers.get(layer));
            for (part, array) in [("key", past.map(|past| &past.key)), ("value", past.map(|past| &past.value))] {
                let array = array.map_or_else(empty, |array| array.clone().into_dyn());
                let tensor = match cache.dtype {
                    CacheType::F32 => RawTensor::F32(array),
                    CacheType::F16 => RawTensor::F16(array),
                };
                feed.push((format!("past_key_values.{layer}.{part}"), tensor));
            }
        }
        feed
    }

    /// `batch 2, sequence 5, past 0, task_id [0, 1]`.
    pub(crate) fn describe(&self) -> String {
        let mut text =
            format!("batch {}, sequence {}, past {}", self.batch_size(), self.sequence_length(), self.past_length());
        // Writing to a String cannot fail.
        let _ = write!(text, ", task_id {:?}", self.task_id.to_vec());
        text
    }

    pub(crate) fn validate(&self, cache: CacheShape) -> Result<(), RuntimeError> {
        let (batch, sequence, past) = (self.batch_size(), self.sequence_length(), self.past_length());
        let expect = |name: &str, found: &[usize], expected: &[usize]| {
            if found == expected {
                Ok(())
            } else {
                Err(RuntimeError::Inputs(format!("{name} has shape {found:?}, expected {expected:?}")))
            }
        };
        if batch == 0 || sequence == 0 {
            return Err(RuntimeError::Inputs(format!(
                "input_ids has shape {:?}: nothing to run",
                self.input_ids.shape()
            )));
        }
        expect("attention_mask", self.attention_mask.shape(), &[batch, past + sequence])?;
        expect("position_ids", self.position_ids.shape(), &[batch, sequence])?;
        expect("task_id", self.task_id.shape(), &[batch])?;
        if let Some(layers) = &self.past {
            expect("past_key_values (layers)", &[layers.len()], &[cache.layers])?;
            let expected = [batch, cache.kv_heads, past, cache.head_dim];
            for (index, layer) in layers.iter().enumerate() {
                expect(&format!("past_key_values.{index}.key"), layer.key.shape(), &expected)?;
                expect(&format!("past_key_values.{index}.value"), layer.value.shape(), &expected)?;
            }
        }
        Ok(())
    }
}

impl Outputs {
    /// Fails unless every shape is what `inputs` call for: an answer of another shape is never looked at.
    pub(crate) fn validate(
        &self,
        runtime: crate::RuntimeKind,
        inputs: &Inputs,
        cache: CacheShape,
    ) -> Result<(), RuntimeError> {
        let (batch, sequence) = (inputs.batch_size(), inputs.sequence_length());
        let expect = |output: String, found: &[usize], expected: &[usize], hint: &'static str| {
            if found == expected {
                return Ok(());
            }
            let (found, expected) = (found.to_vec(), expected.to_vec());
            Err(RuntimeError::OutputShape { runtime, inputs: inputs.describe(), output, found, expected, hint })
        };
        let vocabulary = self.logits.dim().2;
        expect("logits".to_owned(), self.logits.shape(), &[batch, sequence, vocabulary], "")?;
        let total = inputs.past_length() + sequence;
        let expected = [batch, cache.kv_heads, total, cache.head_dim];
        let hint = " (total_sequence_length counts tokens alone: prefix rows must not appear in the cache)";
        for (index, layer) in self.present.iter().enumerate() {
            expect(format!("present.{index}.key"), layer.key.shape(), &expected, hint)?;
            expect(format!("present.{index}.value"), layer.value.shape(), &expected, hint)?;
        }
        Ok(())
    }
}

/// `cumsum(mask) - 1`, not below 0, of the last `new` columns.
pub(crate) fn positions(mask: &Array2<i64>, new: usize) -> Array2<i64> {
    let (batch, total) = mask.dim();
    let skipped = total - new;
    let mut positions = Array2::zeros((batch, new));
    for row in 0..batch {
        let mut seen = 0;
        for column in 0..total {
            seen += mask[[row, column]];
            if column >= skipped {
                positions[[row, column - skipped]] = (seen - 1).max(0);
            }
        }
    }
    positions
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn positions_count_tokens_on_either_side_of_padding() {
        let rows = [Row { tokens: &[7, 8, 9], task_id: 0 }, Row { tokens: &[5], task_id: 1 }];
        let left = Inputs::prefill(&rows, 4, Padding::Left);
        assert_eq!(left.input_ids, array![[0, 7, 8, 9], [0, 0, 0, 5]]);
        assert_eq!(left.attention_mask, array![[0, 1, 1, 1], [0, 0, 0, 1]]);
        assert_eq!(left.position_ids, array![[0, 0, 1, 2], [0, 0, 0, 0]]);
        let right = Inputs::prefill(&rows, 4, Padding::Right);
        assert_eq!(right.input_ids, array![[7, 8, 9, 0], [5, 0, 0, 0]]);
        assert_eq!(right.position_ids, array![[0, 1, 2, 2], [0, 0, 0, 0]]);

        let cache = vec![KeyValue { key: Array4::zeros((2, 1, 4, 2)), value: Array4::zeros((2, 1, 4, 2)) }];
        let next = Inputs::continued(&left.attention_mask, array![[1, 2], [3, 4]], left.task_id, cache);
        assert_eq!(next.attention_mask, array![[0, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1]]);
        assert_eq!(next.position_ids, array![[3, 4], [1, 2]]);
        assert_eq!(next.describe(), "batch 2, sequence 2, past 4, task_id [0, 1]");
    }

    #[test]
    fn tensors_that_do_not_fit_are_named() {
        let shape = CacheShape { layers: 1, kv_heads: 1, head_dim: 2, dtype: CacheType::F32 };
        let mut inputs = Inputs::prefill(&[Row { tokens: &[7, 8], task_id: 0 }], 2, Padding::Right);
        assert!(inputs.validate(shape).is_ok());
        inputs.task_id = array![0, 0];
        let error = inputs.validate(shape).err().map(|error| error.to_string());
        assert_eq!(error.as_deref(), Some("inputs do not fit together: task_id has shape [2], expected [1]"));
    }
}
