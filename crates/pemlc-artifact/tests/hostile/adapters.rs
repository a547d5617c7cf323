//! PEFT folders of every kind.

use super::{BOUND, fixture, names_its_file};
use pemlc_artifact::peft::Adapter;
use pemlc_artifact::{Checkpoint, ModelConfig};
use pemlc_hostile::{bounded, changes, damage, header_changes, number};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

const KINDS: [&str; 8] = ["dora_rs", "list", "mpt", "p_tuning_mlp", "prefix", "prefix_mlp", "prompt", "small"];
const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

struct Folder {
    folder: tempfile::TempDir,
    model: ModelConfig,
    /// Configuration and weights of each kind.
    kinds: Vec<[Vec<u8>; 2]>,
}

thread_local! {
    static FOLDER: Folder = Folder {
        folder: tempfile::tempdir().unwrap(),
        model: Checkpoint::open(&fixture("golden/llama3-tiny")).unwrap().config().clone(),
        kinds: KINDS.map(|kind| [CONFIG, WEIGHTS].map(|file| fs::read(fixture("peft/llama3-tiny").join(kind).join(file)).unwrap())).to_vec(),
    };
}

fn read(path: &Path, model: &ModelConfig, config: &[u8], weights: &[u8], task: Option<usize>) {
    fs::write(path.join(CONFIG), config).unwrap();
    fs::write(path.join(WEIGHTS), weights).unwrap();
    bounded(BOUND, config.len() + weights.len(), || {
        let adapter = Adapter::read(path, model, task);
        names_its_file(&adapter, path);
        if let Ok(adapter) = adapter {
            let _ = (adapter.kind(), adapter.parameters());
            if let Adapter::Lora(lora) = adapter {
                let _ = (lora.targets(), lora.ranks());
            }
        }
    });
}

#[test]
fn the_folders_to_be_damaged_are_good() {
    FOLDER.with(|folder| {
        for (kind, [config, weights]) in KINDS.iter().zip(&folder.kinds) {
            fs::write(folder.folder.path().join(CONFIG), config).unwrap();
            fs::write(folder.folder.path().join(WEIGHTS), weights).unwrap();
            let task = (*kind == "mpt").then_some(0);
            Adapter::read(folder.folder.path(), &folder.model, task).unwrap_or_else(|error| panic!("{kind}: {error}"));
        }
    });
}

/// Two small tables whose product would be a prefix of 200 gigabytes.
#[test]
fn a_projection_cannot_make_gigabytes_of_rows() {
    use pemlc_artifact::tensors::{self, NamedTensor, TensorMap};
    FOLDER.with(|folder| {
        let path = folder.folder.path();
        let (length, model) = (1_000_000, &folder.model);
        let features = model.num_hidden_layers * 2 * model.kv_width();
        let zeros = |shape: &[usize]| NamedTensor::f32(shape.to_vec(), vec![0.0; shape.iter().product()]);
        let map = TensorMap::from([
            ("prompt_encoder.default.embedding.weight".to_owned(), zeros(&[length, 1])),
            ("prompt_encoder.default.transform.0.weight".to_owned(), zeros(&[1, 1])),
            ("prompt_encoder.default.transform.0.bias".to_owned(), zeros(&[1])),
            ("prompt_encoder.default.transform.2.weight".to_owned(), zeros(&[features, 1])),
            ("prompt_encoder.default.transform.2.bias".to_owned(), zeros(&[features])),
        ]);
        tensors::write(&path.join(WEIGHTS), &map).unwrap();
        let config = json!({"peft_type": "PREFIX_TUNING", "num_virtual_tokens": length, "token_dim": 1, "encoder_hidden_size": 1});
        fs::write(path.join(CONFIG), config.to_string()).unwrap();
        let error = bounded(BOUND, 0, || Adapter::read(path, model, None).unwrap_err().to_string());
        assert!(error.ends_with("`num_virtual_tokens` is 1000000, at most 16384 can be read"), "{error}");
    });
}

/// Patterns that take long to match or much memory to compile.
#[test]
fn costly_patterns_are_bounded() {
    FOLDER.with(|folder| {
        let [config, weights] = &folder.kinds[1];
        for pattern in [
            "(a*)*(a*)*(a*)*b".to_owned(),
            r"(.*)(?=.*)(.*)(?=.*)(.*)(?=.*)(.*)\1\2\3x".to_owned(),
            r"(?=\w{90})".repeat(300),
            r"((\w{50}){50}){50}".to_owned(),
            "(".repeat(2_000),
            "a".repeat(5_000),
            r"(?:(?=x)x){1000000000}".to_owned(),
        ] {
            let mut changed: Value = serde_json::from_slice(config).unwrap();
            changed["target_modules"] = json!(pattern);
            changed["rank_pattern"] = json!({pattern.clone(): 2});
            read(folder.folder.path(), &folder.model, changed.to_string().as_bytes(), weights, None);
        }
    });
}

proptest! {
    #[test]
    fn changed_configurations(kind in 0..KINDS.len(), changes in changes(), task in proptest::option::of(0..3usize)) {
        FOLDER.with(|folder| {
            let [config, weights] = &folder.kinds[kind];
            let mut document = serde_json::from_slice(config).unwrap();
            changes.iter().for_each(|change| change.apply(&mut document));
            read(folder.folder.path(), &folder.model, document.to_string().as_bytes(), weights, task);
        });
    }

    #[test]
    fn changed_numbers(kind in 0..KINDS.len(), settings in proptest::collection::vec((0..NUMBERS.len(), number()), 1..4), task in proptest::option::of(0..3usize)) {
        FOLDER.with(|folder| {
            let [config, weights] = &folder.kinds[kind];
            let mut document: Value = serde_json::from_slice(config).unwrap();
            for (key, value) in settings {
                document[NUMBERS[key]] = value;
            }
            read(folder.folder.path(), &folder.model, document.to_string().as_bytes(), weights, task);
        });
    }

    #[test]
    fn damaged_configurations(kind in 0..KINDS.len(), damage in damage()) {
        FOLDER.with(|folder| {
            let [config, weights] = &folder.kinds[kind];
            read(folder.folder.path(), &folder.model, &damage.apply(config), weights, None);
        });
    }

    #[test]
    fn weights_with_another_header(kind in 0..KINDS.len(), change in header_changes(), task in proptest::option::of(0..3usize)) {
        FOLDER.with(|folder| {
            let [config, weights] = &folder.kinds[kind];
            read(folder.folder.path(), &folder.model, config, &change.apply(weights), task);
        });
    }

    #[test]
    fn damaged_weights(kind in 0..KINDS.len(), damage in damage()) {
        FOLDER.with(|folder| {
            let [config, weights] = &folder.kinds[kind];
            read(folder.folder.path(), &folder.model, config, &damage.apply(weights), None);
        });
    }

    /// One adapter's weights under another's configuration.
    #[test]
    fn mixed_folders(config in 0..KINDS.len(), weights in 0..KINDS.len(), task in proptest::option::of(0..3usize)) {
        FOLDER.with(|folder| {
            read(folder.folder.path(), &folder.model, &folder.kinds[config][0], &folder.kinds[weights][1], task);
        });
    }
}

const NUMBERS: [&str; 12] = [
    "r",
    "lora_alpha",
    "lora_dropout",
    "num_virtual_tokens",
    "token_dim",
    "num_layers",
    "num_attention_heads",
    "encoder_hidden_size",
    "num_tasks",
    "num_ranks",
    "layers_to_transform",
    "num_transformer_submodules",
];
