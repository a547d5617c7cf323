//! The ways in which a prefix is stored: the rows themselves, or the parameters that PEFT makes them of.

use super::{Config, PeftError};
use crate::tensors::{Taking, TensorMap};
use std::path::Path;

/// What PEFT saves: the rows, whatever made them.
const ROWS: &str = "prompt_embeddings";

/// The rows of the prefix in the file `path`, `[length, features]`.
///
/// A folder that PEFT saved holds them. A training checkpoint of the whole prompt encoder holds its table, `embedding.weight`, and with
/// `prefix_projection` the two layers behind it: `tanh(E W1^T + b1) W2^T + b2`.
pub(super) fn read_rows(path: &Path, config: &Config, length: usize, features: usize) -> Result<Vec<f32>, PeftError> {
    let mut file = Taking::open(path)?;
    let tensors = std::mem::take(&mut file.tensors);
    file.tensors = tensors.into_iter().map(|(name, tensor)| (plain(&name), tensor)).collect::<TensorMap>();
    let rows = if file.tensors.contains_key(ROWS) {
        file.f32(ROWS, &[length, features])?
    } else if file.tensors.contains_key("transform.0.weight") {
        let width = config.integer("token_dim")?;
        let hidden = config.integer("encoder_hidden_size")?;
        let table = file.f32("embedding.weight", &[length, width])?;
        let inner = Linear {
            weight: file.f32("transform.0.weight", &[hidden, width])?,
            bias: file.f32("transform.0.bias", &[hidden])?,
        };
        let outer = Linear {
            weight: file.f32("transform.2.weight", &[features, hidden])?,
            bias: file.f32("transform.2.bias", &[features])?,
        };
        table.chunks_exact(width).flat_map(|row| projected(row, &inner, &outer)).collect()
    } else if file.tensors.contains_key("embedding.weight") {
        file.f32("embedding.weight", &[length, features])?
    } else {
        let names: Vec<String> = file.tensors.keys().cloned().collect();
        return Err(PeftError::unsupported(
            path,
            format!("holds no `{ROWS}`, which is what PEFT saves of a prefix:{}", super::listed(&names)),
        ));
    };
    file.finish()?;
    match rows.iter().find(|value| !value.is_finite()) {
        None => Ok(rows),
        Some(value) => Err(PeftError::unsupported(path, format!("the prefix holds {value}"))),
    }
}

/// A tensor's name without where the prompt encoder stood in the model.
fn plain(name: &str) -> String {
    let name = name.strip_prefix("base_model.").unwrap_or(name);
    let Some(inner) = name.strip_prefix("prompt_encoder.") else { return name.to_owned() };
    // The adapter's own name, unless an old PEFT wrote none.
    match inner.split_once('.') {
        Some(("embedding" | "transform", _)) | None => inner.to_owned(),
        Some((_, inner)) => inner.to_owned(),
    }
}

struct Linear {
    /// `[out, in]`.
    weight: Vec<f32>,
    /// `[out]`.
    bias: Vec<f32>,
}

impl Linear {
    fn of(&self, x: &[f64]) -> Vec<f64> {
        let rows = self.weight.chunks_exact(x.len()).zip(&self.bias);
        rows.map(|(row, bias)| f64::from(*bias) + row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum::<f64>())
            .collect()
    }
}

fn projected(row: &[f32], inner: &Linear, outer: &Linear) -> Vec<f32> {
    let row: Vec<f64> = row.iter().map(|value| f64::from(*value)).collect();
    let hidden: Vec<f64> = inner.of(&row).into_iter().map(f64::tanh).collect();
    outer.of(&hidden).into_iter().map(|value| value as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensors::{self, NamedTensor};
    use serde_json::{Value, json};

    fn rows(tensors: TensorMap) -> Result<Vec<f32>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        tensors::write(&path, &tensors).unwrap();
        let Value::Object(fields) = json!({"token_dim": 2, "encoder_hidden_size": 1}) else { panic!("an object") };
        let config = Config { path: folder.path().join("adapter_config.json"), fields };
        let error = |error: PeftError| error.to_string().replace(&folder.path().display().to_string(), "FOLDER");
        read_rows(&path, &config, 2, 3).map_err(error)
    }

    fn file<const N: usize>(tensors: [(&str, &[usize], &[f32]); N]) -> TensorMap {
        tensors
            .into_iter()
            .map(|(name, shape, values)| (name.to_owned(), NamedTensor::f32(shape.to_vec(), values.to_vec())))
            .collect()
    }

    #[test]
    fn the_same_rows_in_every_storage() {
        let values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        for name in [ROWS, "prompt_encoder.default.embedding.weight", "base_model.prompt_encoder.embedding.weight"] {
            assert_eq!(rows(file([(name, &[2, 3], &values)])).unwrap(), values, "{name}");
        }
    }

    #[test]
    fn the_layers_of_a_projection() {
        let found = rows(file([
            ("prompt_encoder.default.embedding.weight", &[2, 2], &[1.0, 2.0, 0.0, -1.0]),
            ("prompt_encoder.default.transform.0.weight", &[1, 2], &[0.5, 0.25]),
            ("prompt_encoder.default.transform.0.bias", &[1], &[0.5]),
            ("prompt_encoder.default.transform.2.weight", &[3, 1], &[1.0, -2.0, 4.0]),
            ("prompt_encoder.default.transform.2.bias", &[3], &[0.0, 1.0, 0.0]),
        ]));
        let (first, second) = (1.5f64.tanh(), 0.25f64.tanh());
        let expected = [first, 1.0 - 2.0 * first, 4.0 * first, second, 1.0 - 2.0 * second, 4.0 * second];
        for (found, expected) in found.unwrap().iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-6, "{found} {expected}");
        }
    }

    #[test]
    fn other_contents_are_refused() {
        insta::assert_snapshot!(
            [
                rows(file([("lora", &[1], &[1.0])])).unwrap_err(),
                rows(file([(ROWS, &[2, 2], &[1.0; 4])])).unwrap_err(),
                rows(file([(ROWS, &[2, 3], &[f32::NAN; 6])])).unwrap_err(),
                rows(file([(ROWS, &[2, 3], &[1.0; 6]), ("more", &[1], &[1.0])])).unwrap_err(),
            ].join("\n"), @"
FOLDER/a.safetensors: holds no `prompt_embeddings`, which is what PEFT saves of a prefix:
  lora
FOLDER/a.safetensors: tensor `prompt_embeddings` is f32 [2, 2], expected f32 [2, 3]
FOLDER/a.safetensors: the prefix holds NaN
FOLDER/a.safetensors: tensor `more` is not expected here
");
    }
}
