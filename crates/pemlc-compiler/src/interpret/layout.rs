//! Operators that move values without changing them.

use super::broadcast::{strides, walk};
use crate::ir::{Data, Tensor};
use std::ops::Range;

/// The values at `places`.
fn pick(data: &Data, places: impl Iterator<Item = usize>) -> Data {
    match data {
        Data::F32(values) => Data::F32(places.map(|place| values[place]).collect()),
        Data::I64(values) => Data::I64(places.map(|place| values[place]).collect()),
        Data::Bool(values) => Data::Bool(places.map(|place| values[place]).collect()),
    }
}

/// `(product of the sizes before axis, size of axis, product of the sizes after)`.
pub(super) fn around(axis: usize, shape: &[usize]) -> (usize, usize, usize) {
    (shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product())
}

pub(super) fn transpose(permutation: &[usize], input: &Tensor, shape: &[usize]) -> Data {
    let own = strides(input.shape());
    let steps: Vec<usize> = permutation.iter().map(|axis| own[*axis]).collect();
    pick(input.data(), walk(shape, &steps).into_iter())
}

pub(super) fn slice(axis: usize, range: Range<usize>, input: &Tensor) -> Data {
    let (outer, size, inner) = around(axis, input.shape());
    let places = (0..outer).flat_map(|o| {
        let range = range.clone();
        range.flat_map(move |i| (0..inner).map(move |j| (o * size + i) * inner + j))
    });
    pick(input.data(), places)
}

pub(super) fn gather(axis: usize, data: &Tensor, indices: &Tensor) -> Result<Data, String> {
    let (outer, size, inner) = around(axis, data.shape());
    let indices: Vec<usize> = indices
        .as_i64()
        .ok_or("takes i64 indices")?
        .iter()
        .map(|index| {
            let place = usize::try_from(*index).ok().filter(|place| *place < size);
            place.ok_or_else(|| format!("index {index} of {size} slices"))
        })
        .collect::<Result<_, _>>()?;
    let places = (0..outer).flat_map(|o| {
        let indices = indices.iter();
        indices.flat_map(move |index| (0..inner).map(move |j| (o * size + index) * inner + j))
    });
    Ok(pick(data.data(), places))
}

pub(super) fn gather_elements(axis: usize, data: &Tensor, indices: &Tensor) -> Result<Data, String> {
    let (_, size, inner) = around(axis, data.shape());
    let (_, own, _) = around(axis, indices.shape());
    let places: Vec<usize> = indices
        .as_i64()
        .ok_or("takes i64 indices")?
        .iter()
        .enumerate()
        .map(|(place, index)| {
            let (outer, rest) = (place / inner / own, place % inner);
            let index = usize::try_from(*index).ok().filter(|index| *index < size);
            index.map(|index| (outer * size + index) * inner + rest).ok_or("index outside the axis")
        })
        .collect::<Result<_, _>>()?;
    Ok(pick(data.data(), places.into_iter()))
}

pub(super) fn concat(axis: usize, inputs: &[&Tensor]) -> Result<Data, String> {
    let outer = inputs.first().map_or(0, |input| around(axis, input.shape()).0);
    // (input, places of it) for each outer index, in order.
    let pieces = (0..outer).flat_map(|o| {
        inputs.iter().map(move |input| {
            let (_, size, inner) = around(axis, input.shape());
            (*input, o * size * inner..(o + 1) * size * inner)
        })
    });
    let mut result = None;
    for (input, places) in pieces {
        let piece = pick(input.data(), places);
        match (&mut result, piece) {
            (None, piece) => result = Some(piece),
            (Some(Data::F32(values)), Data::F32(piece)) => values.extend(piece),
            (Some(Data::I64(values)), Data::I64(piece)) => values.extend(piece),
            (Some(Data::Bool(values)), Data::Bool(piece)) => values.extend(piece),
            _ => return Err("takes one number type".to_owned()),
        }
    }
    result.ok_or_else(|| "takes at least one value".to_owned())
}
