//! Prefix-tuning folders.
//!
//! PEFT puts real tokens at positions `length..` and leaves the prefix keys unrotated; here tokens start at 0. The two agree when PEFT's
//! keys are ours rotated by `length` positions, because attention sees only differences of positions.

use super::prefix_stored::read_rows;
use super::{Config, PeftError, WEIGHTS, weights_path};
use crate::config::ModelConfig;
use crate::prompt::PrefixLayer;
use crate::tensors::{self, NamedTensor, TensorMap};
use serde_json::json;
use std::path::Path;

const TENSOR: &str = "prompt_embeddings";

/// Writes one task's rows (by layer) into `directory`, which is made if needed. A log-gate other than zero is refused: PEFT has none.
pub fn write_prefix(
    directory: &Path,
    model: &ModelConfig,
    base_model: &str,
    layers: &[PrefixLayer],
) -> Result<(), PeftError> {
    let path = directory.join(WEIGHTS);
    let (width, head) = (model.kv_width(), model.head_dim);
    let length = layers.first().map_or(0, |layer| layer.log_gate.len());
    if length == 0 || layers.len() != model.num_hidden_layers {
        let reason = format!("a prefix of {length} rows on {} of {} layers", layers.len(), model.num_hidden_layers);
        return Err(PeftError::unsupported(&path, reason));
    }
    let features = layers.len() * 2 * width;
    let mut embeddings = vec![0f32; length * features];
    for (index, layer) in layers.iter().enumerate() {
        if layer.log_gate.len() != length || layer.key.len() != length * width || layer.value.len() != length * width {
            return Err(PeftError::unsupported(&path, format!("rows of layer {index} do not match the model")));
        }
        if layer.log_gate.iter().any(|gate| *gate != 0.0) {
            let reason = format!("layer {index} has a log-gate, which PEFT's prefix tuning cannot express");
            return Err(PeftError::unsupported(&path, reason));
        }
        let mut key = layer.key.clone();
        rotate(&mut key, model, length as f64);
        // Ours: [head, row, dimension]. PEFT's: [row, (layer, key or value, head, dimension)].
        for (half, values) in [&key, &layer.value].into_iter().enumerate() {
            for (place, row) in values.chunks_exact(head).enumerate() {
                let (kv_head, position) = (place / length, place % length);
                let start = position * features + (index * 2 + half) * width + kv_head * head;
                embeddings[start..start + head].copy_from_slice(row);
            }
        }
    }
    let map = TensorMap::from([(TENSOR.to_owned(), NamedTensor::f32([length, features], embeddings))]);
    tensors::write_with_metadata(&path, &map, &[("format", "pt")])?;
    Config::write(
        directory,
        json!({
            "peft_type": "PREFIX_TUNING",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base_model,
            "inference_mode": true,
            "num_virtual_tokens": length,
            "token_dim": width,
            "num_transformer_submodules": 1,
            "num_attention_heads": model.num_key_value_heads,
            "num_layers": layers.len(),
            "encoder_hidden_size": width,
            "prefix_projection": false,
        }),
    )
}

/// Reads one task's rows (by layer) from `directory`. Log-gates are zero.
pub fn read_prefix(directory: &Path, model: &ModelConfig) -> Result<Vec<PrefixLayer>, PeftError> {
    let config = Config::read(directory, "PREFIX_TUNING")?;
    config.refuse_modules_to_save()?;
    config.check_one_submodule()?;
    let length = config.virtual_tokens()?;
    let (width, head) = (model.kv_width(), model.head_dim);
    let own = [("num_layers", model.num_hidden_layers), ("num_attention_heads", model.num_key_value_heads)];
    for (key, expected) in own {
        if config.is_set(key) && config.integer(key)? != expected {
            let found = config.integer(key)?;
            let reason = format!(
                "`{key}` is {found}, but the base model has {expected} (key-value) of them: it is for another model"
            );
            return Err(config.unsupported(&reason));
        }
    }
    let features = model.num_hidden_layers * 2 * width;
    let embeddings = read_rows(&weights_path(directory)?, &config, length, features)?;
    let mut layers = Vec::with_capacity(model.num_hidden_layers);
    for index in 0..model.num_hidden_layers {
        let [mut key, value] = [0, 1].map(|half| {
            let mut rows = Vec::with_capacity(length * width);
            for kv_head in 0..model.num_key_value_heads {
                for position in 0..length {
                    let start = position * features + (index * 2 + half) * width + kv_head * head;
                    rows.extend_from_slice(&embeddings[start..start + head]);
                }
            }
            rows
        });
        rotate(&mut key, model, -(length as f64));
        layers.push(PrefixLayer { key, value, log_gate: vec![0.0; length] });
    }
    Ok(layers)
}

