//! Rotary positions in the "rotate half" layout: pair `i` is dimensions `i` and `i + head_dim / 2`.

use burn::tensor::{DType, Device, Tensor, TensorData, s};
use pemlc_artifact::ModelConfig;

/// Cosines and sines of every token's angles, `[rows, 1, length, head_dim / 2]`.
pub(super) struct Rotation {
    cosine: Tensor<4>,
    sine: Tensor<4>,
}

impl Rotation {
    /// `positions` is `[rows, length]`.
    pub(super) fn new(
        config: &ModelConfig,
        positions: &[i64],
        rows: usize,
        length: usize,
        device: &Device,
        dtype: DType,
    ) -> Self {
        let frequencies = config.rope_inverse_frequencies();
        // Angles in f32, as other implementations have them.
        let angles = || positions.iter().flat_map(|&p| frequencies.iter().map(move |f| p as f32 * f));
        let tensor = |values: Vec<f32>| {
            let data = TensorData::new(values, [rows, 1, length, frequencies.len()]);
            crate::adaptation::cast(Tensor::from_data(data, (device, DType::F32)), dtype)
        };
        Self { cosine: tensor(angles().map(f32::cos).collect()), sine: tensor(angles().map(f32::sin).collect()) }
    }

    /// Rotates `x` `[rows, heads, length, head_dim]` by its tokens' angles.
    pub(super) fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        rotate(x, self.cosine.clone(), self.sine.clone())
    }

    /// Rotates back, which is also the transpose: the gradient of [`apply`](Self::apply).
    pub(super) fn invert(&self, x: Tensor<4>) -> Tensor<4> {
        rotate(x, self.cosine.clone(), -self.sine.clone())
    }
}

fn rotate(x: Tensor<4>, cosine: Tensor<4>, sine: Tensor<4>) -> Tensor<4> {
    let half = cosine.dims()[3];
    let first = x.clone().slice(s![.., .., .., ..half]);
    let second = x.slice(s![.., .., .., half..]);
    let turned_first = first.clone() * cosine.clone() - second.clone() * sine.clone();
    let turned_second = second * cosine + first * sine;
    Tensor::cat(vec![turned_first, turned_second], 3)
}
