//! An artifact directory around the toy decoder.

use super::fault::Fault;
use super::oracle::{VOCABULARY, WIDTH, logits};
use super::toy::{self, TASKS};
use pemlc_artifact::artifact::{ARTIFACT_SCHEMA_VERSION, ArtifactManifest};
use pemlc_artifact::hash::hash_file;
use pemlc_artifact::run::TaskRecord;
use pemlc_artifact::tensors::{self, NamedTensor, TensorMap, Values};
use pemlc_artifact::{Family, ModelConfig};
use std::path::Path;

const LENGTH: usize = 14;
const SCORED: usize = 2;

/// The tokens of probe `index`, and its task of [`TASKS`].
pub(crate) fn probe(index: usize) -> (Vec<i64>, usize) {
    let length = 9 + index;
    let token = |position: usize| ((index * 7 + position * position * 3 + position + 1) % VOCABULARY) as i64;
    ((0..length.min(LENGTH)).map(token).collect(), index % TASKS)
}

/// Writes an artifact whose graph has `fault` and whose probes are the oracle's.
pub(crate) fn write(dir: &Path, fault: Fault) -> Result<(), Box<dyn std::error::Error>> {
    write_tasks(dir, TASKS, fault)
}

/// As [`write`], with so many tasks.
pub(crate) fn write_tasks(dir: &Path, tasks: usize, fault: Fault) -> Result<(), Box<dyn std::error::Error>> {
    toy::write(dir, tasks, fault)?;
    tensors::write(&dir.join("probes.safetensors"), &probes(tasks))?;
    let mut files = Vec::new();
    for name in ["model.onnx", "model.onnx.data", "probes.safetensors"] {
        files.push(hash_file(&dir.join(name), name)?);
    }
    let manifest = ArtifactManifest {
        schema_version: ARTIFACT_SCHEMA_VERSION,
        pemlc_version: "0.1.0".to_owned(),
        base_model: "toy".to_owned(),
        base_licence: None,
        config: config(),
        method: "peml".to_owned(),
        tasks: (0..tasks).map(task).collect(),
        one_task_per_batch: false,
        approximation: None,
        opset: 18,
        ir_version: 8,
        dtype: "f32".to_owned(),
        runtimes: Vec::new(),
        tolerance: None,
        max_distortion: None,
        profile: "causal-lm".to_owned(),
        encoder_difference: None,
        graphs: Vec::new(),
        validation: None,
        validated: false,
        files,
    };
    manifest.write(dir)?;
    Ok(())
}

/// The manifest as it is on disk.
pub(crate) fn manifest(dir: &Path) -> Result<ArtifactManifest, Box<dyn std::error::Error>> {
    Ok(ArtifactManifest::read(dir)?)
}

/// Changes the manifest on disk.
pub(crate) fn edit(dir: &Path, change: impl FnOnce(&mut ArtifactManifest)) -> Result<(), Box<dyn std::error::Error>> {
    let mut manifest = manifest(dir)?;
    change(&mut manifest);
    manifest.write(dir)?;
    Ok(())
}

/// Writes other probes, and their hash into the manifest.
pub(crate) fn replace_probes(dir: &Path, probes: &TensorMap) -> Result<(), Box<dyn std::error::Error>> {
    tensors::write(&dir.join("probes.safetensors"), probes)?;
    let mut manifest = manifest(dir)?;
    for file in &mut manifest.files {
        *file = hash_file(&dir.join(&file.path), &file.path)?;
    }
    manifest.write(dir)?;
    Ok(())
}

pub(crate) fn task_name(index: usize) -> String {
    ["sentiment", "topic", "language"].get(index).map_or_else(|| format!("task-{index}"), |name| (*name).to_owned())
}

fn task(index: usize) -> TaskRecord {
    TaskRecord {
        name: task_name(index),
        metric: "accuracy".to_owned(),
        train_examples: 1,
        validation_examples: 1,
        base_score: None,
        score: None,
        standard_error: None,
        template: "{text}".to_owned(),
        verbalizers: Vec::new(),
        separator: None,
        normalize: None,
    }
}

fn config() -> ModelConfig {
    ModelConfig {
        family: Family::Llama,
        hidden_size: WIDTH,
        intermediate_size: WIDTH,
        num_hidden_layers: 1,
        num_attention_heads: 1,
        num_key_value_heads: 1,
        head_dim: WIDTH,
        vocab_size: VOCABULARY,
        max_position_embeddings: 64,
        rms_norm_eps: 1e-5,
        rope_theta: 1e4,
        rope_scaling: None,
        tie_word_embeddings: false,
        bos_token_id: None,
        eos_token_ids: vec![0],
        pad_token_id: None,
    }
}

/// The oracle's answers in the layout that the trainer writes, two probes for each of `tasks` tasks.
pub(crate) fn probes(tasks: usize) -> TensorMap {
    let probes = 2 * tasks;
    let (mut ids, mut mask, mut task_ids, mut positions) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut adapted_logits, mut base_logits) = (Vec::new(), Vec::new());
    for index in 0..probes {
        let ((tokens, _), task) = (probe(index), index % tasks);
        let (adapted, base) = (logits(&tokens, Some(task)), logits(&tokens, None));
        for position in [3, tokens.len() - 1] {
            positions.push(position as i64);
            adapted_logits.extend(&adapted[position]);
            base_logits.extend(&base[position]);
        }
        task_ids.push(task as i64);
        for position in 0..LENGTH {
            ids.push(tokens.get(position).copied().unwrap_or(0));
            mask.push(i64::from(position < tokens.len()));
        }
    }
    let integers = |shape: &[usize], values| NamedTensor { shape: shape.to_vec(), values: Values::I64(values) };
    let floats = |values| NamedTensor { shape: vec![probes, SCORED, VOCABULARY], values: Values::F32(values) };
    TensorMap::from([
        ("input_ids".to_owned(), integers(&[probes, LENGTH], ids)),
        ("attention_mask".to_owned(), integers(&[probes, LENGTH], mask)),
        ("task_id".to_owned(), integers(&[probes], task_ids)),
        ("positions".to_owned(), integers(&[probes, SCORED], positions)),
        ("logits".to_owned(), floats(adapted_logits)),
        ("base_logits".to_owned(), floats(base_logits)),
    ])
}
