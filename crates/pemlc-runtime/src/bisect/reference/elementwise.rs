//! Functions of one element of each input.

use super::{Exact, input};
use crate::bisect::graph::{Attribute, Node};
use crate::bisect::value::{Value, indices, place};

pub(super) fn element(node: &Node, inputs: &[Option<&Value>], output: &Value, at: usize) -> Option<Exact> {
    let number = |index: usize| broadcast(input(inputs, index)?, output, at);
    let truth = |holds: bool| Some(Exact::moved(f64::from(u8::from(holds))));
    if let Some(exact) = unary(node, number(0)) {
        return Some(exact);
    }
    match node.operator.as_str() {
        "Where" => Some(Exact::moved(if number(0)? != 0.0 { number(1)? } else { number(2)? })),
        "Clip" => {
            let low = input(inputs, 1).map_or(f64::NEG_INFINITY, |value| value.at(0));
            let high = input(inputs, 2).map_or(f64::INFINITY, |value| value.at(0));
            Some(Exact::moved(number(0)?.max(low).min(high)))
        }
        "DequantizeLinear" => dequantised(node, inputs, output, at),
        operator => {
            let (a, b) = (number(0)?, number(1)?);
            match operator {
                "Add" => Some(Exact::rounded(a + b, 2.0 * (a.abs() + b.abs()))),
                "Sub" => Some(Exact::rounded(a - b, 2.0 * (a.abs() + b.abs()))),
                "Mul" => Some(Exact::rounded(a * b, 4.0 * (a * b).abs())),
                "Div" if output.number_type.unit_roundoff() == 0.0 => Some(Exact::moved((a / b).trunc())),
                "Div" => Some(Exact::rounded(a / b, 4.0 * (a / b).abs())),
                "Mod" => Some(Exact::moved(modulo(node, a, b))),
                "Pow" => {
                    let power = a.powf(b);
                    Some(Exact::rounded(power, power.abs() * (8.0 + 2.0 * (b * a.abs().max(1e-300).ln()).abs())))
                }
                "Max" => Some(Exact::moved(a.max(b))),
                "Min" => Some(Exact::moved(a.min(b))),
                "And" => truth(a != 0.0 && b != 0.0),
                "Or" => truth(a != 0.0 || b != 0.0),
                "Equal" => truth(a == b),
                "Greater" => truth(a > b),
                "GreaterOrEqual" => truth(a >= b),
                "Less" => truth(a < b),
                "LessOrEqual" => truth(a <= b),
                _ => None,
            }
        }
    }
}

fn unary(node: &Node, x: Option<f64>) -> Option<Exact> {
    let x = x?;
    // Runtimes approximate these; their errors are absolute, a few roundings of 1.
    let approximated = |number: f64| Some(Exact::rounded(number, 16.0));
    match node.operator.as_str() {
        "Abs" => Some(Exact::moved(x.abs())),
        "Cast" => Some(Exact::rounded(x, x.abs())),
        // The argument is reduced by multiples of pi, in f32.
        "Cos" => Some(Exact::rounded(x.cos(), 8.0 + x.abs())),
        "Erf" => approximated(erf(x)),
        "Exp" => Some(Exact::rounded(x.exp(), x.exp() * (8.0 + 2.0 * x.abs()))),
        "Identity" => Some(Exact::moved(x)),
        "IsNaN" => Some(Exact::moved(f64::from(u8::from(x.is_nan())))),
        "Log" => Some(Exact::rounded(x.ln(), 8.0 + 4.0 * x.ln().abs())),
        "Neg" => Some(Exact::moved(-x)),
        "Not" => Some(Exact::moved(f64::from(u8::from(x == 0.0)))),
        "Reciprocal" => Some(Exact::rounded(x.recip(), 4.0 * x.recip().abs())),
        "Relu" => Some(Exact::moved(x.max(0.0))),
        "Sigmoid" => approximated(sigmoid(x)),
        "Sin" => Some(Exact::rounded(x.sin(), 8.0 + x.abs())),
        "Sqrt" => Some(Exact::rounded(x.sqrt(), 4.0 * x.sqrt())),
        "Swish" => {
            let alpha = node.float("alpha").unwrap_or(1.0);
            Some(Exact::rounded(x * sigmoid(alpha * x), 16.0 * x.abs().max(1.0)))
        }
        "Tanh" => approximated(x.tanh()),
        _ => None,
    }
}

pub(super) fn sigmoid(x: f64) -> f64 {
    (1.0 + (-x).exp()).recip()
}

/// The error function: its series where that converges fast, else its continued fraction; 1e-12.
fn erf(x: f64) -> f64 {
    let magnitude = x.abs();
    let value = if magnitude < 3.0 {
        let (mut term, mut sum) = (magnitude, magnitude);
        for n in 1..120 {
            let n = f64::from(n);
            term *= -magnitude * magnitude / n;
            sum += term / (2.0 * n + 1.0);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    } else {
        let mut fraction = magnitude;
        for n in (1..60).rev() {
            fraction = magnitude + f64::from(n) / 2.0 / fraction;
        }
        1.0 - (-magnitude * magnitude).exp() / (fraction * std::f64::consts::PI.sqrt())
    };
    value.copysign(x)
}

fn modulo(node: &Node, a: f64, b: f64) -> f64 {
    if node.integer("fmod") == Some(1) { a % b } else { a - b * (a / b).floor() }
}

/// The element of `value` that meets element `at` of `output` when broadcast.
pub(super) fn broadcast(value: &Value, output: &Value, at: usize) -> Option<f64> {
    if value.shape == output.shape {
        return Some(value.at(at));
    }
    let all = indices(&output.shape, at);
    let own = all.get(all.len().checked_sub(value.shape.len())?..)?;
    let fits = value.shape.iter().zip(&output.shape[all.len() - own.len()..]).all(|(own, all)| *own == 1 || own == all);
    let own: Vec<usize> =
        own.iter().zip(&value.shape).map(|(index, size)| if *size == 1 { 0 } else { *index }).collect();
    fits.then(|| value.at(place(&value.shape, &own)))
}

/// Scales and zero points belong to the whole tensor, to a place along an axis, or to a block of places.
fn dequantised(node: &Node, inputs: &[Option<&Value>], output: &Value, at: usize) -> Option<Exact> {
    let (x, scales, zeros) = (input(inputs, 0)?, input(inputs, 1)?, input(inputs, 2));
    let axis = super::axis(node.integer("axis").unwrap_or(1), output.shape.len())?;
    let block = usize::try_from(node.integer("block_size").unwrap_or(0)).ok()?;
    let mut own = indices(&output.shape, at);
    let of = |value: &Value, own: &[usize]| match value.shape.len() {
        0 => Some(value.at(0)),
        1 if value.len() == 1 => Some(value.at(0)),
        1 => Some(value.at(*own.get(axis)?)),
        _ => Some(value.at(place(&value.shape, own))),
    };
    if let Some(position) = own.get_mut(axis) {
        *position = position.checked_div(block).unwrap_or(*position);
    }
    let zero = zeros.map_or(Some(0.0), |zeros| of(zeros, &own))?;
    let number = (x.at(at) - zero) * of(scales, &own)?;
    Some(Exact::rounded(number, 2.0 * number.abs()))
}

/// `Constant` has its tensor as an attribute.
pub(super) fn constant(node: &Node, at: usize) -> Option<Exact> {
    match node.attributes.get("value")? {
        Attribute::Tensor(value) => Some(Exact::moved(value.at(at))),
        _ => None,
    }
}
