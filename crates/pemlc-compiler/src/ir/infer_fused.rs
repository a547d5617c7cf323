//! Types of what fused operators make.

use super::infer::{broadcast, exactly, require, require_float};
use super::value::{Dim, ValueType};

/// `x` and `weight` over its last axis: as `x`.
pub(super) fn rms_norm(inputs: &[&ValueType]) -> Result<ValueType, String> {
    let [x, weight] = exactly(inputs)?;
    require_float(x)?;
    require(weight, x.dtype)?;
    match (x.shape.as_slice(), weight.shape.as_slice()) {
        ([.., width], [weights]) if width == weights => Ok(x.clone()),
        _ => Err(format!("cannot weigh {x} by {weight}")),
    }
}

/// `x`, `y` of its type, and `weight`: as `x`.
pub(super) fn skip_norm(inputs: &[&ValueType]) -> Result<ValueType, String> {
    let [x, y, weight] = exactly(inputs)?;
    if x != y {
        return Err(format!("takes two values of one type, has {x} and {y}"));
    }
    rms_norm(&[x, weight])
}

pub(super) fn rotate_halves(inputs: &[&ValueType]) -> Result<ValueType, String> {
    let [x, along, across] = exactly(inputs)?;
    require_float(x)?;
    for table in [along, across] {
        require(table, x.dtype)?;
        if broadcast(&x.shape, &table.shape)? != x.shape {
            return Err(format!("cannot rotate {x} by {table}"));
        }
    }
    match x.shape.last().and_then(Dim::fixed) {
        Some(size) if size % 2 == 0 => Ok(x.clone()),
        _ => Err(format!("the last axis of {x} has no halves")),
    }
}

pub(super) fn rotary_embedding(heads: usize, inputs: &[&ValueType]) -> Result<ValueType, String> {
    let [x, cos, sin] = exactly(inputs)?;
    require_float(x)?;
    require(cos, x.dtype)?;
    require(sin, x.dtype)?;
    match (x.shape.as_slice(), cos.shape.as_slice()) {
        ([batch, sequence, width], [table_batch, table_sequence, half])
            if cos.shape == sin.shape
                && (batch, sequence) == (table_batch, table_sequence)
                && width.fixed().zip(half.fixed()).is_some_and(|(width, half)| width == 2 * half * heads) =>
        {
            Ok(x.clone())
        }
        _ => Err(format!("cannot rotate {heads} heads of {x} by {cos} and {sin}")),
    }
}

/// Queries in which `axes` are those of heads and of tokens, keys, values, and a mask of `mask_rank` axes with tokens and keys last.
fn attend(
    inputs: &[&ValueType],
    (heads_axis, tokens_axis): (usize, usize),
    mask_rank: usize,
) -> Result<ValueType, String> {
    let [query, keys, values, mask] = exactly(inputs)?;
    require_float(query)?;
    for other in [keys, values, mask] {
        require(other, query.dtype)?;
    }
    let misfit = || format!("cannot attend with {query} over {keys}, {values} and {mask}");
    let ([batch, groups, total, size], 4) = (keys.shape.as_slice(), query.rank()) else { return Err(misfit()) };
    let grouped = query.shape[heads_axis].fixed().zip(groups.fixed()).filter(|(_, groups)| *groups > 0);
    let mut wanted_mask = vec![Dim::from(1); mask_rank];
    wanted_mask[0] = batch.clone();
    wanted_mask[mask_rank - 2] = query.shape[tokens_axis].clone();
    wanted_mask[mask_rank - 1] = total.clone();
    let fits = grouped.is_some_and(|(heads, groups)| heads % groups == 0)
        && (&query.shape[0], &query.shape[3]) == (batch, size)
        && keys.shape == values.shape
        && mask.shape == wanted_mask;
    if fits { Ok(query.clone()) } else { Err(misfit()) }
}

pub(super) fn attention(inputs: &[&ValueType]) -> Result<ValueType, String> {
    attend(inputs, (1, 2), 4)
}

pub(super) fn grouped_attention(inputs: &[&ValueType]) -> Result<ValueType, String> {
    let query = attend(inputs, (2, 1), 5)?;
    let width = query.shape[2].fixed().zip(query.shape[3].fixed()).map(|(heads, size)| heads * size);
    let width = width.ok_or_else(|| format!("heads of {query} have no fixed size"))?;
    Ok(ValueType { dtype: query.dtype, shape: vec![query.shape[0].clone(), query.shape[1].clone(), width.into()] })
}

#[cfg(test)]
mod tests {
    use super::super::infer::infer;
    use super::super::op::Op;
    use super::super::value::{DType, Symbol};
    use super::*;

    fn f32s<const N: usize>(shape: [Dim; N]) -> ValueType {
        ValueType::new(DType::F32, shape)
    }

    #[test]
    fn heads_share_the_keys_of_their_group() {
        let (batch, sequence) = (Dim::from(Symbol::Batch), Dim::from(Symbol::Sequence));
        let total = || Dim::total_sequence().plus(&8.into());
        let query = f32s([batch.clone(), sequence.clone(), 4.into(), 16.into()]);
        let keys = f32s([batch.clone(), 2.into(), total(), 16.into()]);
        let mask = f32s([batch.clone(), 1.into(), 1.into(), sequence.clone(), total()]);
        let op = Op::GroupedAttention { scale: 0.25.into() };
        let result = infer(&op, &[&query, &keys, &keys, &mask]).unwrap();
        assert_eq!(result[0].to_string(), "f32[batch_size, sequence_length, 64]");
        let three = f32s([batch, sequence, 3.into(), 16.into()]);
        assert_eq!(
            infer(&op, &[&three, &keys, &keys, &mask]).unwrap_err(),
            "cannot attend with f32[batch_size, sequence_length, 3, 16] over f32[batch_size, 2, total_sequence_length + 8, 16], \
             f32[batch_size, 2, total_sequence_length + 8, 16] and f32[batch_size, 1, 1, sequence_length, total_sequence_length + 8]"
        );
    }

    #[test]
    fn a_norm_of_a_sum_makes_the_sum_too() {
        let x = f32s([Symbol::Batch.into(), 4.into()]);
        let weight = f32s([4.into()]);
        let op = Op::SkipSimplifiedLayerNorm { epsilon: 1e-5.into() };
        assert_eq!(infer(&op, &[&x, &x, &weight]).unwrap(), [x.clone(), x.clone()]);
        assert_eq!(
            infer(&op, &[&x, &weight, &weight]).unwrap_err(),
            "takes two values of one type, has f32[batch_size, 4] and f32[4]"
        );
    }
}
