//! A bidirectional LSTM as torch has it: gates in the order input, forget, cell, output, two biases.

use crate::parameters::{Group, Leaves, ParameterSet};
use crate::random::Stream;
use burn::tensor::{Tensor, activation::sigmoid, s};

const DIRECTIONS: [&str; 2] = ["forward", "backward"];

/// Adds the weights of `layers` layers under `prefix`, uniform in ±1/sqrt(hidden): of each layer and direction `weight_ih`
/// `[4 * hidden, inputs]`, `weight_hh` `[4 * hidden, hidden]`, and `bias_ih` and `bias_hh` `[4 * hidden]`. A layer after the first reads
/// `2 * hidden`.
pub(super) fn initialize(prefix: &str, inputs: usize, hidden: usize, layers: usize, seed: u64, set: &mut ParameterSet) {
    for layer in 0..layers {
        let inputs = if layer == 0 { inputs } else { 2 * hidden };
        for direction in DIRECTIONS {
            for (name, shape) in [
                ("weight_ih", vec![4 * hidden, inputs]),
                ("weight_hh", vec![4 * hidden, hidden]),
                ("bias_ih", vec![4 * hidden]),
                ("bias_hh", vec![4 * hidden]),
            ] {
                let name = format!("{prefix}.{layer}.{direction}.{name}");
                let values =
                    Stream::new(seed, &name, 0).uniform(shape.iter().product(), (hidden as f32).sqrt().recip());
                set.insert(name, Group::Prefix, &shape, values);
            }
        }
    }
}

/// `x` `[sets, length, inputs]` through all layers, `[sets, length, 2 * hidden]`: the forward direction's outputs, then the backward
/// one's.
pub(super) fn apply(prefix: &str, mut x: Tensor<3>, layers: usize, parameters: &Leaves) -> Tensor<3> {
    for layer in 0..layers {
        let outputs = DIRECTIONS.map(|direction| {
            run(&format!("{prefix}.{layer}.{direction}"), x.clone(), direction == DIRECTIONS[1], parameters)
        });
        x = Tensor::cat(outputs.to_vec(), 2);
    }
    x
}

/// One direction of one layer, `[sets, length, hidden]`.
fn run(prefix: &str, x: Tensor<3>, backward: bool, parameters: &Leaves) -> Tensor<3> {
    let get = |name: &str| parameters.get::<3>(&format!("{prefix}.{name}"));
    let recurrent = get("weight_hh").swap_dims(1, 2);
    let [sets, length, _] = x.dims();
    let width = recurrent.dims()[1];
    let inputs = x.matmul(get("weight_ih").swap_dims(1, 2)) + get("bias_ih") + get("bias_hh");
    let mut state: Option<(Tensor<3>, Tensor<3>)> = None;
    let mut outputs = Vec::with_capacity(length);
    for step in 0..length {
        let position = if backward { length - 1 - step } else { step };
        let mut gates = inputs.clone().slice(s![.., position..position + 1, ..]);
        if let Some((output, _)) = &state {
            gates = gates + output.clone().matmul(recurrent.clone());
        }
        let gate = |index: usize| gates.clone().slice(s![..sets, .., index * width..(index + 1) * width]);
        let mut cell = sigmoid(gate(0)) * gate(2).tanh();
        if let Some((_, before)) = state {
            cell = cell + sigmoid(gate(1)) * before;
        }
        let output = sigmoid(gate(3)) * cell.clone().tanh();
        outputs.push(output.clone());
        state = Some((output, cell));
    }
    if backward {
        outputs.reverse();
    }
    Tensor::cat(outputs, 1)
}
