//! Freezing the prompt: the encoder's graph is evaluated by constant folding, and compared with the trainer's own evaluation.

use crate::ir::{Data, Graph, Tensor, verify};
use crate::lower::{EncoderError, EncoderWeights, lower_prompt_encoder};
use crate::normal_form::{Prefix, PrefixLayer};
use crate::passes::{PassError, encoder_passes, run_passes};
use pemlc_artifact::ModelConfig;
use pemlc_artifact::prompt::{self, Architecture};
use pemlc_artifact::run::PrefixRecord;
use pemlc_artifact::tensors::TensorMap;
use std::sync::Arc;

/// Why a prompt cannot be frozen.
#[derive(Debug, thiserror::Error)]
pub enum FreezeError {
    /// The encoder cannot be lowered.
    #[error(transparent)]
    Encoder(#[from] EncoderError),
    /// A pass failed on it.
    #[error(transparent)]
    Pass(#[from] PassError),
    /// Folding left an output that is not constant.
    #[error("`{0}` did not fold to a constant")]
    NotConstant(String),
    /// `prefix.safetensors` is not of this model and run.
    #[error(
        "(sets of rows, layers, key-value heads, rows, head width) are {found:?}, run.json and the model say {expected:?}"
    )]
    Table {
        /// By `run.json` and the base model.
        expected: [usize; 5],
        /// In the file.
        found: [usize; 5],
    },
}

/// Which set of rows each task reads, and how many sets there are.
fn sets(record: &PrefixRecord, tasks: usize) -> (Vec<usize>, usize) {
    if record.per_task { ((0..tasks).collect(), tasks) } else { (vec![0; tasks], 1) }
}

/// Evaluates the frozen encoder for every task and layer.
pub fn freeze_encoder(
    architecture: &Architecture,
    weights: &TensorMap,
    config: &ModelConfig,
    record: &PrefixRecord,
    tasks: usize,
) -> Result<Prefix, FreezeError> {
    let (set_of_task, sets) = sets(record, tasks);
    if architecture.length != record.length {
        let (rows, expected) = (architecture.length, record.length);
        let reason = format!("has {rows} rows, run.json says {expected}");
        return Err(EncoderError::Architecture(reason).into());
    }
    let mut graph = lower_prompt_encoder(architecture, EncoderWeights::new(weights), config, sets)?;
    verify(&graph).map_err(EncoderError::from)?;
    run_passes(&mut graph, &encoder_passes())?;
    let layers = graph
        .outputs()
        .chunks(3)
        .map(|outputs| match outputs {
            [key, value, log_gate] => Ok(PrefixLayer {
                key: folded(&graph, *key)?,
                value: folded(&graph, *value)?,
                log_gate: folded(&graph, *log_gate)?,
            }),
            _ => Err(FreezeError::NotConstant(graph.name.clone())),
        })
        .collect::<Result<_, _>>()?;
    Ok(Prefix { set_of_task, layers })
}

fn folded(graph: &Graph, id: crate::ir::ValueId) -> Result<Arc<Tensor>, FreezeError> {
    let name = || FreezeError::NotConstant(graph.value(id).name.clone());
    graph.constant_of(id).cloned().ok_or_else(name)
}

/// The rows that the trainer stored, for the methods that train them directly and to compare with.
pub fn stack_trained(
    trained: &prompt::Prefix,
    config: &ModelConfig,
    record: &PrefixRecord,
    tasks: usize,
) -> Result<Prefix, FreezeError> {
    let (set_of_task, sets) = sets(record, tasks);
    let layers = trained.tasks.first().map_or(0, Vec::len);
    let found = [trained.tasks.len(), layers, trained.kv_heads, trained.length, trained.head_dim];
    let expected = [sets, config.num_hidden_layers, config.num_key_value_heads, record.length, config.head_dim];
    if found != expected {
        return Err(FreezeError::Table { expected, found });
    }
    let stack = |layer: usize, shape: &[usize], part: fn(&prompt::PrefixLayer) -> &Vec<f32>| {
        let values: Vec<f32> =
            trained.tasks.iter().filter_map(|task| task.get(layer)).flat_map(part).copied().collect();
        let stacked = [&[sets], shape].concat();
        Tensor::new(stacked, Data::F32(values)).map(Arc::new).ok_or(FreezeError::Table { expected, found })
    };
    let rows = [trained.kv_heads, trained.length, trained.head_dim];
    let layers = (0..layers)
        .map(|layer| {
            Ok(PrefixLayer {
                key: stack(layer, &rows, |rows| &rows.key)?,
                value: stack(layer, &rows, |rows| &rows.value)?,
                log_gate: stack(layer, &rows[1..2], |rows| &rows.log_gate)?,
            })
        })
        .collect::<Result<_, FreezeError>>()?;
    Ok(Prefix { set_of_task, layers })
}

/// The largest absolute difference of two evaluations of one prompt; NaN when either holds NaN.
pub fn largest_difference(left: &Prefix, right: &Prefix) -> f64 {
    fn tensors(layer: &PrefixLayer) -> [&Tensor; 3] {
        [&layer.key, &layer.value, &layer.log_gate]
    }
    let pairs = left.layers.iter().flat_map(tensors).zip(right.layers.iter().flat_map(tensors));
    let differences = pairs.flat_map(|(left, right)| {
        let values = left.as_f32().unwrap_or_default().iter().zip(right.as_f32().unwrap_or_default());
        values.map(|(left, right)| f64::from((left - right).abs()))
    });
    // f64::max would drop a NaN.
    differences.fold(
        0.0,
        |largest: f64, difference| if largest.is_nan() || difference <= largest { largest } else { difference },
    )
}
