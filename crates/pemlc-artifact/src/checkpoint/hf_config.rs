//! `config.json` of a Hugging Face folder.

use super::CheckpointError;
use crate::config::{Family, LARGEST_SIZE, ModelConfig, RopeScaling};
use serde_json::{Map, Value};
use std::path::Path;

/// Reads the model's shape from the text of `config.json`; `generation` is the text of `generation_config.json`, whose end tokens
/// are added.
pub(super) fn parse(path: &Path, text: &str, generation: Option<&str>) -> Result<ModelConfig, CheckpointError> {
    let malformed = |error: serde_json::Error| CheckpointError::malformed(path, error.to_string());
    let fields: Map<String, Value> = serde_json::from_str(text).map_err(malformed)?;
    let reader = Reader { path, fields: &fields };
    let family = match fields.get("model_type").and_then(Value::as_str) {
        Some("llama") => Family::Llama,
        Some("qwen2") => Family::Qwen2,
        other => {
            return Err(CheckpointError::Architecture {
                path: path.to_path_buf(),
                found: other.unwrap_or("(no model_type)").to_owned(),
            });
        }
    };
    reader.refuse_variants(family)?;
    let hidden_size = reader.size("hidden_size")?;
    let num_attention_heads = reader.size("num_attention_heads")?;
    let rope = reader.rope_fields();
    let (rope_theta, rope_scaling) = reader.rope(&rope)?;
    let mut eos_token_ids = reader.tokens("eos_token_id")?;
    if let Some(text) = generation {
        let path = &path.with_file_name("generation_config.json");
        let fields: Map<String, Value> =
            serde_json::from_str(text).map_err(|error| CheckpointError::malformed(path, error.to_string()))?;
        for id in (Reader { path, fields: &fields }).tokens("eos_token_id")? {
            if !eos_token_ids.contains(&id) {
                eos_token_ids.push(id);
            }
        }
    }
    let config = ModelConfig {
        family,
        hidden_size,
        intermediate_size: reader.size("intermediate_size")?,
        num_hidden_layers: reader.size("num_hidden_layers")?,
        num_attention_heads,
        num_key_value_heads: reader.optional_size("num_key_value_heads")?.unwrap_or(num_attention_heads),
        head_dim: match reader.optional_size("head_dim")? {
            Some(width) => width,
            None => hidden_size / num_attention_heads,
        },
        vocab_size: reader.size("vocab_size")?,
        max_position_embeddings: reader.size("max_position_embeddings")?,
        rms_norm_eps: reader.number(&fields, "rms_norm_eps")?.unwrap_or(1e-6),
        rope_theta,
        rope_scaling,
        tie_word_embeddings: fields.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(false),
        bos_token_id: reader.tokens("bos_token_id")?.first().copied(),
        eos_token_ids,
        pad_token_id: reader.tokens("pad_token_id")?.first().copied(),
    };
    config.check().map_err(|reason| CheckpointError::malformed(path, reason))?;
    Ok(config)
}

struct Reader<'a> {
    path: &'a Path,
    fields: &'a Map<String, Value>,
}

