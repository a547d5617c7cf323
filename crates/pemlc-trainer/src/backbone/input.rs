//! A rectangle of tokens, and what every layer needs to know of it.

use super::rotary::Rotation;
use super::shard::Shard;
use super::{Backbone, wide_type};
use crate::adaptation::cast;
use burn::tensor::{DType, Int, Tensor, TensorData};

/// Attention logit of what must not be seen. Finite: a padding token in front may see nothing at all, and its row is of no interest.
const MASKED: f32 = -1e9;

/// Rows of tokens, padded on either side to one length.
#[derive(Debug, Clone, PartialEq)]
pub struct Input<'a> {
    /// Rows.
    pub rows: usize,
    /// Tokens a row, with padding.
    pub length: usize,
    /// `[rows, length]`.
    pub input_ids: &'a [i64],
    /// `[rows, length]`, 1 for tokens and 0 for padding.
    pub attention_mask: &'a [i64],
    /// `[rows]`.
    pub task_ids: &'a [i64],
}

/// What all layers share in one pass.
pub(super) struct Geometry {
    /// Number type of the pass.
    pub(super) dtype: DType,
    /// Tokens of the batch before these, soft prompts included.
    pub(super) first_token: usize,
    pub(super) rows: usize,
    /// Vectors of a soft prompt in front of each row's tokens.
    pub(super) prompt: usize,
    /// Of a row, the soft prompt included.
    pub(super) length: usize,
    pub(super) rotation: Rotation,
    /// `[rows, 1, group * length, length]`: causal and padding mask, repeated for the query heads that share a key head.
    pub(super) mask: Tensor<4>,
    /// Which tokens are not padding, `[rows * length]`.
    pub(super) visible: Vec<bool>,
    /// `[rows]`.
    pub(super) tasks: Tensor<1, Int>,
    /// `[rows * (length - prompt)]`.
    pub(super) ids: Tensor<1, Int>,
}

impl Geometry {
    /// For a pass in `dtype`, with `prompt` vectors in front of each row's tokens.
    pub(super) fn new(backbone: &Backbone, shard: &Shard<'_>, dtype: DType, prompt: usize) -> Self {
        let input = &shard.input;
        let Input { rows, length: tokens, .. } = *input;
        let length = prompt + tokens;
        let visible = |row: &[i64]| [vec![1; prompt], row.to_vec()].concat();
        let visible: Vec<i64> = input.attention_mask.chunks(tokens).flat_map(visible).collect();
        let config = &backbone.config;
        let group = config.num_attention_heads / config.num_key_value_heads;
        let device = &backbone.device;
        // Position of a token: how many tokens stand before it.
        let mut positions = Vec::with_capacity(rows * length);
        for row in visible.chunks(length) {
            let mut before = 0;
            for &mask in row {
                positions.push(before);
                before += mask;
            }
        }
        let mut mask = Vec::with_capacity(rows * group * length * length);
        for row in visible.chunks(length) {
            let start = mask.len();
            for query in 0..length {
                mask.extend((0..length).map(|key| if key <= query && row[key] == 1 { 0.0 } else { MASKED }));
            }
            for _ in 1..group {
                mask.extend_from_within(start..start + length * length);
            }
        }
        let mask = TensorData::new(mask, [rows, 1, group * length, length]);
        let mask: Tensor<4> = Tensor::from_data(mask, (device, DType::F32));
        let ints =
            |values: &[i64]| Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), (device, DType::I64));
        Self {
            dtype,
            first_token: shard.first_token / tokens * length,
            rows,
            prompt,
            length,
            rotation: Rotation::new(config, &positions, rows, length, device, dtype),
            mask: cast(mask, wide_type(dtype)),
            visible: visible.into_iter().map(|mask| mask == 1).collect(),
            tasks: ints(input.task_ids),
            ids: ints(input.input_ids),
        }
    }
}
