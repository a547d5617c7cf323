//! A frozen projection with low-rank deltas, and its gradient.

use super::input::Geometry;
use super::magnitude::Scale;
use super::wide;
use crate::adaptation::{Dropout, LowRank, cast};
use crate::random::Stream;
use burn::tensor::{DType, IndexingUpdateOp, Tensor, TensorData};

/// A frozen projection.
#[derive(Debug)]
pub(super) struct Linear {
    /// `[out, in]`.
    pub(super) weight: Tensor<2>,
    /// `[out]`.
    pub(super) bias: Option<Tensor<1>>,
}

/// What the backward pass needs of each delta.
pub(super) struct Saved {
    /// `scale * drop(x) A^T`, `[tokens, rank]`.
    low: Vec<Tensor<2>>,
    /// The mask of the inputs over the share that is kept, `[tokens, in]`.
    masks: Vec<Option<Tensor<2>>>,
    /// The output before its scale, `[tokens, out]`.
    unscaled: Option<Tensor<2>>,
}

/// Gradients of A and B of each delta.
pub(super) type FactorGradients = Vec<(Tensor<3>, Tensor<3>)>;

/// Gradients of what a projection is adapted by.
pub(super) struct Gradients {
    pub(super) deltas: FactorGradients,
    /// Of its scale.
    pub(super) scale: Option<Tensor<1>>,
}

impl Linear {
    /// `scale (x W^T + sum of deltas) + b` for `x` `[tokens, in]`.
    pub(super) fn forward(
        &self,
        x: Tensor<2>,
        deltas: &[LowRank],
        scale: Option<&Scale>,
        geometry: &Geometry,
    ) -> (Tensor<2>, Saved) {
        let mut y = x.clone().matmul(cast(self.weight.clone(), x.dtype()).transpose());
        let mut saved = Saved { low: Vec::new(), masks: Vec::new(), unscaled: None };
        for delta in deltas {
            let mask = delta.dropout.as_ref().map(|dropout| mask(dropout, &x, geometry));
            let dropped = match &mask {
                Some(mask) => x.clone() * mask.clone(),
                None => x.clone(),
            };
            let low = times_transposed(dropped, &delta.a, geometry) * delta.scale;
            y = y + times_transposed(low.clone(), &delta.b, geometry);
            saved.low.push(low);
            saved.masks.push(mask);
        }
        if let Some(scale) = scale {
            saved.unscaled = Some(y.clone());
            y = times_scale(y, scale);
        }
        if let Some(bias) = &self.bias {
            y = y + cast(bias.clone(), x.dtype()).unsqueeze::<2>();
        }
        (y, saved)
    }

    /// Gradients with respect to `x` and to what it is adapted by, given that with respect to `y`.
    pub(super) fn backward(
        &self,
        x: Tensor<2>,
        deltas: &[LowRank],
        scale: Option<&Scale>,
        saved: Saved,
        gradient: Tensor<2>,
        geometry: &Geometry,
    ) -> (Tensor<2>, Gradients) {
        let into_scale = saved.unscaled.map(|y| wide(gradient.clone() * y).sum_dim(0).squeeze_dim(0));
        let gradient = match scale {
            Some(scale) => times_scale(gradient, scale),
            None => gradient,
        };
        let mut total = gradient.clone().matmul(self.weight.clone());
        let mut gradients = Vec::with_capacity(deltas.len());
        for ((delta, low), mask) in deltas.iter().zip(saved.low).zip(saved.masks) {
            let into_b = transposed_times(gradient.clone(), low, &delta.b, geometry);
            let into_low = times(gradient.clone(), &delta.b, geometry) * delta.scale;
            let dropped = match &mask {
                Some(mask) => x.clone() * mask.clone(),
                None => x.clone(),
            };
            let into_a = transposed_times(into_low.clone(), dropped, &delta.a, geometry);
            gradients.push((into_a, into_b));
            let through = times(into_low, &delta.a, geometry);
            total = total
                + match mask {
                    Some(mask) => through * mask,
                    None => through,
                };
        }
        (total, Gradients { deltas: gradients, scale: into_scale })
    }
}

/// `y` `[tokens, out]` times a scale, which has at least 32 bits.
fn times_scale(y: Tensor<2>, scale: &Scale) -> Tensor<2> {
    let dtype = y.dtype();
    cast(wide(y) * scale.value.clone().unsqueeze::<2>(), dtype)
}

/// `x M_t^T` by row; `x` `[tokens, k]`, `m` `[sets, n, k]`.
fn times_transposed(x: Tensor<2>, m: &Tensor<3>, geometry: &Geometry) -> Tensor<2> {
    match shared(m) {
        Some(m) => x.matmul(m.transpose()),
        None => by_row(x, geometry).matmul(of_rows(m, geometry).transpose()).flatten(0, 1),
    }
}

/// `x M_t` by row; `x` `[tokens, n]`, `m` `[sets, n, k]`.
fn times(x: Tensor<2>, m: &Tensor<3>, geometry: &Geometry) -> Tensor<2> {
    match shared(m) {
        Some(m) => x.matmul(m),
        None => by_row(x, geometry).matmul(of_rows(m, geometry)).flatten(0, 1),
    }
}

/// The gradient of `M` where `y = x M_t^T` by row: `gradient^T x`, summed over each set's rows, f32.
fn transposed_times(gradient: Tensor<2>, x: Tensor<2>, m: &Tensor<3>, geometry: &Geometry) -> Tensor<3> {
    if shared(m).is_some() {
        return wide(gradient.transpose().matmul(x)).unsqueeze();
    }
    let by_rows = wide(by_row(gradient, geometry).transpose().matmul(by_row(x, geometry)));
    let zeros = Tensor::zeros(m.shape(), (&m.device(), DType::F32));
    zeros.select_assign(0, geometry.tasks.clone(), by_rows, IndexingUpdateOp::Add)
}

/// The one matrix, when all tasks share it.
fn shared(m: &Tensor<3>) -> Option<Tensor<2>> {
    (m.dims()[0] == 1).then(|| m.clone().squeeze_dim(0))
}

fn of_rows(m: &Tensor<3>, geometry: &Geometry) -> Tensor<3> {
    m.clone().select(0, geometry.tasks.clone())
}

fn by_row(x: Tensor<2>, geometry: &Geometry) -> Tensor<3> {
    let width = x.dims()[1];
    x.reshape([geometry.rows, geometry.length, width])
}

/// 0 for what is dropped, 1 over the share that is kept for the rest.
fn mask(dropout: &Dropout, x: &Tensor<2>, geometry: &Geometry) -> Tensor<2> {
    let mut stream = Stream::new(dropout.seed, &dropout.name, dropout.step);
    stream.skip(geometry.first_token * x.dims()[1]);
    let kept = 1.0 / (1.0 - dropout.rate);
    let count = x.shape().num_elements();
    let values: Vec<f32> = (0..count).map(|_| if stream.unit() < dropout.rate { 0.0 } else { kept }).collect();
    cast(Tensor::from_data(TensorData::new(values, x.dims()), (&x.device(), DType::F32)), x.dtype())
}