/// Rotates rows of `head_dim` numbers by `positions`.
fn rotate(keys: &mut [f32], model: &ModelConfig, positions: f64) {
    let angles: Vec<(f64, f64)> =
        model.rope_inverse_frequencies().iter().map(|rate| (positions * f64::from(*rate)).sin_cos()).collect();
    for row in keys.chunks_exact_mut(model.head_dim) {
        let (left, right) = row.split_at_mut(model.head_dim / 2);
        for ((left, right), (sine, cosine)) in left.iter_mut().zip(right).zip(&angles) {
            let (x, y) = (f64::from(*left), f64::from(*right));
            *left = (x * cosine - y * sine) as f32;
            *right = (y * cosine + x * sine) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::model;
    use super::*;

    fn layers() -> Vec<PrefixLayer> {
        let row = |start: usize| (start..start + 12).map(|n| n as f32).collect::<Vec<_>>();
        (0..2)
            .map(|layer| PrefixLayer { key: row(100 * layer), value: row(100 * layer + 50), log_gate: vec![0.0; 3] })
            .collect()
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        write_prefix(folder.path(), &model(), "tiny", &layers()).unwrap();
        let read = read_prefix(folder.path(), &model()).unwrap();
        for (expected, found) in layers().iter().zip(&read) {
            assert_eq!(expected.value, found.value);
            let largest = expected.key.iter().zip(&found.key).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(largest < 1e-4, "rotated there and back: {largest}");
        }
        assert_eq!(read.len(), 2);
    }

    #[test]
    fn layout_and_rotation_are_pefts() {
        let folder = tempfile::tempdir().unwrap();
        write_prefix(folder.path(), &model(), "tiny", &layers()).unwrap();
        let map = tensors::read(&folder.path().join(WEIGHTS)).unwrap();
        let tensor = &map[TENSOR];
        assert_eq!(tensor.shape, [3, 16]);
        let tensors::Values::F32(values) = &tensor.values else { panic!("f32 expected") };
        // Row 1 of layer 1's values: numbers 4 to 8 after 150, in features 12 to 16 of that row.
        assert_eq!(values[16 + 12..16 + 16], [154.0, 155.0, 156.0, 157.0]);
        // Row 0 of layer 0's keys is [0, 1, 2, 3]: pair (0, 2) turns by 3 radians, pair (1, 3) by 0.03.
        let (sine, cosine) = 3f32.sin_cos();
        let (slow_sine, slow_cosine) = 0.03f32.sin_cos();
        let expected = [-2.0 * sine, slow_cosine - 3.0 * slow_sine, 2.0 * cosine, 3.0 * slow_cosine + slow_sine];
        for (expected, found) in expected.iter().zip(values) {
            assert!((expected - found).abs() < 1e-5, "{expected} {found}");
        }
    }

    #[test]
    fn gates_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut gated = layers();
        gated[1].log_gate[2] = 0.5;
        let error = write_prefix(folder.path(), &model(), "tiny", &gated).unwrap_err().to_string();
        assert!(error.ends_with("layer 1 has a log-gate, which PEFT's prefix tuning cannot express"), "{error}");
        assert!(!folder.path().join(WEIGHTS).exists());
    }
}
