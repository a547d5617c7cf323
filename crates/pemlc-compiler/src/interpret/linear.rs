//! Operators that sum.

use super::broadcast::places;
use super::layout::around;
use crate::evaluate::{rotate, row_product};
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
            result.extend(row_product(&x[row * k..(row + 1) * k], y, n));
        }
    }
    Ok(Data::F32(result))
}

/// Each row of `x` `[batch, sequence, in]` through its own task's factors.
pub(super) fn task_low_rank(x: &Tensor, index: &Tensor, down: &Tensor, up: &Tensor) -> Result<Data, String> {
    let ([_, sequence, inputs], [tasks, _, rank], [_, _, outputs]) = (x.shape(), down.shape(), up.shape()) else {
        return Err("takes stacks of matrices".to_owned());
    };
    let (a, b) = (floats(down)?, floats(up)?);
    let mut result = Vec::new();
    for (rows, task) in floats(x)?.chunks_exact((sequence * inputs).max(1)).zip(index.as_i64().unwrap_or_default()) {
        let known = usize::try_from(*task).ok().filter(|task| task < tasks);
        let task = known.ok_or_else(|| format!("takes task {task} of {tasks}"))?;
        let (a, b) = (&a[task * inputs * rank..][..inputs * rank], &b[task * rank * outputs..][..rank * outputs]);
        for row in rows.chunks_exact((*inputs).max(1)) {
            result.extend(row_product(&row_product(row, a, *rank), b, *outputs));
        }
    }
    Ok(Data::F32(result))
}

pub(super) fn rotate_keys(keys: &Tensor, offsets: &Tensor, frequencies: &Tensor) -> Result<Data, String> {
    let offsets = offsets.as_i64().ok_or("takes i64 offsets")?;
    let (mut values, frequencies) = (floats(keys)?.to_vec(), floats(frequencies)?);
    let set = values.len() / offsets.len().max(1);
    for (keys, offset) in values.chunks_exact_mut(set.max(1)).zip(offsets) {
        rotate(keys, *offset, frequencies);
    }
    Ok(Data::F32(values))
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
            let mut sums = vec![0f64; count];
            for (value, target) in values.iter().zip(targets) {
                sums[target] += f64::from(*value);
            }
            let size: usize = axes.iter().map(|axis| input.shape()[*axis]).product();
            let share = if mean { size as f64 } else { 1.0 };
            Ok(Data::F32(sums.into_iter().map(|sum| (sum / share) as f32).collect()))
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