impl Reader<'_> {
    /// Settings of the two families that change the arithmetic and are not built.
    fn refuse_variants(&self, family: Family) -> Result<(), CheckpointError> {
        let unsupported = |reason: String| Err(CheckpointError::unsupported(self.path, reason));
        for name in ["attention_bias", "mlp_bias"] {
            if family == Family::Llama && self.fields.get(name).and_then(Value::as_bool) == Some(true) {
                return unsupported(format!("`{name}` is true; Llama models without biases are supported"));
            }
        }
        if let Some(activation) = self.fields.get("hidden_act").and_then(Value::as_str)
            && activation != "silu"
        {
            return unsupported(format!("`hidden_act` is {activation:?}; `silu` is supported"));
        }
        let rotated = self.number(self.fields, "partial_rotary_factor")?.unwrap_or(1.0);
        if rotated != 1.0 {
            return unsupported(format!("`partial_rotary_factor` is {rotated}; whole heads are supported"));
        }
        let sliding = self.fields.get("use_sliding_window").and_then(Value::as_bool) == Some(true)
            && self.optional_size("max_window_layers")? < self.optional_size("num_hidden_layers")?;
        let types = self.fields.get("layer_types").and_then(Value::as_array);
        if sliding || types.is_some_and(|types| types.iter().any(|kind| kind != "full_attention")) {
            return unsupported("some layers attend to a sliding window; full attention is supported".to_owned());
        }
        if self.fields.contains_key("quantization_config") {
            return unsupported("the weights are quantised (`quantization_config`); use the original ones".to_owned());
        }
        Ok(())
    }

    /// The fields that hold rotary settings: newer files nest them in `rope_parameters`, older ones in `rope_scaling`.
    fn rope_fields(&self) -> Map<String, Value> {
        let nested = |name: &str| self.fields.get(name).and_then(Value::as_object);
        nested("rope_parameters").or_else(|| nested("rope_scaling")).cloned().unwrap_or_default()
    }

    fn rope(&self, nested: &Map<String, Value>) -> Result<(f64, Option<RopeScaling>), CheckpointError> {
        let theta = match self.number(nested, "rope_theta")? {
            Some(theta) => theta,
            None => self.number(self.fields, "rope_theta")?.unwrap_or(10_000.0),
        };
        let kind = nested.get("rope_type").or_else(|| nested.get("type")).and_then(Value::as_str);
        let required = |name: &str| match self.number(nested, name)? {
            Some(value) if value.is_finite() && value > 0.0 => Ok(value),
            _ => Err(CheckpointError::malformed(self.path, format!("rope scaling lacks a positive `{name}`"))),
        };
        let scaling = match kind {
            None | Some("default") => None,
            Some("linear") => Some(RopeScaling::Linear { factor: required("factor")? }),
            Some("llama3") => Some(RopeScaling::Llama3 {
                factor: required("factor")?,
                low_freq_factor: required("low_freq_factor")?,
                high_freq_factor: required("high_freq_factor")?,
                original_max_position_embeddings: required("original_max_position_embeddings")? as usize,
            }),
            Some(other) => {
                return Err(CheckpointError::unsupported(
                    self.path,
                    format!("rope scaling {other:?} is not supported; `linear` and `llama3` are"),
                ));
            }
        };
        Ok((theta, scaling))
    }

    fn size(&self, name: &str) -> Result<usize, CheckpointError> {
        self.optional_size(name)?.ok_or_else(|| CheckpointError::malformed(self.path, format!("`{name}` is missing")))
    }

    fn optional_size(&self, name: &str) -> Result<Option<usize>, CheckpointError> {
        match self.fields.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_u64() {
                Some(size) if (1..=LARGEST_SIZE).contains(&size) => Ok(Some(size as usize)),
                _ => Err(CheckpointError::malformed(
                    self.path,
                    format!("`{name}` is {value}, expected an integer from 1 to {LARGEST_SIZE}"),
                )),
            },
        }
    }

    fn number(&self, fields: &Map<String, Value>, name: &str) -> Result<Option<f64>, CheckpointError> {
        match fields.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value.as_f64().map(Some).ok_or_else(|| {
                CheckpointError::malformed(self.path, format!("`{name}` is {value}, expected a number"))
            }),
        }
    }

    /// Token ids of a field that holds one, a list, null or a negative number for none.
    fn tokens(&self, name: &str) -> Result<Vec<u32>, CheckpointError> {
        let values = match self.fields.get(name) {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Array(values)) => values.as_slice(),
            Some(value) => std::slice::from_ref(value),
        };
        let mut ids = Vec::with_capacity(values.len());
        for value in values {
            match value.as_i64() {
                Some(id) if id < 0 => {}
                Some(id) if id <= LARGEST_SIZE as i64 => ids.push(id as u32),
                _ => {
                    return Err(CheckpointError::malformed(
                        self.path,
                        format!("`{name}` is {value}, expected a token id"),
                    ));
                }
            }
        }
        Ok(ids)
    }
}
