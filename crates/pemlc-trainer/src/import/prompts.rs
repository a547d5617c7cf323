//! What stands in front of the tokens, as one prefix of as many sets as there are tasks.

use super::error::ImportError;
use super::task::{Rows, Task};
use crate::adaptation::{Adaptation, PrefixRows};
use crate::backbone::Backbone;
use crate::error::TrainError;
use crate::parameters::host;
use pemlc_artifact::ModelConfig;
use pemlc_artifact::peft::write_prefix;
use pemlc_artifact::prompt::{Prefix, PrefixLayer, SHUT, SoftPrompts};
use pemlc_artifact::run::{PrefixRecord, RunPaths};

/// Writes `prompt/prefix.safetensors`, a PEFT folder for each task that has rows, and the soft prompts that some were folded from. `None` when
/// no task has any.
pub(super) fn write(
    tasks: &[Task],
    adaptations: &[Adaptation],
    backbone: &Backbone,
    paths: &RunPaths,
    base_model: &str,
) -> Result<Option<PrefixRecord>, ImportError> {
    let model = backbone.config();
    let own: Vec<Vec<PrefixLayer>> =
        tasks.iter().zip(adaptations).map(|(task, adaptation)| layers(task, adaptation, backbone)).collect();
    let length = own.iter().map(|layers| rows(layers)).max().unwrap_or(0);
    if length == 0 {
        return Ok(None);
    }
    for (task, layers) in tasks.iter().zip(&own).filter(|(_, layers)| !layers.is_empty()) {
        write_prefix(&paths.task_prefix(&task.name), model, base_model, layers).map_err(TrainError::from)?;
    }
    if tasks.iter().any(|task| !task.prompt().is_empty()) {
        let prompts = tasks.iter().map(|task| task.prompt().to_vec()).collect();
        let prompts = SoftPrompts { hidden: model.hidden_size, tasks: prompts };
        prompts.write(&paths.soft_prompt()).map_err(TrainError::from)?;
    }
    let gated = own.iter().any(|layers| rows(layers) < length);
    let prefix = Prefix {
        kv_heads: model.num_key_value_heads,
        length,
        head_dim: model.head_dim,
        tasks: own.into_iter().map(|layers| padded(layers, length, model)).collect(),
    };
    prefix.write(&paths.prefix()).map_err(TrainError::from)?;
    Ok(Some(PrefixRecord { length, per_task: true, gated }))
}

fn rows(layers: &[PrefixLayer]) -> usize {
    layers.first().map_or(0, |layer| layer.log_gate.len())
}

/// The rows of a task by layer, those of a soft prompt by running it through the adapted model; none without either.
fn layers(task: &Task, adaptation: &Adaptation, backbone: &Backbone) -> Vec<PrefixLayer> {
    match &task.rows {
        None => Vec::new(),
        Some(Rows::Prefix(layers)) => layers.clone(),
        Some(Rows::Prompt(_)) => {
            backbone.fold(adaptation, 1).prefix.map_or_else(Vec::new, |rows| of_tensors(rows, backbone.config()))
        }
    }
}

fn of_tensors(rows: PrefixRows, model: &ModelConfig) -> Vec<PrefixLayer> {
    let length = rows.log_gate.dims()[2];
    let (key, value) = (host(rows.key), host(rows.value));
    let size = model.kv_width() * length;
    let layer = |(key, value): (&[f32], &[f32])| PrefixLayer {
        key: key.to_vec(),
        value: value.to_vec(),
        log_gate: vec![0.0; length],
    };
    key.chunks_exact(size).zip(value.chunks_exact(size)).map(layer).collect()
}

/// `layers` with shut rows behind their own, up to `length`: they have no share in attention.
fn padded(layers: Vec<PrefixLayer>, length: usize, model: &ModelConfig) -> Vec<PrefixLayer> {
    let own = rows(&layers);
    let width = model.head_dim;
    let spread = |values: &[f32]| {
        let mut all = vec![0.0; model.num_key_value_heads * length * width];
        if own > 0 {
            for (all, own) in all.chunks_exact_mut(length * width).zip(values.chunks_exact(own * width)) {
                all[..own.len()].copy_from_slice(own);
            }
        }
        all
    };
    let shut = |gates: &[f32]| {
        let mut gates = gates.to_vec();
        gates.resize(length, SHUT);
        gates
    };
    (0..model.num_hidden_layers)
        .map(|index| {
            let none = PrefixLayer { key: Vec::new(), value: Vec::new(), log_gate: Vec::new() };
            let layer = layers.get(index).unwrap_or(&none);
            PrefixLayer { key: spread(&layer.key), value: spread(&layer.value), log_gate: shut(&layer.log_gate) }
        })
        .collect()
}
