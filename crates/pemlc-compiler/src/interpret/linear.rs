//! Operators that sum.

use super::broadcast::places;
use super::layout::around;
use crate::ir::{Data, Tensor};

fn floats(tensor: &Tensor) -> Result<&[f32], String> {
    tensor.as_f32().ok_or_else(|| format!("takes f32, has {}", tensor.value_type()))
}

pub(super) fn matmul(left: &Tensor, right: &Tensor, shape: &[usize]) -> Result<Data, String> {
    let (x, y) = (floats(left)?, floats(right)?);
    let ([left_batch @ .., m, k], [right_batch @ .., _, n], [batch @ .., _, _]) = (left.shape(), right.shape(), shape)
    else {
        return Err("takes matrices".to_owned());
    };
    let (m, k, n) = (*m, *k, *n);
    let mut result = Vec::with_capacity(shape.iter().product());
    for (i, j) in places(left_batch, batch).into_iter().zip(places(right_batch, batch)) {
        let (x, y) = (&x[i * m * k..(i + 1) * m * k], &y[j * k * n..(j + 1) * k * n]);
        for row in 0..m {
            let start = result.len();
            result.resize(start + n, 0.0);
            for (inner, weight) in x[row * k..(row + 1) * k].iter().enumerate() {
                for (sum, value) in result[start..].iter_mut().zip(&y[inner * n..(inner + 1) * n]) {
                    *sum += weight * value;
                }
            }
        }
    }
    Ok(Data::F32(result))
}

pub(super) fn softmax(axis: usize, input: &Tensor) -> Result<Data, String> {
    let mut values = floats(input)?.to_vec();
    let (outer, size, inner) = around(axis, input.shape());
    for o in 0..outer {
        for j in 0..inner {
            let place = |i: usize| (o * size + i) * inner + j;
            let largest = (0..size).map(|i| values[place(i)]).fold(f32::NEG_INFINITY, f32::max);
            let mut sum = 0.0;
            for i in 0..size {
                let exponential = (values[place(i)] - largest).exp();
                values[place(i)] = exponential;
                sum += exponential;
            }
            for i in 0..size {
                values[place(i)] /= sum;
            }
        }
    }
    Ok(Data::F32(values))
}

pub(super) fn log_softmax(axis: usize, input: &Tensor) -> Result<Data, String> {
    let mut values = floats(input)?.to_vec();
    let (outer, size, inner) = around(axis, input.shape());
    for (o, j) in (0..outer).flat_map(|o| (0..inner).map(move |j| (o, j))) {
        let place = |i: usize| (o * size + i) * inner + j;
        let largest = (0..size).map(|i| values[place(i)]).fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = (0..size).map(|i| (values[place(i)] - largest).exp()).sum();
        for i in 0..size {
            values[place(i)] = values[place(i)] - largest - sum.ln();
        }
    }
    Ok(Data::F32(values))
}

pub(super) fn cumulative_sum(axis: usize, input: &Tensor) -> Result<Data, String> {
    let (_, size, inner) = around(axis, input.shape());
    let earlier = |place: usize| (!(place / inner).is_multiple_of(size)).then(|| place - inner);
    match input.data() {
        Data::F32(values) => {
            let mut sums = values.clone();
            for place in 0..sums.len() {
                sums[place] += earlier(place).map_or(0.0, |earlier| sums[earlier]);
            }
            Ok(Data::F32(sums))
        }
        Data::I64(values) => {
            let mut sums = values.clone();
            for place in 0..sums.len() {
                sums[place] += earlier(place).map_or(0, |earlier| sums[earlier]);
            }
            Ok(Data::I64(sums))
        }
        Data::Bool(_) => Err("takes numbers".to_owned()),
    }
}

pub(super) fn reduce(axes: &[usize], input: &Tensor, shape: &[usize], mean: bool) -> Result<Data, String> {
    // The place of the result that each place of the input adds to: the same broadcast, backwards.
    let targets = places(shape, input.shape());
    let count: usize = shape.iter().product();
    match input.data() {
        Data::F32(values) => {
            let mut sums = vec![0.0; count];
            for (value, target) in values.iter().zip(targets) {
                sums[target] += value;
            }
            if mean {
                let size: usize = axes.iter().map(|axis| input.shape()[*axis]).product();
                sums.iter_mut().for_each(|sum| *sum /= size as f32);
            }
            Ok(Data::F32(sums))
        }
        Data::I64(values) if !mean => {
            let mut sums = vec![0; count];
            for (value, target) in values.iter().zip(targets) {
                sums[target] += value;
            }
            Ok(Data::I64(sums))
        }
        _ => Err(format!("is not defined for {}", input.value_type())),
    }
}
