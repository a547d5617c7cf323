//! Matrix products.

use super::{Exact, axis, input, of_sum};
use crate::bisect::graph::Node;
use crate::bisect::value::{Value, indices, place};

pub(super) fn element(node: &Node, inputs: &[Option<&Value>], output: &Value, at: usize) -> Option<Exact> {
    match node.operator.as_str() {
        "MatMul" => matmul(input(inputs, 0)?, input(inputs, 1)?, output, at),
        "Gemm" => gemm(node, inputs, output, at),
        _ => None,
    }
}

/// ONNX Runtime's own products.
pub(super) fn contrib(node: &Node, inputs: &[Option<&Value>], at: usize) -> Option<Exact> {
    match node.operator.as_str() {
        "MatMulNBits" => matmul_n_bits(node, inputs, at),
        _ => None,
    }
}

/// A sum of products and its rounding.
fn dot(terms: usize, product: impl Fn(usize) -> f64) -> Exact {
    let (mut sum, mut magnitude) = (0.0, 0.0);
    for term in 0..terms {
        let product = product(term);
        sum += product;
        magnitude += product.abs();
    }
    Exact::rounded(sum, (of_sum(terms) + 4.0) * magnitude)
}

/// A product of stacks of matrices; the axes before the last two are broadcast.
fn matmul(a: &Value, b: &Value, output: &Value, at: usize) -> Option<Exact> {
    let (rank_a, rank_b) = (a.shape.len(), b.shape.len());
    if rank_a < 2 || rank_b < 2 || output.shape.len() < 2 {
        return None;
    }
    let all = indices(&output.shape, at);
    let (outer, [row, column]) = all.split_last_chunk::<2>()?;
    let (inner, columns) = (a.shape[rank_a - 1], b.shape[rank_b - 1]);
    if b.shape[rank_b - 2] != inner {
        return None;
    }
    // Where the matrix of this element begins.
    let matrix = |shape: &[usize]| {
        let (own, [rows, columns]) = shape.split_last_chunk::<2>()?;
        let outer = outer.get(outer.len().checked_sub(own.len())?..)?;
        let outer: Vec<usize> =
            outer.iter().zip(own).map(|(index, size)| if *size == 1 { 0 } else { *index }).collect();
        Some(place(own, &outer) * rows * columns)
    };
    let (a_start, b_start) = (matrix(&a.shape)? + row * inner, matrix(&b.shape)? + column);
    Some(dot(inner, |term| a.at(a_start + term) * b.at(b_start + term * columns)))
}

fn gemm(node: &Node, inputs: &[Option<&Value>], output: &Value, at: usize) -> Option<Exact> {
    let (a, b) = (input(inputs, 0)?, input(inputs, 1)?);
    let ([a_rows, a_columns], [b_rows, b_columns]) = (a.shape[..].try_into().ok()?, b.shape[..].try_into().ok()?);
    let [row, column] = indices(&output.shape, at)[..].try_into().ok()?;
    let (turn_a, turn_b) = (node.integer("transA") == Some(1), node.integer("transB") == Some(1));
    let inner = if turn_a { a_rows } else { a_columns };
    if inner != if turn_b { b_columns } else { b_rows } {
        return None;
    }
    let of_a = |term: usize| if turn_a { a.at(term * a_columns + row) } else { a.at(row * a_columns + term) };
    let of_b = |term: usize| if turn_b { b.at(column * b_columns + term) } else { b.at(term * b_columns + column) };
    let product = dot(inner, |term| of_a(term) * of_b(term));
    let (alpha, beta) = (node.float("alpha").unwrap_or(1.0), node.float("beta").unwrap_or(1.0));
    let bias = input(inputs, 2).map_or(Some(0.0), |bias| super::elementwise::broadcast(bias, output, at))?;
    let number = alpha * product.number + beta * bias;
    Some(Exact::rounded(number, alpha.abs() * product.slack + 4.0 * (beta * bias).abs()))
}

/// `B` is stored by output, its inputs in blocks that share a scale (and a zero point, by default the middle of the range).
fn matmul_n_bits(node: &Node, inputs: &[Option<&Value>], at: usize) -> Option<Exact> {
    let size = |name: &str| usize::try_from(node.integer(name)?).ok();
    let (inner, outputs, bits, block) = (size("K")?, size("N")?, size("bits")?, size("block_size")?);
    // From level 2 on, the activations are rounded too.
    if !matches!(bits, 4 | 8)
        || block == 0
        || outputs == 0
        || node.integer("accuracy_level").is_some_and(|level| level > 1)
    {
        return None;
    }
    let (a, b, scales) = (input(inputs, 0)?, input(inputs, 1)?, input(inputs, 2)?);
    let (zeros, bias) = (input(inputs, 3), input(inputs, 5));
    let (row, column) = (at / outputs, at % outputs);
    let blocks = inner.div_ceil(block);
    let packed = |value: &Value, row_bytes: usize, index: usize| {
        let byte = value.integer(column * row_bytes + index * bits / 8)?;
        Some(if bits == 8 { byte } else { (byte >> (4 * (index % 2))) & 15 } as f64)
    };
    let mut weights = Vec::with_capacity(inner);
    for term in 0..inner {
        let zero = match zeros {
            None => f64::from(1u32 << (bits - 1)),
            Some(zeros) if zeros.integer(0).is_some() => packed(zeros, (blocks * bits).div_ceil(8), term / block)?,
            Some(zeros) => zeros.at(column * blocks + term / block),
        };
        let quantised = packed(b, blocks * (block * bits).div_ceil(8), term)?;
        weights.push((quantised - zero) * scales.at(column * blocks + term / block));
    }
    let product = dot(inner, |term| a.at(row * inner + term) * weights[term]);
    let bias = bias.map_or(0.0, |bias| bias.at(column));
    Some(Exact::rounded(product.number + bias, 2.0 * product.slack + 4.0 * bias.abs()))
}

/// Sums along axes, used by reductions.
pub(super) fn sum(value: &Value, places: impl Iterator<Item = usize>) -> (Exact, usize) {
    let (mut sum, mut magnitude, mut terms) = (0.0, 0.0, 0);
    for place in places {
        let number = value.at(place);
        sum += number;
        magnitude += number.abs();
        terms += 1;
    }
    (Exact::rounded(sum, of_sum(terms) * magnitude), terms)
}

/// Places along `along` through the place of `own`.
pub(super) fn line(shape: &[usize], own: &[usize], along: i64) -> Option<Vec<usize>> {
    let along = axis(along, shape.len())?;
    let size = *shape.get(along)?;
    let mut own = own.to_vec();
    let mut places = Vec::with_capacity(size);
    for index in 0..size {
        *own.get_mut(along)? = index;
        places.push(place(shape, &own));
    }
    Some(places)
}
