//! What follows `task_id`: the guard, and the choice of each row's private part.

use super::builder::Builder;
use crate::ir::{Comparison, DType, Expression, IrError, Op, Symbol, Tensor, ValueId, ValueType};
use crate::normal_form::LowRank;
use std::sync::Arc;

/// How a graph learns a row's task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TaskInput {
    /// From the input `task_id`: rows of a batch may differ.
    Id,
    /// From the first row's `task_id`, which is the whole batch's: other rows are no task's.
    FirstRow,
    /// There is one task, and it is in the graph.
    Pinned,
    /// One task's tensors are brought by an adapter.
    Adapter,
}

/// Values that every layer's switch reads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TaskSwitch {
    /// i64 `[batch]`: the task of each row, 0 in place of an id that is no task's.
    pub(crate) index: ValueId,
    /// i64 `[batch]` or, where the whole batch has one task, `[1]`: whose deltas are computed.
    delta_index: ValueId,
    /// f32 `[batch, 1, 1]`: 1 for a task's row, NaN for any other; absent when no id comes in.
    guard: Option<ValueId>,
    task: TaskInput,
}

impl TaskSwitch {
    /// Adds the input `task_id`, where the graph has one. `position_ids` i64 `[batch, sequence]` is read for its shape alone.
    ///
    /// An id outside `0..tasks` must never be answered as some task: runtimes wrap, clamp or zero-fill such a gather. So the gathers
    /// get 0 instead, and the row's embeddings are multiplied by NaN, which every runtime carries through to its logits and cache.
    pub(crate) fn new(
        builder: &mut Builder,
        tasks: usize,
        task: TaskInput,
        position_ids: ValueId,
    ) -> Result<Self, IrError> {
        let zero = builder.scalar_i64(0)?;
        if matches!(task, TaskInput::Pinned | TaskInput::Adapter) {
            let zeros = builder.mul("task.zeros", position_ids, zero)?;
            let zeros = builder.node("task.zero", Op::ReduceSum { axes: vec![1] }, &[zeros])?;
            let index = builder.reshape("task.index", zeros, &[None])?;
            return Ok(Self { index, delta_index: index, guard: None, task });
        }
        let task_id = builder.input("task_id", ValueType::new(DType::I64, [Symbol::Batch]));
        let count = builder.scalar_i64(i64::try_from(tasks).unwrap_or(i64::MAX))?;
        let not_negative = builder.compare("task.not_negative", Comparison::GreaterOrEqual, task_id, zero)?;
        let known = builder.compare("task.below_count", Comparison::Less, task_id, count)?;
        let mut valid = builder.node("task.valid", Op::And, &[not_negative, known])?;
        let first_row = match task {
            TaskInput::FirstRow => Some(builder.constant("task.first_row", &Arc::new(Tensor::vector_i64(vec![0])))?),
            _ => None,
        };
        if let Some(first_row) = first_row {
            let first = builder.gather("task.first", 0, task_id, first_row)?;
            let at_least = builder.compare("task.at_least_first", Comparison::GreaterOrEqual, task_id, first)?;
            let at_most = builder.compare("task.at_most_first", Comparison::LessOrEqual, task_id, first)?;
            let same = builder.node("task.as_first", Op::And, &[at_least, at_most])?;
            valid = builder.node("task.valid_as_first", Op::And, &[valid, same])?;
        }
        let index = builder.node("task.index", Op::Where, &[valid, task_id, zero])?;
        let delta_index = match first_row {
            Some(first_row) => builder.gather("task.index_of_run", 0, index, first_row)?,
            None => index,
        };
        let (one, nan) = (builder.scalar_f32(1.0)?, builder.scalar_f32(f32::NAN)?);
        let guard = builder.node("task.guard", Op::Where, &[valid, one, nan])?;
        let guard = builder.unsqueeze("task.guard_rows", guard, &[1, 2])?;
        Ok(Self { index, delta_index, guard: Some(guard), task })
    }

    /// For rows whose tasks are known: row `i` is of task `tasks[i]`.
    pub(crate) fn known(builder: &mut Builder, tasks: &[usize]) -> Result<Self, IrError> {
        let index = tasks.iter().map(|task| i64::try_from(*task).unwrap_or(i64::MAX)).collect();
        let index = builder.constant("task.index", &Arc::new(Tensor::vector_i64(index)))?;
        Ok(Self { index, guard: None, delta_index: index, task: TaskInput::Id })
    }

