//! Hugging Face folders.

use super::support::{error, numbers, tiny_config, tiny_folder, tiny_tensors};
use crate::checkpoint::{Checkpoint, StoredType};
use crate::config::RopeScaling;
use crate::tensors::{self, NamedTensor};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

fn refused(edit: impl FnOnce(&mut Value, &Path)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut config = tiny_config();
    tiny_folder(folder.path(), &config);
    edit(&mut config, folder.path());
    if folder.path().join("config.json").exists() {
        fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    }
    error(folder.path(), folder.path())
}

fn opened(edit: impl FnOnce(&mut Value)) -> crate::ModelConfig {
    let folder = tempfile::tempdir().unwrap();
    let mut config = tiny_config();
    edit(&mut config);
    tiny_folder(folder.path(), &config);
    Checkpoint::open(folder.path()).unwrap().config().clone()
}

#[test]
fn one_file_of_weights() {
    let folder = tempfile::tempdir().unwrap();
    tiny_folder(folder.path(), &tiny_config());
    fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
    fs::write(folder.path().join("generation_config.json"), r#"{"eos_token_id": [1, 7]}"#).unwrap();
    fs::write(folder.path().join("README.md"), "---\nlanguage: en\nlicense: apache-2.0\n---\n# Tiny\n").unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.path(), folder.path());
    assert_eq!(checkpoint.config().head_dim, 4);
    assert_eq!(checkpoint.config().eos_token_ids, [1, 7]);
    assert_eq!(checkpoint.licence().unwrap().as_deref(), Some("apache-2.0"));
    assert_eq!(checkpoint.tokenizer_json().unwrap(), "{}");
    assert_eq!(checkpoint.config_json().unwrap(), tiny_config().to_string());
    assert_eq!(
        checkpoint.companion_files().unwrap(),
        [("generation_config.json".to_owned(), r#"{"eos_token_id": [1, 7]}"#.to_owned())]
    );
    let hashed: Vec<String> = checkpoint.file_hashes().unwrap().into_iter().map(|file| file.path).collect();
    assert_eq!(hashed, ["config.json", "tokenizer.json", "generation_config.json", "model.safetensors"]);
    let norm = checkpoint.tensor("model.norm.weight").unwrap();
    assert_eq!((norm.stored, norm.shape.as_slice()), (StoredType::F32, &[8][..]));
    assert_eq!(norm.rows_f32(2..4), numbers(1, 8)[2..4]);
}

#[test]
fn sharded_weights() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), tiny_config().to_string()).unwrap();
    let (first, second): (tensors::TensorMap, tensors::TensorMap) =
        tiny_tensors().into_iter().partition(|(name, _)| name.contains("mlp"));
    let mut map = serde_json::Map::new();
    for (file, tensors) in [("model-1.safetensors", &first), ("model-2.safetensors", &second)] {
        tensors::write(&folder.path().join(file), tensors).unwrap();
        map.extend(tensors.keys().map(|name| (name.clone(), json!(file))));
    }
    let index = folder.path().join("model.safetensors.index.json");
    fs::write(&index, json!({"metadata": {}, "weight_map": map}).to_string()).unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    for (name, tensor) in tiny_tensors() {
        assert_eq!(tensors::Values::F32(checkpoint.tensor(&name).unwrap().to_f32()), tensor.values);
    }
    assert_eq!(checkpoint.file_hashes().unwrap().len(), 4);

    for (edited, expected) in [
        (json!({"a": "../secret"}), "\"../secret\" is not the name of a file here"),
        (json!({"a": "/etc/passwd"}), "\"/etc/passwd\" is not the name of a file here"),
        (json!({"a": ".."}), "\"..\" is not the name of a file here"),
        (json!({"a": "model-1.safetensors"}), "lacks tensor `a`, which model.safetensors.index.json puts there"),
        (json!({"a": 1}), "invalid type: integer `1`, expected a string at line 1 column 20"),
    ] {
        fs::write(&index, json!({"weight_map": edited}).to_string()).unwrap();
        let error = error(folder.path(), folder.path());
        assert!(error.ends_with(expected), "{error}");
    }
}

#[test]
fn rotary_settings_old_and_new() {
    let llama3 = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
    });
    let expected = Some(RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    });
    let old = opened(|config| config["rope_scaling"] = llama3.clone());
    assert_eq!((old.rope_theta, &old.rope_scaling), (100_000.0, &expected));
    let new = opened(|config| {
        config.as_object_mut().unwrap().remove("rope_theta");
        config["rope_parameters"] = llama3;
        config["rope_parameters"]["rope_theta"] = json!(500_000.0);
    });
    assert_eq!((new.rope_theta, &new.rope_scaling), (500_000.0, &expected));
    let plain = opened(|config| config["rope_parameters"] = json!({"rope_type": "default", "rope_theta": 7.0}));
    assert_eq!((plain.rope_theta, plain.rope_scaling), (7.0, None));
    let linear = opened(|config| config["rope_scaling"] = json!({"type": "linear", "factor": 2}));
    assert_eq!(linear.rope_scaling, Some(RopeScaling::Linear { factor: 2.0 }));
}

