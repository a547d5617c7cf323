//! Elements moved from one place to another.

use super::{Exact, axis, input};
use crate::bisect::graph::Node;
use crate::bisect::value::{Value, indices, place};

pub(super) fn element(
    node: &Node,
    inputs: &[Option<&Value>],
    output: &Value,
    which: usize,
    at: usize,
) -> Option<Exact> {
    match node.operator.as_str() {
        "Constant" => return super::elementwise::constant(node, at),
        "Concat" => return concatenated(node, inputs, output, at),
        _ => {}
    }
    let x = input(inputs, 0)?;
    let own = indices(&output.shape, at);
    let source = match node.operator.as_str() {
        "Flatten" | "Reshape" | "Squeeze" | "Unsqueeze" => (x.len() == output.len()).then_some(at)?,
        "Shape" => return Some(Exact::moved(*x.shape.get(at)? as f64)),
        "Expand" => return super::elementwise::broadcast(x, output, at).map(Exact::moved),
        "Gather" => gathered(node, x, input(inputs, 1)?, &own)?,
        "GatherElements" => {
            let along = axis(node.integer("axis").unwrap_or(0), x.shape.len())?;
            let mut from = own;
            *from.get_mut(along)? = wrapped(input(inputs, 1)?.integer(at)?, *x.shape.get(along)?)?;
            place(&x.shape, &from)
        }
        "Slice" => sliced(node, inputs, x, &own)?,
        "Split" => {
            let along = axis(node.integer("axis").unwrap_or(0), x.shape.len())?;
            let sizes = input(inputs, 1).and_then(Value::all_integers);
            let before = match sizes {
                Some(sizes) => usize::try_from(sizes.iter().take(which).sum::<i64>()).ok()?,
                None => which * output.shape.get(along)?,
            };
            let mut from = own;
            *from.get_mut(along)? += before;
            place(&x.shape, &from)
        }
        "Transpose" => {
            let reversed: Vec<i64> = (0..x.shape.len() as i64).rev().collect();
            let mut from = vec![0; own.len()];
            for (index, source) in own.iter().zip(node.integers("perm").unwrap_or(&reversed)) {
                *from.get_mut(axis(*source, x.shape.len())?)? = *index;
            }
            place(&x.shape, &from)
        }
        _ => return None,
    };
    (which == 0 || node.operator == "Split").then(|| Exact::moved(x.at(source)))
}

fn concatenated(node: &Node, inputs: &[Option<&Value>], output: &Value, at: usize) -> Option<Exact> {
    let along = axis(node.integer("axis")?, output.shape.len())?;
    let mut own = indices(&output.shape, at);
    for value in inputs {
        let value = (*value)?;
        let size = *value.shape.get(along)?;
        let position = own.get_mut(along)?;
        if *position < size {
            return Some(Exact::moved(value.at(place(&value.shape, &own))));
        }
        *position -= size;
    }
    None
}

/// The indices' shape stands where the axis was.
fn gathered(node: &Node, x: &Value, index: &Value, own: &[usize]) -> Option<usize> {
    let along = axis(node.integer("axis").unwrap_or(0), x.shape.len())?;
    let rank = index.shape.len();
    let picked = index.integer(place(&index.shape, own.get(along..along + rank)?))?;
    let mut from = own.get(..along)?.to_vec();
    from.push(wrapped(picked, *x.shape.get(along)?)?);
    from.extend_from_slice(own.get(along + rank..)?);
    Some(place(&x.shape, &from))
}

/// An index that counts from the end when negative.
fn wrapped(index: i64, size: usize) -> Option<usize> {
    let index = if index < 0 { index + i64::try_from(size).ok()? } else { index };
    usize::try_from(index).ok().filter(|index| *index < size)
}

fn sliced(node: &Node, inputs: &[Option<&Value>], x: &Value, own: &[usize]) -> Option<usize> {
    let list = |index: usize, name: &str| {
        node.integers(name).or_else(|| input(inputs, index).and_then(Value::all_integers)).map(<[i64]>::to_vec)
    };
    let starts = list(1, "starts")?;
    let axes = list(3, "axes").unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = list(4, "steps").unwrap_or_else(|| vec![1; starts.len()]);
    let mut from = own.to_vec();
    for ((start, along), step) in starts.iter().zip(&axes).zip(&steps) {
        let along = axis(*along, x.shape.len())?;
        let size = i64::try_from(*x.shape.get(along)?).ok()?;
        let start = if *start < 0 { start + size } else { *start };
        let start = if *step < 0 { start.clamp(-1, size - 1) } else { start.clamp(0, size) };
        let position = from.get_mut(along)?;
        *position = usize::try_from(start + step * i64::try_from(*position).ok()?).ok()?;
    }
    Some(place(&x.shape, &from))
}
