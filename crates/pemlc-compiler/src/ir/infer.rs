//! The type of an operator's result from the types of its inputs.

use super::infer_fused::{attention, grouped_attention, rms_norm, rotary_embedding, rotate_halves, skip_norm};
use super::op::Op;
use super::quantisation::{Encoding, Part, Quantisation};
use super::value::{DType, Dim, ValueType};

/// The types of what `op` makes of `inputs`; the error says in words what does not fit.
pub fn infer(op: &Op, inputs: &[&ValueType]) -> Result<Vec<ValueType>, String> {
    match op {
        Op::SkipSimplifiedLayerNorm { .. } => skip_norm(inputs).map(|value_type| vec![value_type; 2]),
        _ => infer_one(op, inputs).map(|value_type| vec![value_type]),
    }
}

fn infer_one(op: &Op, inputs: &[&ValueType]) -> Result<ValueType, String> {
    match op {
        Op::And => {
            let [left, right] = exactly(inputs)?;
            require(left, DType::Bool)?;
            elementwise(left, right, DType::Bool)
        }
        Op::Attention { .. } => attention(inputs),
        Op::Binary(_) => {
            let [left, right] = exactly(inputs)?;
            elementwise(left, right, left.dtype)
        }
        Op::Cast { to } => {
            let [input] = exactly(inputs)?;
            Ok(ValueType { dtype: *to, shape: input.shape.clone() })
        }
        Op::Comparison(_) => {
            let [left, right] = exactly(inputs)?;
            elementwise(left, right, DType::Bool)
        }
        Op::Concat { axis } => concat(*axis, inputs),
        Op::CumSum { axis } => {
            let [input] = exactly(inputs)?;
            within(*axis, input.rank())?;
            Ok(input.clone())
        }
        Op::Gather { axis } => {
            let [data, indices] = exactly(inputs)?;
            require(indices, DType::I64)?;
            within(*axis, data.rank())?;
            let mut shape = data.shape.clone();
            shape.splice(*axis..=*axis, indices.shape.iter().cloned());
            Ok(ValueType { dtype: data.dtype, shape })
        }
        Op::GroupedAttention { .. } => grouped_attention(inputs),
        Op::MatMul => matmul(inputs),
        Op::MatMulNBits { inputs: width, outputs, block } => matmul_nbits((*width, *outputs, *block), inputs),
        Op::ReduceMean { axes } | Op::ReduceSum { axes } => {
            let [input] = exactly(inputs)?;
            let mut shape = input.shape.clone();
            for axis in axes {
                within(*axis, shape.len())?;
                shape[*axis] = Dim::from(1);
            }
            Ok(ValueType { dtype: input.dtype, shape })
        }
        Op::Reshape { shape } => reshape(shape, inputs),
        Op::RotateKeys => {
            let [keys, offsets, frequencies] = exactly(inputs)?;
            super::expression::rotated(keys, offsets, frequencies)
        }
        Op::RmsNorm { .. } | Op::SimplifiedLayerNorm { .. } => rms_norm(inputs),
        Op::RotaryEmbedding { heads } => rotary_embedding(*heads, inputs),
        Op::RotateHalves => rotate_halves(inputs),
        Op::SkipSimplifiedLayerNorm { .. } => skip_norm(inputs),
        Op::Slice { axis, start, end } => {
            let [input] = exactly(inputs)?;
            within(*axis, input.rank())?;
            let size = input.shape[*axis].fixed().ok_or("slices an axis of unknown size")?;
            if start >= end || *end > size {
                return Err(format!("slices {start}..{end} of {size} elements"));
            }
            let mut shape = input.shape.clone();
            shape[*axis] = Dim::from(end - start);
            Ok(ValueType { dtype: input.dtype, shape })
        }
        Op::GatherElements { axis } => {
            let [data, indices] = exactly(inputs)?;
            require(indices, DType::I64)?;
            within(*axis, data.rank())?;
            let mut expected = indices.shape.clone();
            if let (Some(own), Some(size)) = (expected.get_mut(*axis), data.shape.get(*axis)) {
                own.clone_from(size);
            }
            if expected != data.shape {
                return Err(format!("cannot take {indices} out of {data} along axis {axis}"));
            }
            Ok(ValueType { dtype: data.dtype, shape: indices.shape.clone() })
        }
        Op::LogSoftmax { axis } | Op::Softmax { axis } => {
            let [input] = exactly(inputs)?;
            require_float(input)?;
            within(*axis, input.rank())?;
            Ok(input.clone())
        }
        Op::SoftPrompt => {
            let [input] = exactly(inputs)?;
            require_float(input)?;
            Ok(input.clone())
        }
        Op::Squeeze { axes } => {
            let [input] = exactly(inputs)?;
            let one = Dim::from(1);
            if let Some(axis) = axes.iter().find(|axis| input.shape.get(**axis) != Some(&one)) {
                return Err(format!("axis {axis} cannot be removed from {input}"));
            }
            let kept = input.shape.iter().enumerate().filter(|(axis, _)| !axes.contains(axis));
            Ok(ValueType { dtype: input.dtype, shape: kept.map(|(_, dim)| dim.clone()).collect() })
        }
        Op::TaskLowRank => task_low_rank(inputs),
        Op::Transpose { permutation } => {
            let [input] = exactly(inputs)?;
            let mut sorted = permutation.clone();
            sorted.sort_unstable();
            if !sorted.into_iter().eq(0..input.rank()) {
                return Err(format!("permutation {permutation:?} does not fit {input}"));
            }
            let shape = permutation.iter().map(|axis| input.shape[*axis].clone()).collect();
            Ok(ValueType { dtype: input.dtype, shape })
        }
        Op::Unary(_) => {
            let [input] = exactly(inputs)?;
            require_float(input)?;
            Ok(input.clone())
        }
        Op::Unsqueeze { axes } => {
            let [input] = exactly(inputs)?;
            let mut shape = input.shape.clone();
            for axis in axes {
                if *axis > shape.len() {
                    return Err(format!("axis {axis} cannot be inserted into {input}"));
                }
                shape.insert(*axis, Dim::from(1));
            }
            Ok(ValueType { dtype: input.dtype, shape })
        }
        Op::Where => {
            let [condition, then, otherwise] = exactly(inputs)?;
            require(condition, DType::Bool)?;
            let branches = elementwise(then, otherwise, then.dtype)?;
            Ok(ValueType { dtype: then.dtype, shape: broadcast(&condition.shape, &branches.shape)? })
        }
    }
}

