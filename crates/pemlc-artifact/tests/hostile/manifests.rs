//! `run.json`, `pemlc.json` and `architecture.json`.

use super::{BOUND, names_its_file};
use pemlc_artifact::artifact::ArtifactManifest;
use pemlc_artifact::hash::first_difference;
use pemlc_artifact::prompt::Architecture;
use pemlc_artifact::run::RunManifest;
use pemlc_hostile::{bounded, changes, damage};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

fn config() -> Value {
    json!({"family": "llama", "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 4, "vocab_size": 16, "max_position_embeddings": 32, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "rope_scaling": {"rope_type": "linear", "factor": 2.0}, "tie_word_embeddings": true,
        "bos_token_id": 1, "eos_token_ids": [2], "pad_token_id": null})
}

fn task(name: &str) -> Value {
    json!({"name": name, "metric": "accuracy", "train_examples": 4, "validation_examples": 2, "base_score": 0.5, "score": 1.0,
        "template": "{text}", "verbalizers": [" no", " yes"]})
}

fn file(path: &str) -> Value {
    json!({"path": path, "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "bytes": 0})
}

fn run() -> Value {
    json!({"schema_version": 1, "pemlc_version": "0.1.0", "method": "peml", "seed": 1, "device": "cpu", "base_dtype": "f32",
        "base": {"path": "/models/tiny", "name": "tiny", "licence": "mit", "config": config(), "files": [file("config.json")]},
        "tasks": [task("one"), task("two")],
        "lora": {"rank": 2, "alpha": 4.0, "targets": ["q_proj"], "shared": true, "per_task": true},
        "prefix": {"length": 3, "per_task": true, "gated": true},
        "stages": [{"stage": "soft", "steps": 3, "scores": [{"task": "one", "value": 0.5, "standard_error": 0.1}]}],
        "costs": {"search_seconds": 1.0, "training_seconds": 1.0, "evaluation_seconds": 1.0, "optimizer_steps": 1, "tokens": 1,
            "trainable_parameters": 1, "peak_memory_bytes": 1},
        "files": [file("adapters/shared/adapter_config.json"), file("probes.safetensors")]})
}

fn artifact() -> Value {
    json!({"schema_version": 1, "pemlc_version": "0.1.0", "base_model": "tiny", "base_licence": null, "config": config(), "method": "peml",
        "tasks": [task("one"), task("two")], "opset": 18, "ir_version": 8, "dtype": "f32", "runtimes": ["ort-cpu"], "tolerance": 0.1,
        "profile": "causal-lm", "encoder_difference": 1e-7,
        "graphs": [{"file": "scorer.onnx", "profile": "scorer", "answers": [[[1, 2], [3]]]}],
        "validation": {"tolerance": 1e-4, "runtimes": [{"runtime": "ort-cpu", "version": "1", "execution_provider": null, "passed": true,
            "seconds": 1.0, "checks": [{"check": "prefill", "task": "one", "max_abs": 1e-6, "max_rel": 1e-6, "argmax_agreement": 1.0,
            "passed": true, "detail": "x"}]}]},
        "validated": true, "files": [file("model.onnx")]})
}

fn architecture() -> Value {
    json!({"schema_version": 1, "width": 64, "length": 8, "positions": 12, "layers": [0, 1], "generators": "groups", "nodes": 2,
        "edges": [
            {"from": 0, "to": 1, "op": "mlp_tanh", "width": 16, "weight": 0.5},
            {"from": 0, "to": 2, "op": "depthwise_convolution", "kernel": 3, "weight": 0.5},
            {"from": 1, "to": 2, "op": "attention", "heads": 4, "weight": 0.5}]})
}

fn read(folder: &Path, bytes: &[u8]) {
    for name in ["run.json", "pemlc.json"] {
        fs::write(folder.join(name), bytes).unwrap();
    }
    bounded(BOUND, bytes.len(), || {
        let run = RunManifest::read(folder);
        names_its_file(&run, folder);
        if let Ok(run) = run {
            let _ = first_difference(folder, &run.files);
            let _ = run.base.config.rope_inverse_frequencies();
        }
        let artifact = ArtifactManifest::read(folder);
        names_its_file(&artifact, folder);
        if let Ok(artifact) = artifact {
            let _ = first_difference(folder, &artifact.files);
        }
        let architecture = Architecture::read(&folder.join("run.json"));
        names_its_file(&architecture, folder);
        if let Ok(architecture) = architecture {
            assert!(architecture.positions() >= architecture.length);
        }
    });
}

const DOCUMENTS: [fn() -> Value; 3] = [run, artifact, architecture];

#[test]
fn the_documents_to_be_damaged_are_good() {
    let folder = tempfile::tempdir().unwrap();
    for (name, document) in [("run.json", run()), ("pemlc.json", artifact()), ("architecture.json", architecture())] {
        fs::write(folder.path().join(name), document.to_string()).unwrap();
    }
    RunManifest::read(folder.path()).unwrap();
    ArtifactManifest::read(folder.path()).unwrap();
    Architecture::read(&folder.path().join("architecture.json")).unwrap();
}

#[test]
fn files_outside_the_directory_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for path in ["/dev/zero", "../secret", "a/../../secret", "", "a\\b", "./a/.."] {
        let mut document = run();
        document["files"][0]["path"] = json!(path);
        fs::write(folder.path().join("run.json"), document.to_string()).unwrap();
        let error = RunManifest::read(folder.path()).unwrap_err().to_string();
        assert!(error.ends_with(&format!("{path:?} is not the path of a file in this directory")), "{error}");
        let mut document = artifact();
        document["graphs"][0]["file"] = json!(path);
        fs::write(folder.path().join("pemlc.json"), document.to_string()).unwrap();
        let error = ArtifactManifest::read(folder.path()).unwrap_err().to_string();
        assert!(error.ends_with(&format!("{path:?} is not the path of a file in this directory")), "{error}");
    }
}

#[test]
fn a_model_that_cannot_be_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut document = run();
    document["base"]["config"]["head_dim"] = json!(u64::MAX);
    fs::write(folder.path().join("run.json"), document.to_string()).unwrap();
    let error = RunManifest::read(folder.path()).unwrap_err().to_string();
    assert!(error.ends_with("`base.config`: `head_dim` is 18446744073709551615, expected from 1 to 65536"), "{error}");
}

proptest! {
    #[test]
    fn changed(which in 0..3usize, changes in changes()) {
        let folder = tempfile::tempdir().unwrap();
        let mut document = DOCUMENTS[which]();
        changes.iter().for_each(|change| change.apply(&mut document));
        read(folder.path(), document.to_string().as_bytes());
    }

    #[test]
    fn damaged(which in 0..3usize, damage in damage()) {
        let folder = tempfile::tempdir().unwrap();
        read(folder.path(), &damage.apply(DOCUMENTS[which]().to_string().as_bytes()));
    }

    /// Keys twice, in every order.
    #[test]
    fn repeated_keys(which in 0..3usize, other in 0..3usize) {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (DOCUMENTS[which]().to_string(), DOCUMENTS[other]().to_string());
        read(folder.path(), format!("{},{}", &one[..one.len() - 1], &two[1..]).as_bytes());
    }
}
