//! `down(silu(gate(x)) * up(x))`, each projection with the deltas of a place.

use super::layer::{Place, Weights};
use super::{linear, swiglu};
use burn::tensor::Tensor;
use pemlc_artifact::Projection;

/// What the backward pass needs.
pub(super) struct Saved {
    gate: Tensor<2>,
    up: Tensor<2>,
    gate_saved: linear::Saved,
    up_saved: linear::Saved,
    down_saved: linear::Saved,
}

/// For `x` `[tokens, hidden]`.
pub(super) fn forward(weights: &Weights, x: Tensor<2>, place: &Place<'_>) -> (Tensor<2>, Saved) {
    let (gate, gate_saved) = weights.project(Projection::GateProj, x.clone(), place);
    let (up, up_saved) = weights.project(Projection::UpProj, x, place);
    let inner = swiglu::forward(gate.clone(), up.clone());
    let (y, down_saved) = weights.project(Projection::DownProj, inner, place);
    (y, Saved { gate, up, gate_saved, up_saved, down_saved })
}

/// The gradient of `x`, given that of the output.
pub(super) fn backward(
    weights: &Weights,
    x: Tensor<2>,
    saved: Saved,
    gradient: Tensor<2>,
    place: &Place<'_>,
    into: &mut Vec<(Projection, linear::Gradients)>,
) -> Tensor<2> {
    let mut through = |projection, x: Tensor<2>, saved, gradient: Tensor<2>| {
        let (into_x, into_deltas) = weights.project_backward(projection, x, saved, gradient, place);
        into.push((projection, into_deltas));
        into_x
    };
    let swiglu::Linearized { output, by_gate, by_up } = swiglu::linearize(saved.gate, saved.up);
    let into_output = through(Projection::DownProj, output, saved.down_saved, gradient);
    let into_gate = into_output.clone() * by_gate;
    let into_up = into_output * by_up;
    through(Projection::GateProj, x.clone(), saved.gate_saved, into_gate)
        + through(Projection::UpProj, x, saved.up_saved, into_up)
}
