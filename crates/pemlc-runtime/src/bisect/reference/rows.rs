//! Functions of a whole row: softmax, norms, sums.

use super::linear::{line, sum};
use super::{Exact, axis, input, of_sum};
use crate::bisect::graph::Node;
use crate::bisect::value::{Value, indices, place};

pub(super) fn element(node: &Node, inputs: &[Option<&Value>], output: &Value, at: usize) -> Option<Exact> {
    let x = input(inputs, 0)?;
    match node.operator.as_str() {
        "Softmax" | "LogSoftmax" => softmax(node, x, output, at),
        "ReduceSum" | "ReduceMean" => reduce(node, inputs, output, at),
        "ReduceMax" => {
            let places = reduced(node, inputs, output, at)?;
            Some(Exact::moved(places.into_iter().map(|place| x.at(place)).fold(f64::NEG_INFINITY, f64::max)))
        }
        "CumSum" => cumulative(node, inputs, output, at),
        "LayerNormalization" => normalised(node, inputs, output, at, true),
        "RMSNormalization" => normalised(node, inputs, output, at, false),
        _ => None,
    }
}

/// ONNX Runtime's own.
pub(super) fn contrib(node: &Node, inputs: &[Option<&Value>], output: &Value, at: usize) -> Option<Exact> {
    match node.operator.as_str() {
        "SimplifiedLayerNormalization" => normalised(node, inputs, output, at, false),
        "QuickGelu" => {
            let (x, alpha) = (input(inputs, 0)?.at(at), node.float("alpha").unwrap_or(1.702));
            Some(Exact::rounded(x * super::elementwise::sigmoid(alpha * x), 16.0 * x.abs().max(1.0)))
        }
        _ => None,
    }
}

fn softmax(node: &Node, x: &Value, output: &Value, at: usize) -> Option<Exact> {
    let row = line(&output.shape, &indices(&output.shape, at), node.integer("axis").unwrap_or(-1))?;
    let numbers: Vec<f64> = row.iter().map(|place| x.at(*place)).collect();
    let largest = numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = numbers.iter().map(|number| (number - largest).exp()).sum();
    if numbers.iter().any(|number| number.is_nan()) {
        return Some(Exact::moved(f64::NAN));
    }
    let distance = x.at(at) - largest;
    let rounding = 8.0 + of_sum(numbers.len());
    if node.operator == "LogSoftmax" {
        return Some(Exact::rounded(distance - total.ln(), rounding + 2.0 * (x.at(at).abs() + largest.abs())));
    }
    let share = distance.exp() / total;
    Some(Exact::rounded(share, share * (rounding + 2.0 * distance.abs())))
}

fn reduce(node: &Node, inputs: &[Option<&Value>], output: &Value, at: usize) -> Option<Exact> {
    let places = reduced(node, inputs, output, at)?;
    let (exact, terms) = sum(input(inputs, 0)?, places.into_iter());
    let divisor = if node.operator == "ReduceMean" { terms.max(1) as f64 } else { 1.0 };
    Some(Exact::rounded(exact.number / divisor, exact.slack / divisor + 2.0 * (exact.number / divisor).abs()))
}

/// Places of the elements that a reduction takes for one of its output's.
fn reduced(node: &Node, inputs: &[Option<&Value>], output: &Value, at: usize) -> Option<Vec<usize>> {
    let x = input(inputs, 0)?;
    let rank = x.shape.len();
    let axes = node.integers("axes").or_else(|| input(inputs, 1).and_then(Value::all_integers)).unwrap_or_default();
    let mut axes: Vec<usize> = axes.iter().map(|index| axis(*index, rank)).collect::<Option<_>>()?;
    if axes.is_empty() && node.integer("noop_with_empty_axes") != Some(1) {
        axes = (0..rank).collect();
    }
    let kept = node.integer("keepdims").unwrap_or(1) == 1;
    let mut found = indices(&output.shape, at).into_iter();
    let mut own = Vec::with_capacity(rank);
    for index in 0..rank {
        let reduced = axes.contains(&index);
        let position = if reduced && !kept { Some(0) } else { found.next() };
        own.push(if reduced { 0 } else { position? });
    }
    let count: usize = axes.iter().map(|index| x.shape[*index]).product();
    let sizes: Vec<usize> = axes.iter().map(|index| x.shape[*index]).collect();
    let places = (0..count).map(|step| {
        for (index, position) in axes.iter().zip(indices(&sizes, step)) {
            own[*index] = position;
        }
        place(&x.shape, &own)
    });
    Some(places.collect())
}

fn cumulative(node: &Node, inputs: &[Option<&Value>], output: &Value, at: usize) -> Option<Exact> {
    let (x, along) = (input(inputs, 0)?, input(inputs, 1)?.integer(0)?);
    let own = indices(&output.shape, at);
    let row = line(&output.shape, &own, along)?;
    let position = own[axis(along, output.shape.len())?];
    let (exclusive, reverse) = (node.integer("exclusive") == Some(1), node.integer("reverse") == Some(1));
    let taken = |index: usize| match (reverse, exclusive) {
        (false, false) => index <= position,
        (false, true) => index < position,
        (true, false) => index >= position,
        (true, true) => index > position,
    };
    let places = row.into_iter().enumerate().filter(|(index, _)| taken(*index)).map(|(_, place)| place);
    Some(sum(x, places).0)
}

/// `(x - mean) / sqrt(variance + epsilon) scale + bias` over the axes from `axis` on; without `centred`, the mean is taken for zero.
fn normalised(node: &Node, inputs: &[Option<&Value>], output: &Value, at: usize, centred: bool) -> Option<Exact> {
    let (x, scale) = (input(inputs, 0)?, input(inputs, 1)?);
    let first = axis(node.integer("axis").unwrap_or(-1), x.shape.len())?;
    let size: usize = x.shape.get(first..)?.iter().product();
    if size == 0 || x.shape != output.shape {
        return None;
    }
    let epsilon = node.float("epsilon").unwrap_or(1e-5);
    if !centred {
        return Some(rms_norm(size, at, |place| x.at(place), scale, epsilon));
    }
    let start = at / size * size;
    let row = || (start..start + size).map(|place| x.at(place));
    let mean = row().sum::<f64>() / size as f64;
    let variance = row().map(|number| (number - mean) * (number - mean)).sum::<f64>() / size as f64;
    let deviation = (variance + epsilon).sqrt();
    let scale = scale.at((at - start) % scale.len().max(1));
    let number = (x.at(at) - mean) / deviation * scale;
    let bias = input(inputs, 2).map_or(0.0, |bias| bias.at((at - start) % bias.len().max(1)));
    let magnitude = (x.at(at).abs() + mean.abs()) / deviation * scale.abs();
    // An error of the mean moves every element alike.
    let of_mean = of_sum(size) * row().map(f64::abs).fold(0.0, f64::max) / deviation * scale.abs();
    Some(Exact::rounded(number + bias, (8.0 + of_sum(size)) * magnitude + of_mean + 2.0 * bias.abs()))
}

/// `x / sqrt(mean of squares + epsilon) scale` over rows of `size`.
pub(super) fn rms_norm(size: usize, at: usize, x: impl Fn(usize) -> f64, scale: &Value, epsilon: f64) -> Exact {
    let start = at / size.max(1) * size;
    let squares: f64 = (start..start + size).map(|place| x(place) * x(place)).sum();
    let root = (squares / size.max(1) as f64 + epsilon).sqrt();
    let number = x(at) / root * scale.at((at - start) % scale.len().max(1));
    Exact::rounded(number, (8.0 + of_sum(size)) * number.abs())
}
