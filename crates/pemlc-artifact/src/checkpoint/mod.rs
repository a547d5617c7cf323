//! Base models on disk, read by reference: a Hugging Face folder or one GGUF file. Weights stay memory-mapped until asked for.
//!
//! Whatever the container, tensors are named and laid out as Hugging Face's Llama names them (`model.layers.0.self_attn.q_proj.weight`,
//! `[out, in]`, rotate-half rotary layout): GGUF names are translated and its permuted query and key rows are put back.

mod dequantize;
mod error;
mod expected;
mod folder;
mod gguf;
mod hf_config;
mod mapped;
mod tensor;
#[cfg(test)]
mod tests;

pub use dequantize::StoredType;
pub use error::CheckpointError;
pub use tensor::TensorView;

use crate::config::ModelConfig;
use crate::hash::{FileHash, hash_files};
use mapped::MappedFile;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// An open base model. Its files must not be changed while it is open.
pub struct Checkpoint {
    path: PathBuf,
    config: ModelConfig,
    files: Vec<MappedFile>,
    tensors: BTreeMap<String, Entry>,
    source: Source,
    /// Files to hash, with the names to record.
    hashed: Vec<(PathBuf, String)>,
    /// Whether weights are rounded to bf16 as they are read.
    rounded: bool,
}

/// Where a tensor is.
struct Entry {
    /// Index into `Checkpoint::files`.
    file: usize,
    bytes: Range<usize>,
    shape: Vec<usize>,
    /// The type, or its name when it cannot be read.
    stored: Result<StoredType, String>,
    /// Rows per head, when the file interleaves the two rotary halves of each head's rows.
    interleaved: Option<usize>,
}

/// What a model has beside its weights.
enum Source {
    /// Texts of a folder.
    Folder {
        config: String,
        tokenizer: Option<String>,
        /// `(file name, contents)`.
        companions: Vec<(String, String)>,
    },
    /// Metadata of the one file, from which the texts are made when asked for.
    Gguf(gguf::Source),
}

impl Checkpoint {
    /// Opens `path`, a Hugging Face folder or a `.gguf` file, and checks that it has every tensor that its configuration asks for,
    /// in the right shape, and none that the family does not use.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let metadata = std::fs::metadata(path).map_err(|source| CheckpointError::io(path, source))?;
        let checkpoint = if metadata.is_dir() { folder::open(path)? } else { gguf::open(path)? };
        checkpoint.check_tensors()?;
        Ok(checkpoint)
    }

    /// Where it was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The model's shape.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Names of all tensors (Hugging Face names), sorted.
    pub fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    /// The tensor `name`, without copying it. A missing name is an error that lists near names.
    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>, CheckpointError> {
        let entry = self.tensors.get(name).ok_or_else(|| CheckpointError::MissingTensor {
            path: self.path.clone(),
            tensor: name.to_owned(),
            near: expected::near(name, self.tensors.keys()),
        })?;
        let file = self.files.get(entry.file);
        let stored = entry.stored.as_ref().map_err(|found| CheckpointError::TensorType {
            path: file.map_or_else(|| self.path.clone(), |file| file.path.clone()),
            tensor: name.to_owned(),
            found: found.clone(),
        })?;
        let bytes = file
            .and_then(|file| file.bytes().get(entry.bytes.clone()))
            .ok_or_else(|| CheckpointError::malformed(&self.path, format!("tensor `{name}` is outside its file")))?;
        Ok(TensorView {
            name: name.to_owned(),
            shape: entry.shape.clone(),
            stored: *stored,
            bytes,
            interleaved: entry.interleaved,
            rounded: self.rounded && !name.ends_with("norm.weight"),
            file: file.map(|file| (file, entry.bytes.start)),
        })
    }

    /// Gives back the memory that reading the tensor `name` took. Views of it stay valid.
    pub fn release(&self, name: &str) {
        if let Some(entry) = self.tensors.get(name)
            && let Some(file) = self.files.get(entry.file)
        {
            file.release(entry.bytes.clone());
        }
    }

    /// From now on weights are rounded to bf16 as they are read, norms excepted: what a training with a bf16 base works on.
    pub fn round_to_bf16(&mut self) {
        self.rounded = true;
    }

    /// The output head: `lm_head.weight`, or the embedding table when tied. `[vocab, hidden]`.
    pub fn output_head(&self) -> Result<TensorView<'_>, CheckpointError> {
        self.tensor(if self.config.tie_word_embeddings { expected::EMBEDDING } else { expected::OUTPUT_HEAD })
    }

    /// The tokenizer as `tokenizer.json` text: the folder's own file, or one made from GGUF metadata.
    pub fn tokenizer_json(&self) -> Result<String, CheckpointError> {
        match &self.source {
            Source::Folder { tokenizer: Some(text), .. } => Ok(text.clone()),
            Source::Folder { tokenizer: None, .. } => {
                Err(CheckpointError::MissingFile { path: self.path.clone(), file: "tokenizer.json".to_owned() })
            }
            Source::Gguf(source) => source.tokenizer_json(&self.path, self.first_bytes()),
        }
    }

    /// The Hugging Face `config.json` text: the folder's own, or one made from GGUF metadata.
    pub fn config_json(&self) -> Result<String, CheckpointError> {
        match &self.source {
            Source::Folder { config, .. } => Ok(config.clone()),
            Source::Gguf(_) => Ok(gguf::config_json(&self.config)),
        }
    }

    /// Further files of the Hugging Face folder that serving stacks read (`tokenizer_config.json`, `generation_config.json`,
    /// `special_tokens_map.json`), as `(file name, contents)`; made from GGUF metadata where possible.
    pub fn companion_files(&self) -> Result<Vec<(String, String)>, CheckpointError> {
        match &self.source {
            Source::Folder { companions, .. } => Ok(companions.clone()),
            Source::Gguf(source) => source.companions(&self.path, self.first_bytes(), &self.config),
        }
    }

    /// The licence that the checkpoint states in its metadata or model card, for instance `apache-2.0`.
    pub fn licence(&self) -> Result<Option<String>, CheckpointError> {
        match &self.source {
            Source::Folder { .. } => folder::licence(&self.path),
            Source::Gguf(source) => source.licence(&self.path, self.first_bytes()),
        }
    }

    /// Name, SHA-256 and size of every file that holds weights or configuration. Reads the files once.
    pub fn file_hashes(&self) -> Result<Vec<FileHash>, CheckpointError> {
        hash_files(&self.hashed)
            .into_iter()
            .zip(&self.hashed)
            .map(|(hash, (path, _))| hash.map_err(|source| CheckpointError::io(path, source)))
            .collect()
    }

    fn first_bytes(&self) -> &[u8] {
        self.files.first().map(MappedFile::bytes).unwrap_or_default()
    }
}
