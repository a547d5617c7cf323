//! RMS normalisation, in f32 at least, whatever the model's number type.

use super::wide;
use crate::adaptation::cast;
use burn::tensor::Tensor;

/// What the backward pass needs.
pub(super) struct Saved {
    /// `1 / rms`, `[tokens, 1]`.
    scale: Tensor<2>,
}

/// `x / rms(x) * weight` for `x` `[tokens, hidden]`.
pub(super) fn forward(x: Tensor<2>, weight: &Tensor<1>, epsilon: f64) -> (Tensor<2>, Saved) {
    let dtype = x.dtype();
    let x = wide(x);
    let scale = (x.clone().square().mean_dim(1) + epsilon as f32).sqrt().recip();
    let y = x.clone() * scale.clone() * cast(weight.clone(), x.dtype()).unsqueeze::<2>();
    (cast(y, dtype), Saved { scale })
}

/// The gradient with respect to `x`, given that with respect to the output.
pub(super) fn backward(x: Tensor<2>, weight: &Tensor<1>, saved: &Saved, gradient: Tensor<2>) -> Tensor<2> {
    let dtype = x.dtype();
    let x = wide(x);
    let inner = wide(gradient) * weight.clone().unsqueeze::<2>();
    let scale = saved.scale.clone();
    // d/dx (x s) with s = (mean(x^2) + eps)^(-1/2).
    let along = (inner.clone() * x.clone()).mean_dim(1) * scale.clone().powi_scalar(3);
    cast(inner * scale - x * along, dtype)
}
