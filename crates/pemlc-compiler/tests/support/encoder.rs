//! The prompt encoder in plain Rust, in f64: what a trainer would store in `prefix.safetensors`.

use super::weights::floats;
use pemlc_artifact::ModelConfig;
use pemlc_artifact::prompt::{Architecture, Operation};
use pemlc_artifact::tensors::{NamedTensor, TensorMap, Values};

/// Numbers by row.
pub type Rows = Vec<Vec<f64>>;

/// The rows of every set and layer.
pub fn evaluate(architecture: &Architecture, weights: &TensorMap, config: &ModelConfig, sets: usize) -> TensorMap {
    let mut table = TensorMap::new();
    let (length, kv_width) = (architecture.length, config.kv_width());
    for set in 0..sets {
        for layer in 0..config.num_hidden_layers {
            let head = heads(architecture, weights, set, layer);
            for (what, offset) in [("key", 0), ("value", kv_width)] {
                let warm = weights.get(&format!("warm_start.{set}.layers.{layer}.{what}"));
                let mut values = Vec::new();
                for kv_head in 0..config.num_key_value_heads {
                    for (row, projected) in head.iter().enumerate() {
                        for i in 0..config.head_dim {
                            let place = (kv_head * length + row) * config.head_dim + i;
                            let warm = warm.map_or(0.0, |warm| match &warm.values {
                                Values::F32(values) => f64::from(values[place]),
                                Values::I64(_) => panic!("warm start is not f32"),
                            });
                            values.push((projected[offset + kv_head * config.head_dim + i] + warm) as f32);
                        }
                    }
                }
                let shape = vec![config.num_key_value_heads, length, config.head_dim];
                table.insert(
                    format!("tasks.{set}.layers.{layer}.{what}"),
                    NamedTensor { shape, values: Values::F32(values) },
                );
            }
            let gate = vec![floats(weights, "log_gate")[layer]; length];
            let gate = NamedTensor { shape: vec![length], values: Values::F32(gate) };
            table.insert(format!("tasks.{set}.layers.{layer}.log_gate"), gate);
        }
    }
    table
}

/// What the head of `layer` gives for each row of `set`.
pub fn heads(architecture: &Architecture, weights: &TensorMap, set: usize, layer: usize) -> Rows {
    let (length, width) = (architecture.length, architecture.width);
    let seed = floats(weights, &format!("seed.{set}"));
    let codes = floats(weights, "layer_code");
    let start: Rows = (0..length)
        .map(|row| (0..width).map(|i| f64::from(seed[row * width + i] + codes[layer * width + i])).collect())
        .collect();
    let rows = cell(architecture, weights, start);
    linear(weights, &format!("head.{layer}.weight"), &format!("head.{layer}.bias"), &rows)
}

fn cell(architecture: &Architecture, weights: &TensorMap, start: Rows) -> Rows {
    let zero = vec![vec![0.0; architecture.width]; architecture.length];
    let mut nodes = vec![start];
    for node in 1..=architecture.nodes {
        let mut sum = zero.clone();
        for (index, edge) in architecture.edges.iter().enumerate().filter(|(_, edge)| edge.to == node) {
            add(&mut sum, &operation(weights, index, edge.operation, &norm(&nodes[edge.from])), 1.0);
        }
        nodes.push(sum);
    }
    let mut mean = zero;
    for node in &nodes[1..] {
        add(&mut mean, node, 1.0 / architecture.nodes as f64);
    }
    norm(&mean)
}

fn add(sum: &mut Rows, rows: &Rows, share: f64) {
    for (sum, row) in sum.iter_mut().flatten().zip(rows.iter().flatten()) {
        *sum += share * row;
    }
}

fn norm(rows: &Rows) -> Rows {
    let of_row = |row: &Vec<f64>| {
        let mean = row.iter().sum::<f64>() / row.len() as f64;
        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / row.len() as f64;
        row.iter().map(|x| (x - mean) / (variance + 1e-5).sqrt()).collect()
    };
    rows.iter().map(of_row).collect()
}

