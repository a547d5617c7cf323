//! What the folders of one task hold.

use super::error::ImportError;
use super::summary::TaskSummary;
use super::{Folder, ImportTask};
use pemlc_artifact::ModelConfig;
use pemlc_artifact::bounded_read::{CONFIGURATION, read_text};
use pemlc_artifact::peft::{Adapter, LoraAdapter};
use pemlc_artifact::prompt::PrefixLayer;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A task with its adapters in memory.
pub(super) struct Task {
    pub(super) name: String,
    pub(super) lora: Option<LoraAdapter>,
    pub(super) rows: Option<Rows>,
    kinds: Vec<&'static str>,
    /// Base models that its folders name, each once.
    base_models: Vec<String>,
    /// Width of an embedding.
    hidden: usize,
}

/// What stands in front of the tokens.
pub(super) enum Rows {
    /// Keys and values of every layer.
    Prefix(Vec<PrefixLayer>),
    /// Embeddings, `[length, hidden]`.
    Prompt(Vec<f32>),
}

impl Task {
    pub(super) fn read(task: &ImportTask, model: &ModelConfig) -> Result<Self, ImportError> {
        let mut read = Self {
            name: task.name.clone(),
            lora: None,
            rows: None,
            kinds: Vec::new(),
            base_models: Vec::new(),
            hidden: model.hidden_size,
        };
        let (mut deltas_of, mut rows_of): (Option<PathBuf>, Option<PathBuf>) = (None, None);
        for Folder { path, index } in &task.folders {
            let adapter = Adapter::read(path, model, *index)
                .map_err(|source| ImportError::Adapter { task: task.name.clone(), source })?;
            let (place, what) = match adapter {
                Adapter::Lora(_) => (&mut deltas_of, "deltas"),
                Adapter::Prefix(_) | Adapter::SoftPrompt { .. } => (&mut rows_of, "a prefix or soft prompt"),
            };
            if let Some(first) = place.replace(path.clone()) {
                return Err(ImportError::TwoOfAKind { task: task.name.clone(), what, first, second: path.clone() });
            }
            read.kinds.push(adapter.kind());
            let named = base_model(path).filter(|named| !read.base_models.contains(named));
            read.base_models.extend(named);
            match adapter {
                Adapter::Lora(lora) => read.lora = Some(lora),
                Adapter::Prefix(layers) => read.rows = Some(Rows::Prefix(layers)),
                Adapter::SoftPrompt { embeddings, .. } => read.rows = Some(Rows::Prompt(embeddings)),
            }
        }
        Ok(read)
    }

    /// Folders that it came from.
    pub(super) fn adapters(&self) -> usize {
        self.kinds.len()
    }

    /// Its soft prompt's embeddings; none without one.
    pub(super) fn prompt(&self) -> &[f32] {
        match &self.rows {
            Some(Rows::Prompt(embeddings)) => embeddings,
            _ => &[],
        }
    }

    pub(super) fn summary(&self) -> TaskSummary {
        let (rows, numbers) = match &self.rows {
            Some(Rows::Prefix(layers)) => {
                let numbers: usize = layers.iter().map(|layer| layer.key.len() + layer.value.len()).sum();
                (layers.first().map_or(0, |layer| layer.log_gate.len()), numbers)
            }
            Some(Rows::Prompt(embeddings)) => (embeddings.len() / self.hidden.max(1), embeddings.len()),
            None => (0, 0),
        };
        TaskSummary {
            name: self.name.clone(),
            kinds: self.kinds.iter().map(ToString::to_string).collect(),
            ranks: self.lora.as_ref().map(LoraAdapter::ranks),
            modules: self.lora.as_ref().map_or(0, |adapter| adapter.weights.len()),
            parameters: self.lora.as_ref().map_or(0, LoraAdapter::parameters) + numbers as u64,
            rows,
        }
    }

    /// Says so when a folder names another base model than the one that is given, here called `base`.
    pub(super) fn note(&self, base: &str) -> Option<String> {
        let named = self.base_models.iter().map(|named| named.trim_end_matches('/'));
        let other = |named: &&str| {
            let last = named.rsplit('/').next().unwrap_or_default();
            !last.is_empty() && !last.eq_ignore_ascii_case(base)
        };
        let others: Vec<&str> = named.filter(other).collect();
        if others.is_empty() {
            return None;
        }
        Some(format!(
            "the adapter of task `{}` names {} as its base model; it fits {base}, but is it the same model?",
            self.name,
            others.join(" and ")
        ))
    }
}

/// The base model that the folder at `path` names, if it names one. What is wrong with its configuration has been told before.
fn base_model(path: &Path) -> Option<String> {
    let text = read_text(&path.join("adapter_config.json"), CONFIGURATION).ok()?;
    let config: Value = serde_json::from_str(&text).ok()?;
    config.get("base_model_name_or_path")?.as_str().map(str::to_owned)
}
