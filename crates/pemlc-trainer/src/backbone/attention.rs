//! Grouped-query attention with prefix rows: `softmax([q Kp^T c + g ; q K^T c + mask]) [Vp ; V]`, in f32 at least inside the softmax.
//!
//! Query heads that share a key head are laid out along the query positions, `[rows, kv_heads, group * length, head_dim]`, so that
//! keys and values are never repeated.

use super::wide;
use crate::adaptation::cast;
use burn::tensor::{Tensor, activation::softmax};

/// What the backward pass needs.
pub(super) struct Saved {
    /// Scaled by `c`, `[rows, kv_heads, group * length, head_dim]`.
    query: Tensor<4>,
    /// `[rows, kv_heads, prefix + length, head_dim]`.
    key: Tensor<4>,
    value: Tensor<4>,
    /// `[rows, kv_heads, group * length, prefix + length]`.
    probabilities: Tensor<4>,
}

/// Gradients of the scaled queries, the keys, the values and the attention logits.
pub(super) struct Gradients {
    pub(super) query: Tensor<4>,
    pub(super) key: Tensor<4>,
    pub(super) value: Tensor<4>,
    pub(super) logits: Tensor<4>,
}

/// `query` is scaled; `bias` `[rows, 1, group * length, prefix + length]` is added to the logits.
pub(super) fn forward(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>, bias: Tensor<4>) -> (Tensor<4>, Saved) {
    let dtype = query.dtype();
    let logits = wide(query.clone().matmul(key.clone().transpose())) + bias;
    let probabilities = cast(softmax(logits, 3), dtype);
    let output = probabilities.clone().matmul(value.clone());
    (output, Saved { query, key, value, probabilities })
}

pub(super) fn backward(saved: Saved, gradient: Tensor<4>) -> Gradients {
    let Saved { query, key, value, probabilities } = saved;
    let dtype = query.dtype();
    let into_value = probabilities.clone().transpose().matmul(gradient.clone());
    let into_probabilities = wide(gradient.matmul(value.transpose()));
    let weighted = into_probabilities * wide(probabilities.clone());
    let total = weighted.clone().sum_dim(3);
    let logits = weighted - wide(probabilities) * total;
    let narrow = cast(logits.clone(), dtype);
    Gradients { query: narrow.clone().matmul(key), key: narrow.transpose().matmul(query), value: into_value, logits }
}
