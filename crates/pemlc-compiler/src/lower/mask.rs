//! The additive attention mask: causal over cache slots, minus padding.

use super::builder::Builder;
use crate::ir::{Comparison, DType, IrError, Op, ValueId};

/// Masks that every layer adds to its scores.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mask {
    /// f32 `[batch, 1, 1, sequence, total]`: 0 where a query sees a key.
    pub(crate) tokens: ValueId,
    /// f32 `[batch, 1, 1, sequence, 1]`: 0, to give prefix columns the queries' axis.
    pub(crate) zero_column: ValueId,
}

impl Mask {
    /// From `position_ids` i64 `[batch, sequence]`, read for its shape alone, and `attention_mask` i64 `[batch, total]`.
    ///
    /// Slots are counted by running sums over ones rather than by `Range` or `Shape`, which tract cannot reconcile with the key-value
    /// axis. A hidden key gets the lowest finite number, so that a query that sees no key (padding) makes no NaN.
    pub(crate) fn new(builder: &mut Builder, position_ids: ValueId, attention_mask: ValueId) -> Result<Self, IrError> {
        let (zero, one) = (builder.scalar_i64(0)?, builder.scalar_i64(1)?);
        let query_zeros = builder.mul("mask.query_zeros", position_ids, zero)?;
        let query_ones = builder.add("mask.query_ones", query_zeros, one)?;
        let key_zeros = builder.mul("mask.key_zeros", attention_mask, zero)?;
        let key_ones = builder.add("mask.key_ones", key_zeros, one)?;
        let keys = builder.node("mask.key_count", Op::ReduceSum { axes: vec![1] }, &[key_ones])?;
        let queries = builder.node("mask.query_count", Op::ReduceSum { axes: vec![1] }, &[query_ones])?;
        let past = builder.sub("mask.past_count", keys, queries)?;
        let query_rank = builder.node("mask.query_rank", Op::CumSum { axis: 1 }, &[query_ones])?;
        let query_slot = builder.add("mask.query_slot", query_rank, past)?;
        let key_slot = builder.node("mask.key_slot", Op::CumSum { axis: 1 }, &[key_ones])?;
        let query_slot = builder.unsqueeze("mask.query_slot_column", query_slot, &[2])?;
        let key_slot = builder.unsqueeze("mask.key_slot_row", key_slot, &[1])?;
        let causal = builder.compare("mask.causal", Comparison::LessOrEqual, key_slot, query_slot)?;
        let present = builder.compare("mask.present", Comparison::Greater, attention_mask, zero)?;
        let present = builder.unsqueeze("mask.present_row", present, &[1])?;
        let visible = builder.node("mask.visible", Op::And, &[causal, present])?;
        let (seen, hidden) = (builder.scalar_f32(0.0)?, builder.scalar_f32(f32::MIN)?);
        let tokens = builder.node("mask.additive", Op::Where, &[visible, seen, hidden])?;
        let tokens = builder.unsqueeze("mask", tokens, &[1, 2])?;
        let zero_column = builder.cast("mask.zeros", DType::F32, query_zeros)?;
        let zero_column = builder.unsqueeze("mask.zero_column", zero_column, &[1, 2, 4])?;
        Ok(Self { tokens, zero_column })
    }
}