fn linear(weights: &TensorMap, weight: &str, bias: &str, rows: &Rows) -> Rows {
    let (weight, bias) = (floats(weights, weight), floats(weights, bias));
    let of_row = |row: &Vec<f64>| {
        let columns = weight.chunks_exact(row.len()).zip(bias);
        columns.map(|(w, b)| f64::from(*b) + row.iter().zip(w).map(|(x, w)| x * f64::from(*w)).sum::<f64>()).collect()
    };
    rows.iter().map(of_row).collect()
}

/// By Simpson's rule, to far below what an f32 tells.
fn normal_distribution(x: f64) -> f64 {
    let steps = 400;
    let width = x / f64::from(steps);
    let density = |step: i32| (-0.5 * (width * f64::from(step)).powi(2)).exp() / std::f64::consts::TAU.sqrt();
    let inner: f64 = (1..steps).map(|step| density(step) * if step % 2 == 1 { 4.0 } else { 2.0 }).sum();
    0.5 + (density(0) + inner + density(steps)) * width / 3.0
}

fn operation(weights: &TensorMap, edge: usize, operation: Operation, x: &Rows) -> Rows {
    let name = |part: &str| format!("edges.{edge}.{part}");
    match operation {
        Operation::None => panic!("no operation of an architecture"),
        Operation::Skip => x.clone(),
        Operation::MlpGelu { .. } => {
            let mut hidden = linear(weights, &name("w1"), &name("b1"), x);
            hidden.iter_mut().flatten().for_each(|x| *x *= normal_distribution(*x));
            linear(weights, &name("w2"), &name("b2"), &hidden)
        }
        Operation::Glu => {
            let value = linear(weights, &name("a.weight"), &name("a.bias"), x);
            let gate = linear(weights, &name("b.weight"), &name("b.bias"), x);
            let gated = |(x, gate): (&f64, &f64)| x / (1.0 + (-gate).exp());
            value.iter().zip(&gate).map(|(x, gate)| x.iter().zip(gate).map(gated).collect()).collect()
        }
        Operation::DepthwiseConvolution { kernel } => {
            let (weight, bias) = (floats(weights, &name("weight")), floats(weights, &name("bias")));
            let at = |row: usize, channel: usize| -> f64 {
                let taps = (0..kernel).filter_map(|tap| {
                    let from = (row + tap).checked_sub(kernel / 2)?;
                    Some(x.get(from)?[channel] * f64::from(weight[channel * kernel + tap]))
                });
                f64::from(bias[channel]) + taps.sum::<f64>()
            };
            (0..x.len()).map(|row| (0..bias.len()).map(|channel| at(row, channel)).collect()).collect()
        }
        Operation::Linear => linear(weights, &name("weight"), &name("bias"), x),
        Operation::MlpTanh { .. } => {
            let mut hidden = linear(weights, &name("w1"), &name("b1"), x);
            hidden.iter_mut().flatten().for_each(|x| *x = x.tanh());
            linear(weights, &name("w2"), &name("b2"), &hidden)
        }
        Operation::Attention { heads } => {
            let part =
                |part: &str| linear(weights, &name(&format!("{part}.weight")), &name(&format!("{part}.bias")), x);
            let (q, k, v) = (part("q"), part("k"), part("v"));
            let size = q[0].len() / heads;
            let mut mixed = vec![vec![0.0; q[0].len()]; q.len()];
            for head in (0..heads).map(|head| head * size..(head + 1) * size) {
                for (row, mixed) in mixed.iter_mut().enumerate() {
                    let scores: Vec<f64> = k
                        .iter()
                        .map(|k| head.clone().map(|i| q[row][i] * k[i]).sum::<f64>() / (size as f64).sqrt())
                        .collect();
                    let total: f64 = scores.iter().map(|score| score.exp()).sum();
                    for (score, v) in scores.iter().zip(&v) {
                        for i in head.clone() {
                            mixed[i] += score.exp() / total * v[i];
                        }
                    }
                }
            }
            linear(weights, &name("out.weight"), &name("out.bias"), &mixed)
        }
    }
}
