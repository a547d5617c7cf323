//! Rotation by positions.

use super::rewrites::Rewrites;
use super::{Legalise, Written};
use crate::ir::{Binary, IrError, Node, Op, ValueId};

/// ONNX Runtime's own RotaryEmbedding looks angles up by position in a table, whose end is an end of positions too.
const TABLE: &str =
    "ONNX Runtime's RotaryEmbedding ends where its table of angles ends; opset 23 has one that takes the angles";
const NO_HALVES: &str =
    "RotaryEmbedding takes one angle for both halves of a pair, and these tables are not of that form";

pub(super) fn rotate(legalise: &Legalise, rewrites: &mut Rewrites<'_, '_>, node: &Node) -> Result<Written, IrError> {
    if !legalise.has_transformer_operators() {
        primitives(rewrites, node)?;
        let declined = || Written::Declined(TABLE.to_owned());
        return Ok(if legalise.is_ort() { declined() } else { legalise.lacks("RotaryEmbedding") });
    }
    let heads = heads(rewrites, node.inputs[0]);
    let (Some((heads, size)), Some((cos, sin))) = (heads, angles(rewrites, node)) else {
        primitives(rewrites, node)?;
        return Ok(Written::Declined(NO_HALVES.to_owned()));
    };
    let table = || Op::Reshape { shape: vec![None, None, Some(size / 2)] };
    let (cos, sin) = (rewrites.derived(cos, "table", table())?, rewrites.derived(sin, "table", table())?);
    let name = rewrites.name(node.output()).to_owned();
    // The operator takes heads beside each other, as projections make them.
    let split = rewrites.maker(node.inputs[0]).filter(|maker| matches!(maker.op, Op::Reshape { .. }));
    let flat = split.map(|split| split.inputs[0]).filter(|flat| rewrites.size(*flat, 2) == Some(heads * size));
    let flat = match flat.filter(|flat| rewrites.graph().value(*flat).value_type.rank() == 3) {
        Some(flat) => flat,
        None => {
            let joined = Op::Reshape { shape: vec![None, None, Some(heads * size)] };
            rewrites.node(format!("{name}.joined"), joined, &[node.inputs[0]])?
        }
    };
    let rotated = rewrites.node(format!("{name}.flat"), Op::RotaryEmbedding { heads }, &[flat, cos, sin])?;
    let split = Op::Reshape { shape: vec![None, None, Some(heads), Some(size)] };
    rewrites.replace(node.output(), split, &[rotated]);
    Ok(Written::Anew("RotaryEmbedding".to_owned()))
}

/// Heads and their size of `[batch, sequence, heads, size]`.
fn heads(rewrites: &Rewrites<'_, '_>, x: ValueId) -> Option<(usize, usize)> {
    let rank = rewrites.graph().value(x).value_type.rank();
    (rank == 4).then(|| rewrites.size(x, 2).zip(rewrites.size(x, 3)))?
}

/// Cosines and sines `[batch, sequence, 1, size / 2]`, where the tables are `(cos, cos)` and `(-sin, sin)`.
fn angles(rewrites: &Rewrites<'_, '_>, node: &Node) -> Option<(ValueId, ValueId)> {
    let halves = |id: ValueId| {
        let maker = rewrites.maker(id).filter(|maker| maker.op == Op::Concat { axis: 3 })?;
        let [first, second] = maker.inputs[..] else { return None };
        Some((first, second))
    };
    let ((cos, other), (minus_sin, sin)) = (halves(node.inputs[1])?, halves(node.inputs[2])?);
    let negated = rewrites.maker(minus_sin).filter(|maker| maker.op == Op::Binary(Binary::Mul))?;
    let [of, by] = negated.inputs[..] else { return None };
    let by = rewrites.graph().constant_of(by).and_then(|tensor| tensor.as_f32().map(|values| values == [-1.0]));
    let rank = rewrites.graph().value(cos).value_type.rank();
    (cos == other && of == sin && by == Some(true) && rank == 4).then_some((cos, sin))
}

fn primitives(rewrites: &mut Rewrites<'_, '_>, node: &Node) -> Result<(), IrError> {
    let name = rewrites.name(node.output()).to_owned();
    let (x, along, across) = (node.inputs[0], node.inputs[1], node.inputs[2]);
    let axis = rewrites.graph().value(x).value_type.rank().saturating_sub(1);
    let size = rewrites.size(x, axis).unwrap_or_default();
    let half = |start, end| Op::Slice { axis, start, end };
    let first = rewrites.node(format!("{name}.first_half"), half(0, size / 2), &[x])?;
    let second = rewrites.node(format!("{name}.second_half"), half(size / 2, size), &[x])?;
    let swapped = rewrites.node(format!("{name}.swapped"), Op::Concat { axis }, &[second, first])?;
    let along = rewrites.node(format!("{name}.along"), Op::Binary(Binary::Mul), &[x, along])?;
    let across = rewrites.node(format!("{name}.across"), Op::Binary(Binary::Mul), &[swapped, across])?;
    rewrites.replace(node.output(), Op::Binary(Binary::Add), &[along, across]);
    Ok(())
}
