//! A Hugging Face model folder.

use super::mapped::MappedFile;
use super::{Checkpoint, CheckpointError, Entry, Source, StoredType, hf_config};
use crate::{bounded_read, safetensors_header};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Text files that describe the model, in the order in which they are hashed.
const DESCRIPTIONS: [&str; 5] =
    ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "special_tokens_map.json"];
/// Further files that belong to a tokenizer or its chat format, carried along as they are.
const CARRIED: [&str; 1] = ["chat_template.jinja"];
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

pub(super) fn open(path: &Path) -> Result<Checkpoint, CheckpointError> {
    let mut texts: BTreeMap<&str, String> = BTreeMap::new();
    let mut hashed = Vec::new();
    for name in DESCRIPTIONS.into_iter().chain(CARRIED) {
        let limit = match name {
            "config.json" | "generation_config.json" => bounded_read::CONFIGURATION,
            _ => bounded_read::TEXT,
        };
        if let Some(text) = read_optional(&path.join(name), limit)? {
            texts.insert(name, text);
            hashed.push((path.join(name), name.to_owned()));
        }
    }
    let config_text = texts
        .remove("config.json")
        .ok_or_else(|| CheckpointError::MissingFile { path: path.to_path_buf(), file: "config.json".to_owned() })?;
    let generation = texts.get("generation_config.json").map(String::as_str);
    let config = hf_config::parse(&path.join("config.json"), &config_text, generation)?;
    let tokenizer = texts.remove("tokenizer.json");

    let shards = shards(path, &mut hashed)?;
    let mut files = Vec::with_capacity(shards.len());
    let mut tensors = BTreeMap::new();
    for (name, promised) in shards {
        let file = MappedFile::open(&path.join(&name))?;
        let entries =
            safetensors_header::parse(file.bytes()).map_err(|reason| CheckpointError::malformed(&file.path, reason))?;
        if let Some(missing) = promised.iter().find(|tensor| !entries.contains_key(*tensor)) {
            return Err(CheckpointError::malformed(
                &file.path,
                format!("lacks tensor `{missing}`, which {INDEX} puts there"),
            ));
        }
        for (tensor, entry) in entries {
            let stored = StoredType::from_safetensors(&entry.dtype).ok_or(entry.dtype);
            let entry = Entry { file: files.len(), bytes: entry.bytes, shape: entry.shape, stored, interleaved: None };
            if tensors.insert(tensor.clone(), entry).is_some() {
                return Err(CheckpointError::malformed(&file.path, format!("tensor `{tensor}` is in two files")));
            }
        }
        hashed.push((file.path.clone(), name));
        files.push(file);
    }
    let companions = texts.into_iter().map(|(name, text)| (name.to_owned(), text)).collect();
    let source = Source::Folder { config: config_text, tokenizer, companions };
    Ok(Checkpoint { path: path.to_path_buf(), config, files, tensors, source, hashed, rounded: false })
}

/// Names of the weight files, each with the tensors that the index promises in it.
fn shards(
    path: &Path,
    hashed: &mut Vec<(PathBuf, String)>,
) -> Result<BTreeMap<String, BTreeSet<String>>, CheckpointError> {
    let index_path = path.join(INDEX);
    let Some(text) = read_optional(&index_path, bounded_read::MANIFEST)? else {
        if path.join(SINGLE).is_file() {
            return Ok(BTreeMap::from([(SINGLE.to_owned(), BTreeSet::new())]));
        }
        let reason = if path.join("pytorch_model.bin").is_file() {
            format!("holds pytorch_model.bin alone; save the model as {SINGLE} (pickle files are not read)")
        } else {
            format!("holds neither {SINGLE} nor {INDEX}")
        };
        return Err(CheckpointError::malformed(path, reason));
    };
    let index: Index =
        serde_json::from_str(&text).map_err(|error| CheckpointError::malformed(&index_path, error.to_string()))?;
    hashed.push((index_path.clone(), INDEX.to_owned()));
    let mut shards: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (tensor, file) in index.weight_map {
        // An index must not lead out of its folder.
        if Path::new(&file).file_name() != Some(file.as_ref()) || file.contains('\\') {
            return Err(CheckpointError::malformed(&index_path, format!("{file:?} is not the name of a file here")));
        }
        shards.entry(file).or_default().insert(tensor);
    }
    Ok(shards)
}

fn read_optional(path: &Path, limit: u64) -> Result<Option<String>, CheckpointError> {
    match bounded_read::read_text(path, limit) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(CheckpointError::io(path, error)),
    }
}

/// The licence in the front matter of the model card: the lines between `---` at the top of README.md.
pub(super) fn licence(path: &Path) -> Result<Option<String>, CheckpointError> {
    let Some(card) = read_optional(&path.join("README.md"), bounded_read::CONFIGURATION)? else { return Ok(None) };
    let front_matter = card.lines().skip_while(|line| line.trim() == "---").take_while(|line| line.trim() != "---");
    let mut licences = front_matter.filter_map(|line| line.strip_prefix("license:"));
    Ok(if card.starts_with("---") {
        licences.next().map(|name| name.trim().trim_matches(['"', '\'']).to_owned())
    } else {
        None
    })
}