    /// Rows of `embeddings` for `input_ids`: f32 `[batch, sequence, hidden]`, NaN in the rows of unknown tasks.
    pub(crate) fn embed(
        &self,
        builder: &mut Builder,
        embeddings: ValueId,
        input_ids: ValueId,
    ) -> Result<ValueId, IrError> {
        match self.guard {
            Some(guard) => {
                let embedded = builder.gather("embedding.lookup", 0, embeddings, input_ids)?;
                builder.mul("embedding", embedded, guard)
            }
            None => builder.gather("embedding", 0, embeddings, input_ids),
        }
    }

    /// Rows of the prefix or scales, stacked: a constant, or one that an adapter overrides.
    pub(crate) fn rows(&self, builder: &mut Builder, name: String, tensor: &Arc<Tensor>) -> Result<ValueId, IrError> {
        match self.task {
            TaskInput::Adapter => {
                let shape = std::iter::once(1).chain(tensor.shape().iter().skip(1).copied());
                builder.brought_by_adapter(name, shape.collect())
            }
            TaskInput::Id | TaskInput::FirstRow | TaskInput::Pinned => builder.constant(name, tensor),
        }
    }

    /// As [`rows`](Self::rows); where there is one task for good, the part `only` of the stack.
    pub(crate) fn part(
        &self,
        builder: &mut Builder,
        name: String,
        tensor: &Arc<Tensor>,
        only: Option<usize>,
    ) -> Result<ValueId, IrError> {
        let Some(set) = only else { return self.rows(builder, name, tensor) };
        let base = Box::new(Expression::Constant(Arc::clone(tensor)));
        builder.weight(name, Expression::Slice { base, start: set, end: set + 1 })
    }

    /// i64 `[batch]`: which of several sets each row reads, when task `t` reads `set_of_task[t]`.
    pub(crate) fn set_index(
        &self,
        builder: &mut Builder,
        name: &str,
        set_of_task: &[usize],
    ) -> Result<ValueId, IrError> {
        if self.task == TaskInput::Adapter || set_of_task.iter().copied().eq(0..set_of_task.len()) {
            return Ok(self.index);
        }
        let table = set_of_task.iter().map(|set| i64::try_from(*set).unwrap_or(i64::MAX)).collect();
        let table = builder.constant(format!("{name}.of_task"), &Arc::new(Tensor::vector_i64(table)))?;
        builder.gather(name, 0, table, self.index)
    }

    /// Each row's own scale of the outputs, `[batch, 1, out]`, out of `[tasks, out]`.
    pub(crate) fn private_scale(
        &self,
        builder: &mut Builder,
        name: &str,
        scale: &Arc<Tensor>,
    ) -> Result<ValueId, IrError> {
        let table = self.rows(builder, format!("{name}.task_scale"), scale)?;
        let own = builder.gather(format!("{name}.task_scale.of_row"), 0, table, self.index)?;
        builder.unsqueeze(format!("{name}.task_scale.row"), own, &[1])
    }

    /// `x` `[batch, sequence, in]` through each row's own low-rank product, `[batch, sequence, out]`. How it is computed is a pass's choice.
    pub(crate) fn private_delta(
        &self,
        builder: &mut Builder,
        name: &str,
        x: ValueId,
        delta: &LowRank,
    ) -> Result<ValueId, IrError> {
        let (down_name, up_name) = (format!("{name}.lora_a"), format!("{name}.lora_b"));
        let delta_name = format!("{name}.task_delta");
        if self.task == TaskInput::Adapter {
            let matrix = |tensor: &Tensor| tensor.shape().iter().skip(1).copied().collect();
            let down = builder.brought_by_adapter(down_name, matrix(&delta.down))?;
            let up = builder.brought_by_adapter(up_name, matrix(&delta.up))?;
            let hidden = builder.matmul(format!("{name}.task_hidden"), x, down)?;
            return builder.matmul(delta_name, hidden, up);
        }
        let down = builder.constant(down_name, &delta.down)?;
        let up = builder.constant(up_name, &delta.up)?;
        builder.node(delta_name, Op::TaskLowRank, &[x, self.delta_index, down, up])
    }
}