#[test]
fn a_head_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = tiny_config();
    config["tie_word_embeddings"] = json!(false);
    tiny_folder(folder.path(), &config);
    let missing = error(folder.path(), folder.path());
    insta::assert_snapshot!(missing, @"FOLDER: tensor `lm_head.weight` is missing; near names: model.norm.weight, model.embed_tokens.weight, model.layers.0.mlp.up_proj.weight");
    let mut tensors = tiny_tensors();
    let rows = crate::checkpoint::tests::support::VOCABULARY;
    tensors.insert("lm_head.weight".to_owned(), NamedTensor::f32([rows, 8], numbers(9, rows * 8)));
    tensors::write(&folder.path().join("model.safetensors"), &tensors).unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.output_head().unwrap().rows_f32(0..1), numbers(9, 8));
}

#[test]
fn what_cannot_be_read_is_named() {
    insta::assert_snapshot!(
        [
            refused(|config, _| config["model_type"] = json!("mistral")),
            refused(|config, _| config["rope_scaling"] = json!({"rope_type": "yarn", "factor": 4.0})),
            refused(|config, _| config["rope_scaling"] = json!({"rope_type": "llama3", "factor": 4.0})),
            refused(|config, _| config["attention_bias"] = json!(true)),
            refused(|config, _| config["hidden_act"] = json!("gelu")),
            refused(|config, _| config["quantization_config"] = json!({"bits": 4})),
            refused(|config, _| config["layer_types"] = json!(["sliding_attention"])),
            refused(|config, _| config["hidden_size"] = json!(-8)),
            refused(|config, _| config["num_hidden_layers"] = json!(1u64 << 60)),
            refused(|config, _| config["head_dim"] = json!(5)),
            refused(|config, _| config["rms_norm_eps"] = json!("small")),
            refused(|config, _| config["intermediate_size"] = json!(13)),
            refused(|config, _| config["num_hidden_layers"] = json!(1u64 << 28)),
            refused(|config, _| config["num_hidden_layers"] = json!(2)),
            refused(|_, folder| fs::remove_file(folder.join("config.json")).unwrap()),
            refused(|_, folder| fs::remove_file(folder.join("model.safetensors")).unwrap()),
            refused(|_, folder| {
                fs::rename(folder.join("model.safetensors"), folder.join("pytorch_model.bin")).unwrap();
            }),
            refused(|_, folder| fs::write(folder.join("model.safetensors"), "").unwrap()),
            refused(|_, folder| fs::write(folder.join("generation_config.json"), "{").unwrap()),
        ]
        .join("\n"), @r#"
FOLDER/config.json: architecture "mistral" is not supported; `llama` and `qwen2` are
FOLDER/config.json: rope scaling "yarn" is not supported; `linear` and `llama3` are
FOLDER/config.json: rope scaling lacks a positive `low_freq_factor`
FOLDER/config.json: `attention_bias` is true; Llama models without biases are supported
FOLDER/config.json: `hidden_act` is "gelu"; `silu` is supported
FOLDER/config.json: the weights are quantised (`quantization_config`); use the original ones
FOLDER/config.json: some layers attend to a sliding window; full attention is supported
FOLDER/config.json: `hidden_size` is -8, expected an integer from 1 to 268435456
FOLDER/config.json: `num_hidden_layers` is 1152921504606846976, expected an integer from 1 to 268435456
FOLDER/config.json: head_dim 5 is not a positive even number
FOLDER/config.json: `rms_norm_eps` is "small", expected a number
FOLDER: tensor `model.layers.0.mlp.gate_proj.weight` has shape [12, 8], the configuration asks for [13, 8]
FOLDER/config.json: `num_hidden_layers` is 268435456, expected from 1 to 16384
FOLDER: tensor `model.layers.1.input_layernorm.weight` is missing; near names: model.layers.0.input_layernorm.weight, model.layers.0.mlp.up_proj.weight, model.layers.0.mlp.down_proj.weight
FOLDER: config.json is missing: a Hugging Face model folder holds it
FOLDER: holds neither model.safetensors nor model.safetensors.index.json
FOLDER: holds pytorch_model.bin alone; save the model as model.safetensors (pickle files are not read)
FOLDER/model.safetensors: not a safetensors file: 0 bytes, at least 8 expected
FOLDER/generation_config.json: EOF while parsing an object at line 1 column 1
"#);
    let folder = tempfile::tempdir().unwrap();
    tiny_folder(folder.path(), &tiny_config());
    let error = Checkpoint::open(folder.path()).unwrap().tokenizer_json().unwrap_err().to_string();
    assert!(error.ends_with("tokenizer.json is missing: a Hugging Face model folder holds it"), "{error}");
}
