//! SwiGLU: `silu(gate) * up`.

use burn::tensor::{Tensor, activation::sigmoid};

/// `silu(gate) * up`.
pub(super) fn forward(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    sigmoid(gate.clone()) * gate * up
}

/// The output with its slopes.
pub(super) struct Linearized {
    /// Cheaper to compute again than to keep.
    pub(super) output: Tensor<2>,
    /// Derivative of the output by `gate`, element by element.
    pub(super) by_gate: Tensor<2>,
    /// Derivative of the output by `up`.
    pub(super) by_up: Tensor<2>,
}

/// What the backward pass needs.
pub(super) fn linearize(gate: Tensor<2>, up: Tensor<2>) -> Linearized {
    let sigmoid = sigmoid(gate.clone());
    let silu = sigmoid.clone() * gate;
    // silu' = sigmoid + silu (1 - sigmoid)
    let slope = sigmoid.clone() + silu.clone() - silu.clone() * sigmoid;
    Linearized { output: silu.clone() * up.clone(), by_gate: up * slope, by_up: silu }
}
