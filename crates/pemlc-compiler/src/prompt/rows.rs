//! Rows as the normal form holds them: of the trainer, and out of the graph that was compiled.

use super::{Prompt, PromptError};
use crate::evaluate::values;
use crate::ir::{Data, Graph, Tensor, ValueId};
use crate::lower::SoftPromptRows;
use crate::normal_form::{Prefix, PrefixLayer};
use pemlc_artifact::prompt::SHUT;
use pemlc_artifact::{Checkpoint, ModelConfig, prompt};
use std::sync::Arc;

impl Prompt {
    /// The rows that the trainer stored, by layer and stacked by set.
    pub(super) fn stack_trained(&self, trained: &prompt::Prefix, config: &ModelConfig) -> Result<Prefix, PromptError> {
        let [sets, kv_heads, length, head_dim] = self.shape(config);
        let layers = trained.tasks.first().map_or(0, Vec::len);
        let found = [trained.tasks.len(), layers, trained.kv_heads, trained.length, trained.head_dim];
        let expected = [sets, config.num_hidden_layers, kv_heads, length, head_dim];
        if found != expected {
            return Err(PromptError::Table { expected, found });
        }
        let stack = |layer: usize, shape: &[usize], part: fn(&prompt::PrefixLayer) -> &Vec<f32>| {
            let values: Vec<f32> =
                trained.tasks.iter().filter_map(|task| task.get(layer)).flat_map(part).copied().collect();
            let stacked = [&[sets], shape].concat();
            Tensor::new(stacked, Data::F32(values)).map(Arc::new).ok_or(PromptError::Table { expected, found })
        };
        let rows = [kv_heads, length, head_dim];
        let layers = (0..layers)
            .map(|layer| {
                Ok(PrefixLayer {
                    key: stack(layer, &rows, |rows| &rows.key)?,
                    value: stack(layer, &rows, |rows| &rows.value)?,
                    log_gate: stack(layer, &rows[1..2], |rows| &rows.log_gate)?,
                })
            })
            .collect::<Result<_, PromptError>>()?;
        Ok(Prefix { set_of_task: self.set_of_task(), only: None, layers })
    }
}

impl SoftPromptRows {
    /// `(set of rows, own length)` of each prompt.
    pub(super) fn set_lengths(&self, per_task: bool) -> Vec<(usize, usize)> {
        let set = |task: usize| if per_task { task } else { 0 };
        self.tasks.iter().zip(&self.lengths).map(|(task, length)| (set(*task), *length)).collect()
    }
}

/// Keys, values and log-gates of every layer, out of a compiled graph.
pub(super) struct Compiled {
    layers: Vec<[Tensor; 3]>,
}

impl Compiled {
    pub(super) fn new(graph: &Graph, checkpoint: &Checkpoint) -> Result<Self, PromptError> {
        let stored = |id: &ValueId| {
            let name = || graph.value(*id).name.clone();
            let initialiser = graph.initialisers().find(|(other, _)| other == id);
            let (_, expression) = initialiser.ok_or_else(|| PromptError::NotStored(name()))?;
            values(expression, checkpoint)
                .map_err(|source| PromptError::Value { name: name(), source: Box::new(source) })
        };
        let layers = graph.outputs().chunks(3).map(|outputs| match outputs {
            [key, value, gate] => Ok([stored(key)?, stored(value)?, stored(gate)?]),
            _ => Err(PromptError::NotStored(graph.name.clone())),
        });
        Ok(Self { layers: layers.collect::<Result<_, _>>()? })
    }

    /// The rows as a prefix of `shape` `[sets, kv_heads, length, head_dim]`: those of part `i` become the first `places[i].1` of set
    /// `places[i].0`, and what follows them is shut. Sets that no part belongs to have the rows of `others`, or shut ones.
    pub(super) fn place(
        &self,
        places: &[(usize, usize)],
        others: Option<&Prefix>,
        shape: [usize; 4],
        set_of_task: Vec<usize>,
    ) -> Result<Prefix, PromptError> {
        let [sets, kv_heads, length, head_dim] = shape;
        let (size, layers) = (kv_heads * length * head_dim, self.layers.len());
        let start = |tensor: Option<&Arc<Tensor>>, count: usize, absent: f32| {
            let kept = tensor.and_then(|tensor| tensor.as_f32()).map(<[f32]>::to_vec);
            kept.filter(|values| values.len() == count).unwrap_or_else(|| vec![absent; count])
        };
        let of_layer = |index: usize| {
            let other = others.and_then(|prefix| prefix.layers.get(index));
            let mut key = start(other.map(|layer| &layer.key), sets * size, 0.0);
            let mut value = start(other.map(|layer| &layer.value), sets * size, 0.0);
            let mut gates = start(other.map(|layer| &layer.log_gate), sets * length, SHUT);
            let [own_key, own_value, own_gates] = &self.layers[index];
            for (part, (set, own)) in places.iter().enumerate() {
                put(own_key, part, *own, &mut key[set * size..(set + 1) * size], length);
                put(own_value, part, *own, &mut value[set * size..(set + 1) * size], length);
                let gates = &mut gates[set * length..(set + 1) * length];
                gates.fill(SHUT);
                let longest = own_gates.shape().last().copied().unwrap_or_default();
                let found = own_gates.as_f32().unwrap_or_default();
                gates[..*own].copy_from_slice(&found[part * longest..][..*own]);
            }
            let tensor = |shape: Vec<usize>, values: Vec<f32>| Arc::new(Tensor::f32_from_fn(shape, |i| values[i]));
            PrefixLayer {
                key: tensor(shape.to_vec(), key),
                value: tensor(shape.to_vec(), value),
                log_gate: tensor(vec![sets, length], gates),
            }
        };
        Ok(Prefix { set_of_task, only: None, layers: (0..layers).map(of_layer).collect() })
    }
}

/// The first `own` rows of part `part` of `rows` `[parts, kv_heads, longest, head_dim]` into `set` `[kv_heads, length, head_dim]`, zeros behind.
fn put(rows: &Tensor, part: usize, own: usize, set: &mut [f32], length: usize) {
    let ([_, kv_heads, longest, head_dim], Some(values)) = (rows.shape(), rows.as_f32()) else { return };
    set.fill(0.0);
    for (head, set) in set.chunks_exact_mut((length * head_dim).max(1)).enumerate() {
        let start = (part * kv_heads + head) * longest * head_dim;
        set[..own * head_dim].copy_from_slice(&values[start..][..own * head_dim]);
    }
}

/// Refuses rows that are no numbers. `sets` are those that were compiled, and whose they are.
pub(super) fn finite(prefix: &Prefix, sets: &[(usize, String)]) -> Result<(), PromptError> {
    for (layer, rows) in prefix.layers.iter().enumerate() {
        for (set, whose) in sets {
            for tensor in [&rows.key, &rows.value, &rows.log_gate] {
                let part = tensor.part(*set);
                let bad = part.as_f32().unwrap_or_default().iter().find(|value| !value.is_finite()).copied();
                if let Some(value) = bad {
                    return Err(PromptError::NotFinite { whose: whose.clone(), layer, value });
                }
            }
        }
    }
    Ok(())
}
