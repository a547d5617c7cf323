//! Operators that stand for several: attention, rotation of heads, a sum that is normed.

use super::rows::rms_norm;
use super::{Exact, input, of_sum};
use crate::bisect::graph::Node;
use crate::bisect::value::{Value, indices, place};

pub(super) fn element(node: &Node, inputs: &[Option<&Value>], output: &Value, at: usize) -> Option<Exact> {
    match node.operator.as_str() {
        "Attention" => attention(node, inputs, output, at),
        "RotaryEmbedding" => rotary(node, inputs, output, at),
        _ => None,
    }
}

/// ONNX Runtime's own, whose outputs are more than one.
pub(super) fn contrib(
    node: &Node,
    inputs: &[Option<&Value>],
    output: &Value,
    which: usize,
    at: usize,
) -> Option<Exact> {
    if node.operator != "SkipSimplifiedLayerNormalization" || input(inputs, 3).is_some() {
        return None;
    }
    let (x, skip) = (input(inputs, 0)?, input(inputs, 1)?);
    if x.shape != skip.shape || x.shape != output.shape {
        return None;
    }
    let sum = |place: usize| x.at(place) + skip.at(place);
    match which {
        0 => {
            let scale = input(inputs, 2)?;
            let exact = rms_norm(*x.shape.last()?, at, sum, scale, node.float("epsilon").unwrap_or(1e-5));
            // The sum is rounded before it is normed, to more than itself where both cancel.
            let cancelled = (x.at(at).abs() + skip.at(at).abs()) / sum(at).abs().max(f64::MIN_POSITIVE);
            Some(Exact::rounded(exact.number, exact.slack + 2.0 * cancelled * exact.number.abs()))
        }
        3 => Some(Exact::rounded(sum(at), 2.0 * sum(at).abs())),
        _ => None,
    }
}

/// `softmax(scale q k^T + mask) v`: queries `[batch, heads, sequence, size]`, keys and values `[batch, groups, total, size]`, a mask that is added.
/// Other forms (a cache, causal masks, a cap on scores) have no reference.
fn attention(node: &Node, inputs: &[Option<&Value>], output: &Value, at: usize) -> Option<Exact> {
    let plain = ["is_causal", "qk_matmul_output_mode"].iter().all(|name| node.integer(name).unwrap_or(0) == 0)
        && node.float("softcap").unwrap_or(0.0) == 0.0
        && (4..7).all(|index| input(inputs, index).is_none());
    let (q, k, v) = (input(inputs, 0)?, input(inputs, 1)?, input(inputs, 2)?);
    let (&[_, heads, _, size], &[_, groups, total, _], &[_, _, rows, width]) =
        (&q.shape[..], &k.shape[..], &v.shape[..])
    else {
        return None;
    };
    if !plain || groups == 0 || heads % groups != 0 || rows != total {
        return None;
    }
    let [batch, head, position, column] = indices(&output.shape, at)[..].try_into().ok()?;
    let group = head / (heads / groups);
    let scale = f64::from(node.float("scale").map_or_else(|| (size as f32).sqrt().recip(), |scale| scale as f32));
    let query = place(&q.shape, &[batch, head, position, 0]);
    let (mut scores, mut largest_slack) = (Vec::with_capacity(total), 0.0f64);
    for row in 0..total {
        let key = place(&k.shape, &[batch, group, row, 0]);
        let products = (0..size).map(|index| q.at(query + index) * k.at(key + index));
        let (sum, magnitude) = products.fold((0.0, 0.0), |(sum, all), product| (sum + product, all + product.abs()));
        let mask = match input(inputs, 3) {
            None => 0.0,
            Some(mask) => mask.at(broadcast(&mask.shape, &[batch, head, position, row])?),
        };
        let score = scale * sum + mask;
        scores.push(score);
        // What is masked has no share, however its score was rounded.
        if mask > -1e30 {
            largest_slack = largest_slack.max((of_sum(size) + 4.0) * scale.abs() * magnitude + 2.0 * mask.abs());
        }
    }
    if scores.iter().any(|score| score.is_nan()) {
        return Some(Exact::moved(f64::NAN));
    }
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let shares: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
    let all: f64 = shares.iter().sum();
    let (mut mixed, mut magnitude) = (0.0, 0.0);
    for (row, share) in shares.iter().enumerate().filter(|(_, share)| **share > 0.0) {
        let value = v.at(place(&v.shape, &[batch, group, row, column]));
        mixed += share / all * value;
        magnitude += share / all * value.abs();
    }
    // An error of a score moves its share by as much, and those of the others against it.
    let rounding = 2.0 * largest_slack + 2.0 * of_sum(total) + 16.0;
    (width > 0).then(|| Exact::rounded(mixed, rounding * magnitude))
}

/// The place in a tensor of `shape`, whose axes are broadcast, of an element at `own`.
fn broadcast(shape: &[usize], own: &[usize]) -> Option<usize> {
    let own = own.get(own.len().checked_sub(shape.len())?..)?;
    let own: Vec<usize> = own.iter().zip(shape).map(|(index, size)| if *size == 1 { 0 } else { *index }).collect();
    Some(place(shape, &own))
}

/// Halves of a head as pairs that are turned: `x` `[batch, sequence, heads * size]` or `[batch, heads, sequence, size]`, cosines and sines
/// `[batch, sequence, size / 2]`. Tables by position, interleaved pairs and heads that are turned in part have no reference.
fn rotary(node: &Node, inputs: &[Option<&Value>], output: &Value, at: usize) -> Option<Exact> {
    let (x, cos, sin) = (input(inputs, 0)?, input(inputs, 1)?, input(inputs, 2)?);
    let plain = ["interleaved", "rotary_embedding_dim"].iter().all(|name| node.integer(name).unwrap_or(0) == 0);
    let &[_, _, half] = &cos.shape[..] else { return None };
    if !plain || input(inputs, 3).is_some() || half == 0 || x.shape != output.shape {
        return None;
    }
    let own = indices(&output.shape, at);
    let (batch, position) = match own[..] {
        [batch, position, _] => (batch, position),
        [batch, _, position, _] => (batch, position),
        _ => return None,
    };
    let within = own.last()? % (2 * half);
    let angle = place(&cos.shape, &[batch, position, within % half]);
    let (cos, sin) = (cos.at(angle), sin.at(angle));
    let (along, across) =
        if within < half { (cos * x.at(at), -sin * x.at(at + half)) } else { (cos * x.at(at), sin * x.at(at - half)) };
    Some(Exact::rounded(along + across, 4.0 * (along.abs() + across.abs())))
}
