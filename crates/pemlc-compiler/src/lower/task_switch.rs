//! What follows `task_id`: the guard, and the choice of each row's private part.

use super::builder::Builder;
use crate::ir::{Comparison, DType, IrError, Op, Symbol, Tensor, ValueId, ValueType};
use crate::normal_form::LowRank;
use std::sync::Arc;

/// Values that every layer's switch reads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TaskSwitch {
    /// i64 `[batch]`: the task of each row, 0 in place of an id that is no task's.
    pub(crate) index: ValueId,
    /// f32 `[batch, 1, 1]`: 1 for a task's row, NaN for any other.
    guard: ValueId,
}

impl TaskSwitch {
    /// Adds the input `task_id`.
    ///
    /// An id outside `0..tasks` must never be answered as some task: runtimes wrap, clamp or zero-fill such a gather. So the gathers
    /// get 0 instead, and the row's embeddings are multiplied by NaN, which every runtime carries through to its logits and cache.
    pub(crate) fn new(builder: &mut Builder, tasks: usize) -> Result<Self, IrError> {
        let task_id = builder.input("task_id", ValueType::new(DType::I64, [Symbol::Batch]));
        let zero = builder.scalar_i64(0)?;
        let count = builder.scalar_i64(i64::try_from(tasks).unwrap_or(i64::MAX))?;
        let not_negative = builder.compare("task.not_negative", Comparison::GreaterOrEqual, task_id, zero)?;
        let known = builder.compare("task.below_count", Comparison::Less, task_id, count)?;
        let valid = builder.node("task.valid", Op::And, &[not_negative, known])?;
        let index = builder.node("task.index", Op::Where, &[valid, task_id, zero])?;
        let (one, nan) = (builder.scalar_f32(1.0)?, builder.scalar_f32(f32::NAN)?);
        let guard = builder.node("task.guard", Op::Where, &[valid, one, nan])?;
        let guard = builder.unsqueeze("task.guard_rows", guard, &[1, 2])?;
        Ok(Self { index, guard })
    }

    /// `embeddings` f32 `[batch, sequence, hidden]`, NaN in the rows of unknown tasks.
    pub(crate) fn guard(&self, builder: &mut Builder, embeddings: ValueId) -> Result<ValueId, IrError> {
        builder.mul("embedding", embeddings, self.guard)
    }

    /// i64 `[batch]`: which of several sets each row reads, when task `t` reads `set_of_task[t]`.
    pub(crate) fn set_index(
        &self,
        builder: &mut Builder,
        name: &str,
        set_of_task: &[usize],
    ) -> Result<ValueId, IrError> {
        if set_of_task.iter().copied().eq(0..set_of_task.len()) {
            return Ok(self.index);
        }
        let table = set_of_task.iter().map(|set| i64::try_from(*set).unwrap_or(i64::MAX)).collect();
        let table = builder.constant(format!("{name}.of_task"), &Arc::new(Tensor::vector_i64(table)))?;
        builder.gather(name, 0, table, self.index)
    }

    /// `x` `[batch, sequence, in]` through each row's own low-rank product, `[batch, sequence, out]`. How it is computed is a pass's choice.
    pub(crate) fn private_delta(
        &self,
        builder: &mut Builder,
        name: &str,
        x: ValueId,
        delta: &LowRank,
    ) -> Result<ValueId, IrError> {
        let down = builder.constant(format!("{name}.lora_a"), &delta.down)?;
        let up = builder.constant(format!("{name}.lora_b"), &delta.up)?;
        builder.node(format!("{name}.task_delta"), Op::TaskLowRank, &[x, self.index, down, up])
    }
}
