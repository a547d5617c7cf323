//! A folder of any kind that can be read.

use super::soft_prompt::{SoftPromptKind, read_soft_prompt};
use super::{Config, LoraAdapter, PeftError, read_prefix};
use crate::config::ModelConfig;
use crate::prompt::PrefixLayer;
use std::path::Path;

/// What a PEFT folder holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Adapter {
    /// Low-rank deltas.
    Lora(LoraAdapter),
    /// Prefix rows, by layer.
    Prefix(Vec<PrefixLayer>),
    /// Vectors in front of the token embeddings, `[length, hidden]`.
    SoftPrompt {
        /// Which method made them.
        kind: SoftPromptKind,
        /// Row-major.
        embeddings: Vec<f32>,
    },
}

impl Adapter {
    /// Reads `directory`, an adapter of `model`; `task` is the one that is meant where a folder holds several.
    pub fn read(directory: &Path, model: &ModelConfig, task: Option<usize>) -> Result<Self, PeftError> {
        let found = Config::peft_type(directory)?;
        if let Some(kind) = SoftPromptKind::ALL.into_iter().find(|kind| kind.peft_type() == found) {
            let embeddings = read_soft_prompt(directory, kind, model, task)?;
            return Ok(Self::SoftPrompt { kind, embeddings });
        }
        let refused = |reason: String| Err(PeftError::unsupported(&directory.join(super::CONFIG), reason));
        if let Some(task) = task {
            return refused(format!("#{task}: a folder of {found} holds one task"));
        }
        match found.as_str() {
            "LORA" => LoraAdapter::read(directory, model).map(Self::Lora),
            "PREFIX_TUNING" => read_prefix(directory, model).map(Self::Prefix),
            other => refused(format!(
                "`peft_type` is {other}; LORA (also rsLoRA and DoRA), PREFIX_TUNING, PROMPT_TUNING, P_TUNING and MULTITASK_PROMPT_TUNING \
                 can be read"
            )),
        }
    }

    /// The kind, in a word or two.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Lora(adapter) if adapter.weights.values().any(|weights| weights.magnitude.is_some()) => "DoRA",
            Self::Lora(_) => "LoRA",
            Self::Prefix(_) => "prefix",
            Self::SoftPrompt { kind: SoftPromptKind::PromptTuning, .. } => "prompt",
            Self::SoftPrompt { kind: SoftPromptKind::PTuning, .. } => "P-tuning",
            Self::SoftPrompt { kind: SoftPromptKind::Multitask, .. } => "MPT",
        }
    }

    /// Numbers that were trained, as far as the folder still has them.
    pub fn parameters(&self) -> u64 {
        match self {
            Self::Lora(adapter) => adapter.parameters(),
            Self::Prefix(layers) => layers.iter().map(|layer| (layer.key.len() + layer.value.len()) as u64).sum(),
            Self::SoftPrompt { embeddings, .. } => embeddings.len() as u64,
        }
    }
}