pub(super) fn exactly<'a, const N: usize>(inputs: &[&'a ValueType]) -> Result<[&'a ValueType; N], String> {
    inputs.try_into().map_err(|_| format!("takes {N} inputs, has {}", inputs.len()))
}

pub(super) fn require(value: &ValueType, dtype: DType) -> Result<(), String> {
    if value.dtype == dtype { Ok(()) } else { Err(format!("takes {dtype}, has {value}")) }
}

pub(super) fn require_float(value: &ValueType) -> Result<(), String> {
    if value.dtype.is_float() { Ok(()) } else { Err(format!("takes floats, has {value}")) }
}

fn within(axis: usize, rank: usize) -> Result<(), String> {
    if axis < rank { Ok(()) } else { Err(format!("axis {axis} of a value with {rank} axes")) }
}

fn elementwise(left: &ValueType, right: &ValueType, dtype: DType) -> Result<ValueType, String> {
    if left.dtype != right.dtype {
        return Err(format!("takes one number type, has {left} and {right}"));
    }
    Ok(ValueType { dtype, shape: broadcast(&left.shape, &right.shape)? })
}

/// The common shape of two shapes, aligned at the last axis.
pub(super) fn broadcast(left: &[Dim], right: &[Dim]) -> Result<Vec<Dim>, String> {
    let rank = left.len().max(right.len());
    let one = Dim::from(1);
    let at = |shape: &[Dim], axis: usize| {
        (axis + shape.len()).checked_sub(rank).map_or_else(|| one.clone(), |i| shape[i].clone())
    };
    (0..rank)
        .map(|axis| match (at(left, axis), at(right, axis)) {
            (a, b) if a == b || b == one => Ok(a),
            (a, b) if a == one => Ok(b),
            (a, b) => Err(format!("dimensions {a} and {b} do not broadcast")),
        })
        .collect()
}

fn concat(axis: usize, inputs: &[&ValueType]) -> Result<ValueType, String> {
    let (first, rest) = inputs.split_first().ok_or("takes at least one input, has none")?;
    within(axis, first.rank())?;
    let mut result = (*first).clone();
    for input in rest {
        let mut expected = first.shape.clone();
        if let Some(size) = input.shape.get(axis) {
            expected[axis] = size.clone();
        }
        if input.dtype != first.dtype || input.shape != expected {
            return Err(format!("cannot concatenate {first} and {input} along axis {axis}"));
        }
        result.shape[axis] = result.shape[axis].plus(&input.shape[axis]);
    }
    Ok(result)
}

fn matmul(inputs: &[&ValueType]) -> Result<ValueType, String> {
    let [left, right] = exactly(inputs)?;
    require_float(left)?;
    require(right, left.dtype)?;
    match (left.shape.as_slice(), right.shape.as_slice()) {
        ([left_batch @ .., m, k], [right_batch @ .., k2, n]) if k == k2 => {
            let mut shape = broadcast(left_batch, right_batch)?;
            shape.extend([m.clone(), n.clone()]);
            Ok(ValueType { dtype: left.dtype, shape })
        }
        _ => Err(format!("cannot multiply {left} and {right}")),
    }
}

