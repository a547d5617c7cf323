//! A graph that takes batches of one task only, as one that takes any: each task's rows are run by themselves.

use crate::{CacheShape, Inputs, KeyValue, Outputs, RuntimeError, RuntimeKind, Session};
use ndarray::{Array, Array3, Axis, Dimension, RemoveAxis};
use std::collections::BTreeMap;

/// See the module.
pub(crate) struct ByTask<'a>(pub(crate) &'a mut dyn Session);

impl Session for ByTask<'_> {
    fn run(&mut self, inputs: &Inputs) -> Result<Outputs, RuntimeError> {
        let mut rows_of_task: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
        for (row, task) in inputs.task_id.iter().enumerate() {
            rows_of_task.entry(*task).or_default().push(row);
        }
        if rows_of_task.len() < 2 {
            return self.0.run(inputs);
        }
        let mut whole: Option<Outputs> = None;
        for rows in rows_of_task.values() {
            let part = self.0.run(&select(inputs, rows))?;
            let whole = whole.get_or_insert_with(|| room_for(&part, inputs.batch_size()));
            place(&mut whole.logits, &part.logits, rows);
            for (whole, part) in whole.present.iter_mut().zip(&part.present) {
                place(&mut whole.key, &part.key, rows);
                place(&mut whole.value, &part.value, rows);
            }
        }
        whole.ok_or_else(|| RuntimeError::Inputs("a batch without rows".to_owned()))
    }

    fn kind(&self) -> RuntimeKind {
        self.0.kind()
    }

    fn version(&self) -> String {
        self.0.version()
    }

    fn execution_provider(&self) -> Option<String> {
        self.0.execution_provider()
    }

    fn cache_shape(&self) -> CacheShape {
        self.0.cache_shape()
    }
}

/// Rows `rows` of a batch.
fn select(inputs: &Inputs, rows: &[usize]) -> Inputs {
    let layer =
        |layer: &KeyValue| KeyValue { key: layer.key.select(Axis(0), rows), value: layer.value.select(Axis(0), rows) };
    Inputs {
        input_ids: inputs.input_ids.select(Axis(0), rows),
        attention_mask: inputs.attention_mask.select(Axis(0), rows),
        position_ids: inputs.position_ids.select(Axis(0), rows),
        task_id: inputs.task_id.select(Axis(0), rows),
        past: inputs.past.as_ref().map(|layers| layers.iter().map(layer).collect()),
    }
}

/// Outputs of `batch` rows, shaped as `part` is but for that.
fn room_for(part: &Outputs, batch: usize) -> Outputs {
    fn like<D: Dimension>(part: &Array<f32, D>, batch: usize) -> Array<f32, D> {
        let mut shape = part.raw_dim();
        shape[0] = batch;
        Array::zeros(shape)
    }
    let layer = |layer: &KeyValue| KeyValue { key: like(&layer.key, batch), value: like(&layer.value, batch) };
    let logits: Array3<f32> = like(&part.logits, batch);
    Outputs { logits, present: part.present.iter().map(layer).collect() }
}

fn place<D: Dimension + RemoveAxis>(whole: &mut Array<f32, D>, part: &Array<f32, D>, rows: &[usize]) {
    for (row, values) in rows.iter().zip(part.axis_iter(Axis(0))) {
        whole.index_axis_mut(Axis(0), *row).assign(&values);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Padding, Row};
    use ndarray::{Array4, array};

    /// Logits are a row's first token plus its task; it refuses to mix tasks.
    struct OneTask;

    impl Session for OneTask {
        fn run(&mut self, inputs: &Inputs) -> Result<Outputs, RuntimeError> {
            assert!(inputs.task_id.iter().all(|task| *task == inputs.task_id[0]));
            let batch = inputs.batch_size();
            let value = |row: usize| (inputs.input_ids[[row, 0]] + 10 * inputs.task_id[row]) as f32;
            Ok(Outputs {
                logits: Array3::from_shape_fn((batch, 1, 1), |(row, ..)| value(row)),
                present: vec![KeyValue {
                    key: Array4::from_shape_fn((batch, 1, 1, 1), |(row, ..)| value(row)),
                    value: Array4::zeros((batch, 1, 1, 1)),
                }],
            })
        }

        fn kind(&self) -> RuntimeKind {
            RuntimeKind::Tract
        }

        fn version(&self) -> String {
            String::new()
        }

        fn execution_provider(&self) -> Option<String> {
            None
        }

        fn cache_shape(&self) -> CacheShape {
            CacheShape { layers: 1, kv_heads: 1, head_dim: 1, dtype: crate::CacheType::F32 }
        }
    }

    #[test]
    fn every_row_has_its_own_answer() {
        let row = |token: &'static [i64], task_id| Row { tokens: token, task_id };
        let rows = [row(&[1], 2), row(&[2], 0), row(&[3], 2), row(&[4], 1)];
        let outputs = ByTask(&mut OneTask).run(&Inputs::prefill(&rows, 1, Padding::Right)).unwrap();
        let found: Vec<f32> = outputs.logits.iter().copied().collect();
        assert_eq!(found, [21.0, 2.0, 23.0, 14.0]);
        assert_eq!(outputs.present[0].key, array![[[[21.0]]], [[[2.0]]], [[[23.0]]], [[[14.0]]]]);
    }
}
