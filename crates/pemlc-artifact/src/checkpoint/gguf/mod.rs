//! One GGUF file, version 2 or 3.

mod chat;
mod config;
mod header;
mod names;
mod tokenizer;
mod value;

use super::mapped::MappedFile;
pub(super) use config::to_json as config_json;

use super::{Checkpoint, CheckpointError, Entry};
use crate::config::{Family, ModelConfig};
use std::collections::BTreeMap;
use std::path::Path;

pub(super) fn open(path: &Path) -> Result<Checkpoint, CheckpointError> {
    let file = MappedFile::open(path)?;
    let header = header::parse(file.bytes()).map_err(|reason| CheckpointError::malformed(path, reason))?;
    let metadata = value::Metadata::new(path, file.bytes(), &header.values);
    let config = config::read(&metadata, &header, file.bytes())?;

    let mut tensors = BTreeMap::new();
    for (name, tensor) in &header.tensors {
        if name == config::ROPE_FREQUENCIES {
            continue;
        }
        if let Err(found) = &tensor.stored {
            return Err(CheckpointError::TensorType {
                path: path.to_path_buf(),
                tensor: name.clone(),
                found: found.clone(),
            });
        }
        let translated = names::translate(name).unwrap_or_else(|| name.clone());
        // The converter of the llama family interleaves the rotary halves of queries and keys; that of qwen2 does not.
        let rotary = translated.contains(".q_proj.") || translated.contains(".k_proj.");
        let interleaved = (config.family == Family::Llama && rotary).then_some(config.head_dim);
        let rows = tensor.shape.first().copied().unwrap_or(0);
        if interleaved.is_some_and(|head| !rows.is_multiple_of(head)) {
            let reason =
                format!("tensor `{name}` has {rows} rows, not a multiple of the head width {}", config.head_dim);
            return Err(CheckpointError::malformed(path, reason));
        }
        let entry = Entry {
            file: 0,
            bytes: tensor.bytes.clone(),
            shape: tensor.shape.clone(),
            stored: tensor.stored.clone(),
            interleaved,
        };
        if tensors.insert(translated.clone(), entry).is_some() {
            return Err(CheckpointError::malformed(path, format!("two tensors stand for `{translated}`")));
        }
    }

    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    Ok(Checkpoint {
        path: path.to_path_buf(),
        config,
        files: vec![file],
        tensors,
        source: super::Source::Gguf(Source { values: header.values }),
        hashed: vec![(path.to_path_buf(), name)],
        rounded: false,
    })
}

/// The metadata of an open file. Its strings and arrays are still in the file, whose bytes every method asks for.
pub(super) struct Source {
    values: BTreeMap<String, value::Value>,
}

impl Source {
    pub(super) fn tokenizer_json(&self, path: &Path, bytes: &[u8]) -> Result<String, CheckpointError> {
        Ok(tokenizer::read(&value::Metadata::new(path, bytes, &self.values))?.to_json())
    }

    pub(super) fn companions(
        &self,
        path: &Path,
        bytes: &[u8],
        config: &ModelConfig,
    ) -> Result<Vec<(String, String)>, CheckpointError> {
        let metadata = value::Metadata::new(path, bytes, &self.values);
        chat::companions(&metadata, config, &tokenizer::read(&metadata)?)
    }

    pub(super) fn licence(&self, path: &Path, bytes: &[u8]) -> Result<Option<String>, CheckpointError> {
        Ok(value::Metadata::new(path, bytes, &self.values).string("general.license")?.map(str::to_owned))
    }
}