/// `x` `[.., inputs]` by `values` u8 `[outputs, blocks, block / 2]` and `scales` f32 `[outputs, blocks]`.
fn matmul_nbits((width, outputs, block): (usize, usize, usize), inputs: &[&ValueType]) -> Result<ValueType, String> {
    let [x, values, scales] = exactly(inputs)?;
    require(x, DType::F32)?;
    let quantisation = Quantisation { encoding: Encoding::Nibbles, block };
    let rows = ValueType::new(DType::F32, [outputs, width]);
    for (found, part) in [(values, Part::Values), (scales, Part::Scales)] {
        let expected = quantisation.value_type(part, &rows)?;
        if *found != expected {
            return Err(format!("takes {} {expected}, has {found}", part.name()));
        }
    }
    match x.shape.split_last() {
        Some((last, rest)) if *last == Dim::from(width) => {
            let shape = rest.iter().cloned().chain([Dim::from(outputs)]).collect();
            Ok(ValueType { dtype: x.dtype, shape })
        }
        _ => Err(format!("cannot multiply {x} and [{width}, {outputs}]")),
    }
}

fn task_low_rank(inputs: &[&ValueType]) -> Result<ValueType, String> {
    let [x, index, down, up] = exactly(inputs)?;
    require_float(x)?;
    require(index, DType::I64)?;
    require(down, x.dtype)?;
    require(up, x.dtype)?;
    match (x.shape.as_slice(), index.shape.as_slice(), down.shape.as_slice(), up.shape.as_slice()) {
        ([batch, sequence, width], [rows], [tasks, inner, rank], [up_tasks, up_rank, out])
            if (width, tasks, rank) == (inner, up_tasks, up_rank) && (batch == rows || *rows == Dim::from(1)) =>
        {
            Ok(ValueType { dtype: x.dtype, shape: vec![batch.clone(), sequence.clone(), out.clone()] })
        }
        _ => Err(format!("cannot take {x} through {down} and {up} by {index}")),
    }
}

fn reshape(target: &[Option<usize>], inputs: &[&ValueType]) -> Result<ValueType, String> {
    let [input] = exactly(inputs)?;
    let shape: Vec<Dim> = target
        .iter()
        .enumerate()
        .map(|(axis, size)| match size {
            Some(size) => Ok(Dim::from(*size)),
            None => input.shape.get(axis).cloned().ok_or_else(|| format!("has no axis {axis} to keep in {input}")),
        })
        .collect::<Result<_, _>>()?;
    let split = |dims: &[Dim]| {
        let fixed = dims.iter().filter_map(Dim::fixed).try_fold(1usize, usize::checked_mul)?;
        let mut symbolic: Vec<String> = dims.iter().filter(|dim| dim.fixed().is_none()).map(Dim::to_string).collect();
        symbolic.sort_unstable();
        Some((fixed, symbolic))
    };
    let own = split(&input.shape);
    if own.is_none() || split(&shape) != own {
        let dims: Vec<String> = shape.iter().map(Dim::to_string).collect();
        return Err(format!("cannot view {input} as [{}]", dims.join(", ")));
    }
    Ok(ValueType { dtype: input.dtype, shape })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::value::Symbol;

    fn f32s(shape: &[Dim]) -> ValueType {
        ValueType { dtype: DType::F32, shape: shape.to_vec() }
    }

    #[test]
    fn past_and_new_tokens_concatenate_to_the_total() {
        let past = f32s(&[Symbol::Batch.into(), 2.into(), Symbol::PastSequence.into(), 16.into()]);
        let new = f32s(&[Symbol::Batch.into(), 2.into(), Symbol::Sequence.into(), 16.into()]);
        let total = infer_one(&Op::Concat { axis: 2 }, &[&past, &new]).unwrap();
        assert_eq!(total.to_string(), "f32[batch_size, 2, total_sequence_length, 16]");
        let prefix = f32s(&[Symbol::Batch.into(), 2.into(), 8.into(), 16.into()]);
        let keys = infer_one(&Op::Concat { axis: 2 }, &[&prefix, &total]).unwrap();
        assert_eq!(keys.to_string(), "f32[batch_size, 2, total_sequence_length + 8, 16]");
    }

    #[test]
    fn misfits_are_told_in_words() {
        let a = f32s(&[Symbol::Batch.into(), 3.into()]);
        let b = f32s(&[4.into(), 5.into()]);
        assert_eq!(infer(&Op::MatMul, &[&a, &b]).unwrap_err(), "cannot multiply f32[batch_size, 3] and f32[4, 5]");
        assert_eq!(
            infer(&Op::Reshape { shape: vec![None, Some(4)] }, &[&a]).unwrap_err(),
            "cannot view f32[batch_size, 3] as [batch_size, 4]"
        );
        assert_eq!(infer(&Op::Slice { axis: 1, start: 2, end: 4 }, &[&a]).unwrap_err(), "slices 2..4 of 3 elements");
        assert_eq!(infer(&Op::And, &[&a]).unwrap_err(), "takes 2 inputs, has 1");
    }
}
