//! Checkpoint folders: configuration, index of weight files, weights.

use super::{BOUND, fixture, names_its_file};
use pemlc_artifact::Checkpoint;
use pemlc_artifact::tensors::{self, TensorMap};
use pemlc_hostile::{bounded, changes, damage, header_changes};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

const WEIGHTS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
const INDEX: &str = "model.safetensors.index.json";

/// A folder with its weights in two files, and the contents of each file.
struct Folder {
    folder: tempfile::TempDir,
    files: Vec<(&'static str, Vec<u8>)>,
}

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = fixture("golden/llama3-tiny");
        for name in ["config.json", "generation_config.json"] {
            fs::copy(source.join(name), folder.path().join(name)).unwrap();
        }
        fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
        fs::write(folder.path().join("README.md"), "---\nlicense: mit\n---\n").unwrap();
        let all = tensors::read(&source.join("model.safetensors")).unwrap();
        let (first, second): (TensorMap, TensorMap) = all.into_iter().partition(|(name, _)| name.contains("layers.0"));
        let mut places = serde_json::Map::new();
        for (name, tensors) in WEIGHTS.into_iter().zip([&first, &second]) {
            tensors::write(&folder.path().join(name), tensors).unwrap();
            places.extend(tensors.keys().map(|tensor| (tensor.clone(), json!(name))));
        }
        fs::write(folder.path().join(INDEX), json!({"metadata": {}, "weight_map": places}).to_string()).unwrap();
        let names = ["config.json", "generation_config.json", "README.md", INDEX, WEIGHTS[0], WEIGHTS[1]];
        let files = names.map(|name| (name, fs::read(folder.path().join(name)).unwrap())).to_vec();
        Self { folder, files }
    }

    fn contents(&self, name: &str) -> &[u8] {
        &self.files.iter().find(|(own, _)| *own == name).unwrap().1
    }

    /// Reads the folder with `name` replaced by `contents`, and puts it back.
    fn with(&self, name: &str, contents: &[u8]) {
        let path = self.folder.path();
        fs::write(path.join(name), contents).unwrap();
        bounded(BOUND, contents.len(), || read_all(path));
        fs::write(path.join(name), self.contents(name)).unwrap();
    }

    fn with_json(&self, name: &str, document: &Value) {
        self.with(name, document.to_string().as_bytes());
    }
}

/// Reads everything that can be read.
fn read_all(path: &Path) {
    let opened = Checkpoint::open(path);
    names_its_file(&opened, path);
    let Ok(checkpoint) = opened else { return };
    for name in checkpoint.names() {
        if let Ok(tensor) = checkpoint.tensor(name) {
            let _ = tensor.to_f32();
        }
        checkpoint.release(name);
    }
    let _ = checkpoint.output_head().map(|head| head.rows_f32(0..1));
    let _ = (checkpoint.tokenizer_json(), checkpoint.companion_files(), checkpoint.licence(), checkpoint.file_hashes());
    let _ = checkpoint.config().rope_inverse_frequencies();
}

thread_local! {
    static FOLDER: Folder = Folder::new();
}

#[test]
fn the_folder_to_be_damaged_is_good() {
    let folder = Folder::new();
    assert!(Checkpoint::open(folder.folder.path()).is_ok());
    read_all(folder.folder.path());
}

#[test]
fn devices_and_files_of_senseless_size_are_refused() {
    let folder = Folder::new();
    let path = folder.folder.path();
    for name in ["config.json", INDEX, "tokenizer.json"] {
        let file = path.join(name);
        let good = fs::read(&file).unwrap();
        // Sparse: it takes no disk.
        fs::File::create(&file).unwrap().set_len(1 << 40).unwrap();
        let error = bounded(BOUND, 0, || Checkpoint::open(path).err().unwrap().to_string());
        assert!(error.contains(name) && error.contains("1099511627776 bytes, at most"), "{error}");
        #[cfg(unix)]
        {
            fs::remove_file(&file).unwrap();
            std::os::unix::fs::symlink("/dev/zero", &file).unwrap();
            let error = Checkpoint::open(path).err().unwrap().to_string();
            assert!(error.ends_with("not a regular file"), "{error}");
            fs::remove_file(&file).unwrap();
        }
        fs::write(&file, good).unwrap();
    }
    assert!(Checkpoint::open(path).is_ok());
}

/// A few kilobytes that would be gigabytes of numbers.
#[test]
fn tensors_that_share_bytes_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shared.safetensors");
    let entry = json!({"dtype": "F32", "shape": [1024], "data_offsets": [0, 4096]});
    let header: serde_json::Map<String, Value> = (0..1000).map(|n| (n.to_string(), entry.clone())).collect();
    let header = Value::Object(header).to_string();
    fs::write(&path, [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 4096]].concat()).unwrap();
    let error = tensors::read(&path).unwrap_err().to_string();
    assert!(error.ends_with("tensors `0` and `1` share bytes"), "{error}");
}

proptest! {
    #[test]
    fn weights_with_another_header(which in 0..2usize, change in header_changes()) {
        FOLDER.with(|folder| folder.with(WEIGHTS[which], &change.apply(folder.contents(WEIGHTS[which]))));
    }

    #[test]
    fn damaged_files(which in 0..6usize, damage in damage()) {
        FOLDER.with(|folder| {
            let (name, contents) = &folder.files[which];
            folder.with(name, &damage.apply(contents));
        });
    }

    /// The header alone: in a whole file most damage would meet numbers.
    #[test]
    fn damaged_headers(which in 0..2usize, damage in damage()) {
        FOLDER.with(|folder| {
            let contents = folder.contents(WEIGHTS[which]);
            let header = 8 + u64::from_le_bytes(*contents.first_chunk().unwrap()) as usize;
            folder.with(WEIGHTS[which], &[damage.apply(&contents[..header]), contents[header..].to_vec()].concat());
        });
    }

    #[test]
    fn changed_documents(which in prop_oneof![3 => Just(0), 1 => Just(1), 2 => Just(3)], changes in changes()) {
        FOLDER.with(|folder| {
            let (name, contents) = &folder.files[which];
            let mut document = serde_json::from_slice(contents).unwrap();
            changes.iter().for_each(|change| change.apply(&mut document));
            folder.with_json(name, &document);
        });
    }

    #[test]
    fn changed_settings(
        settings in proptest::collection::vec((0..KEYS.len(), pemlc_hostile::number()), 1..4),
        scaling in proptest::option::of((prop_oneof![Just("linear"), Just("llama3"), Just("yarn")], proptest::collection::vec(pemlc_hostile::number(), 4))),
    ) {
        FOLDER.with(|folder| {
            let mut config: Value = serde_json::from_slice(folder.contents("config.json")).unwrap();
            for (key, value) in settings {
                config[KEYS[key]] = value;
            }
            if let Some((kind, numbers)) = scaling {
                config["rope_parameters"] = json!({"rope_type": kind, "rope_theta": numbers[0], "factor": numbers[1],
                    "low_freq_factor": numbers[2], "high_freq_factor": numbers[3], "original_max_position_embeddings": numbers[0]});
            }
            folder.with_json("config.json", &config);
        });
    }
}

const KEYS: [&str; 13] = [
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "eos_token_id",
    "partial_rotary_factor",
    "max_window_layers",
];
