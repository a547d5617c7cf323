//! Hugging Face PEFT adapter folders: LoRA and prefix tuning, written and read; soft prompts, read.

mod adapter;
mod lora;
mod lora_read;
mod names;
mod prefix;
mod prefix_stored;
mod soft_prompt;
mod targets;

pub use adapter::Adapter;
pub use lora::{LoraAdapter, LoraWeights, ModuleScale};
pub use prefix::{read_prefix, write_prefix};
pub use soft_prompt::{SoftPromptKind, read_soft_prompt};

use crate::bounded_read;
use crate::manifest::ManifestError;
use crate::tensors::TensorError;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// The two files of every PEFT folder.
const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// Most virtual tokens of a prompt or prefix. Published ones have hundreds at most; rows that a small file only describes (a projection of
/// PEFT's prefix encoder) take memory by this.
const LONGEST_PROMPT: usize = 1 << 14;

/// Why a PEFT folder cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum PeftError {
    #[error(transparent)]
    Tensors(#[from] TensorError),
    #[error(transparent)]
    Config(#[from] ManifestError),
    #[error("{path}: {reason}")]
    Unsupported { path: PathBuf, reason: String },
}

impl PeftError {
    fn unsupported(path: &Path, reason: impl Into<String>) -> Self {
        Self::Unsupported { path: path.to_path_buf(), reason: reason.into() }
    }
}

/// Where the weights of `directory` are. A pickle is refused: reading one runs whatever code it holds.
fn weights_path(directory: &Path) -> Result<PathBuf, PeftError> {
    let path = directory.join(WEIGHTS);
    let pickle = directory.join("adapter_model.bin");
    if !path.exists() && pickle.exists() {
        let reason = format!(
            "a pickle is not read, because reading one runs the code in it: load the adapter with PEFT, and save it \
             as {WEIGHTS} with `save_pretrained(DIR, safe_serialization=True)`"
        );
        return Err(PeftError::unsupported(&pickle, reason));
    }
    Ok(path)
}

/// Lines for at most a dozen of `lines`, and how many more there are.
fn listed(lines: &[String]) -> String {
    const SHOWN: usize = 12;
    let mut text: String = lines.iter().take(SHOWN).map(|line| format!("\n  {line}")).collect();
    if lines.len() > SHOWN {
        text.push_str(&format!("\n  and {} more", lines.len() - SHOWN));
    }
    text
}

/// `adapter_config.json` while its fields are asked for.
struct Config {
    path: PathBuf,
    fields: Map<String, Value>,
}

impl Config {
    /// Reads the configuration of `directory`, which must be of `peft_type`.
    fn read(directory: &Path, peft_type: &str) -> Result<Self, PeftError> {
        let config = Self::open(directory)?;
        match config.fields.get("peft_type").and_then(Value::as_str) {
            Some(found) if found == peft_type => Ok(config),
            found => {
                let reason = format!("`peft_type` is {}, expected {peft_type}", found.unwrap_or("missing"));
                Err(PeftError::unsupported(&config.path, reason))
            }
        }
    }

    fn open(directory: &Path) -> Result<Self, PeftError> {
        let path = directory.join(CONFIG);
        let text = bounded_read::read_text(&path, bounded_read::CONFIGURATION);
        let text = text.map_err(|source| ManifestError::Io { path: path.clone(), source })?;
        let fields: Map<String, Value> = serde_json::from_str(&text)
            .map_err(|error| ManifestError::Malformed { path: path.clone(), reason: error.to_string() })?;
        Ok(Self { path, fields })
    }

    fn write(directory: &Path, fields: Value) -> Result<(), PeftError> {
        Ok(crate::manifest::write(&directory.join(CONFIG), &fields)?)
    }

    fn unsupported(&self, reason: &str) -> PeftError {
        PeftError::unsupported(&self.path, reason)
    }

    /// `peft_type`, without a look at anything else.
    fn peft_type(directory: &Path) -> Result<String, PeftError> {
        let config = Self::open(directory)?;
        let name = config.text("peft_type").map(str::to_owned);
        name.ok_or_else(|| config.unsupported("`peft_type` is missing: this is no adapter that PEFT saved"))
    }

    fn integer(&self, name: &str) -> Result<usize, PeftError> {
        let found = self.fields.get(name).and_then(Value::as_u64).and_then(|value| usize::try_from(value).ok());
        found
            .filter(|value| *value > 0)
            .ok_or_else(|| PeftError::unsupported(&self.path, format!("`{name}` is missing or not a positive integer")))
    }

    /// `num_virtual_tokens`.
    fn virtual_tokens(&self) -> Result<usize, PeftError> {
        let length = self.integer("num_virtual_tokens")?;
        if length > LONGEST_PROMPT {
            let reason = format!("`num_virtual_tokens` is {length}, at most {LONGEST_PROMPT} can be read");
            return Err(self.unsupported(&reason));
        }
        Ok(length)
    }

    fn number(&self, name: &str) -> Result<f64, PeftError> {
        let found = self.fields.get(name).and_then(Value::as_f64);
        found.ok_or_else(|| PeftError::unsupported(&self.path, format!("`{name}` is missing or not a number")))
    }

    fn is_set(&self, name: &str) -> bool {
        match self.fields.get(name) {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::Array(values)) => !values.is_empty(),
            Some(Value::Object(fields)) => !fields.is_empty(),
            Some(_) => true,
        }
    }

    /// Refuses modules that were trained whole, by name.
    fn refuse_modules_to_save(&self) -> Result<(), PeftError> {
        if !self.is_set("modules_to_save") {
            return Ok(());
        }
        let names = match self.fields.get("modules_to_save") {
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
            other => other.map(Value::to_string).unwrap_or_default(),
        };
        let reason = format!(
            "`modules_to_save` names {names}: modules that were trained whole are no adapter, and cannot be read. Train without them, or \
             merge them into a base model of their own"
        );
        Err(self.unsupported(&reason))
    }

    /// Refuses prompts of encoder-decoder models.
    fn check_one_submodule(&self) -> Result<(), PeftError> {
        match self.fields.get("num_transformer_submodules").and_then(Value::as_u64) {
            None | Some(1) => Ok(()),
            Some(count) => {
                let reason = format!("`num_transformer_submodules` is {count}: it is for an encoder-decoder model");
                Err(self.unsupported(&reason))
            }
        }
    }

    /// Refuses options that change the arithmetic in ways that are not built.
    fn refuse(&self, options: &[&str]) -> Result<(), PeftError> {
        match options.iter().find(|option| self.is_set(option)) {
            None => Ok(()),
            Some(option) => {
                let reason = format!("`{option}` is set; adapters with it cannot be read");
                Err(PeftError::unsupported(&self.path, reason))
            }
        }
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.fields.get(name).and_then(Value::as_str)
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Family, ModelConfig};

    pub(super) fn model() -> ModelConfig {
        ModelConfig {
            family: Family::Llama,
            hidden_size: 8,
            intermediate_size: 12,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            num_key_value_heads: 1,
            head_dim: 4,
            vocab_size: 16,
            max_position_embeddings: 32,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            rope_scaling: None,
            tie_word_embeddings: true,
            bos_token_id: None,
            eos_token_ids: vec![],
            pad_token_id: None,
        }
    }
}
