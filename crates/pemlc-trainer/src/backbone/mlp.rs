//! The second half of a layer: `x + down(silu(gate(n)) * up(n))` with `n = rms_norm(x)`.

use super::layer::{DeltaGradients, Place, Weights};
use super::{linear, norm, swiglu};
use burn::tensor::Tensor;
use pemlc_artifact::Projection;

/// What the backward pass needs.
pub(super) struct Saved {
    input: Tensor<2>,
    norm: norm::Saved,
    normalized: Tensor<2>,
    gate: Tensor<2>,
    up: Tensor<2>,
    gate_saved: linear::Saved,
    up_saved: linear::Saved,
    down_saved: linear::Saved,
}

pub(super) fn forward(weights: &Weights, x: Tensor<2>, place: &Place<'_>) -> (Tensor<2>, Saved) {
    let (normalized, norm) = norm::forward(x.clone(), &weights.post_attention_norm, place.config.rms_norm_eps);
    let (gate, gate_saved) = weights.project(Projection::GateProj, normalized.clone(), place);
    let (up, up_saved) = weights.project(Projection::UpProj, normalized.clone(), place);
    let inner = swiglu::forward(gate.clone(), up.clone());
    let (change, down_saved) = weights.project(Projection::DownProj, inner, place);
    let y = x.clone() + change;
    (y, Saved { input: x, norm, normalized, gate, up, gate_saved, up_saved, down_saved })
}

pub(super) fn backward(
    weights: &Weights,
    saved: Saved,
    gradient: Tensor<2>,
    place: &Place<'_>,
    deltas: &mut DeltaGradients,
) -> Tensor<2> {
    let mut through = |projection, x: Tensor<2>, saved, gradient: Tensor<2>| {
        let (into_x, into_deltas) = weights.project_backward(projection, x, saved, gradient, place);
        deltas.push((projection, into_deltas));
        into_x
    };
    let swiglu::Linearized { output, by_gate, by_up } = swiglu::linearize(saved.gate, saved.up);
    let into_output = through(Projection::DownProj, output, saved.down_saved, gradient.clone());
    let into_gate = into_output.clone() * by_gate;
    let into_up = into_output * by_up;
    let normalized = saved.normalized;
    let into_normalized = through(Projection::GateProj, normalized.clone(), saved.gate_saved, into_gate)
        + through(Projection::UpProj, normalized, saved.up_saved, into_up);
    gradient + norm::backward(saved.input, &weights.post_attention_norm, &saved.norm, into_normalized)
}
