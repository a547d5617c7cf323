//! Logits of real checkpoints against Hugging Face transformers'.

use burn::tensor::Device;
use pemlc_artifact::Checkpoint;
use pemlc_trainer::adaptation::Adaptation;
use pemlc_trainer::backbone::{Backbone, Input};
use pemlc_trainer::config::BaseDtype;
use serde_json::Value;
use std::path::{Path, PathBuf};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

fn integers(value: &Value) -> Vec<i64> {
    value.as_array().expect("a list").iter().map(|value| value.as_i64().expect("an integer")).collect()
}

/// Largest difference from the logits of `golden`: one case, or a list of them that hold some entries of the vocabulary.
fn largest_difference(model: &Path, golden: &Path) -> f32 {
    let checkpoint = Checkpoint::open(model).expect("the model opens");
    let backbone = Backbone::load(&checkpoint, &Device::flex(), BaseDtype::F32).expect("the model loads");
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(golden).expect("the golden file")).expect("JSON");
    let size = backbone.config().vocab_size;
    let vocabulary = match &golden["vocabulary_indices"] {
        Value::Null => (0..size as i64).collect(),
        indices => integers(indices),
    };
    let cases = match &golden["cases"] {
        Value::Null => {
            // A rectangle of rows, each with the same positions.
            let rows =
                golden["input_ids"].as_array().expect("rows").iter().zip(golden["logits"].as_array().expect("rows"));
            rows.map(|(ids, logits)| (integers(ids), integers(&golden["positions"]), logits.clone())).collect()
        }
        cases => {
            let cases = cases.as_array().expect("cases").iter();
            let case =
                |case: &Value| (integers(&case["input_ids"]), integers(&case["positions"]), case["logits"].clone());
            cases.map(case).collect::<Vec<_>>()
        }
    };
    let mut largest = 0f32;
    for (ids, positions, expected) in cases {
        let input =
            Input { rows: 1, length: ids.len(), input_ids: &ids, attention_mask: &vec![1; ids.len()], task_ids: &[0] };
        let at: Vec<usize> = positions.iter().map(|position| *position as usize).collect();
        let logits = backbone.logits(&input, &at, &Adaptation::default());
        for (row, expected) in logits.chunks(size).zip(expected.as_array().expect("rows")) {
            for (index, expected) in vocabulary.iter().zip(expected.as_array().expect("numbers")) {
                let difference = (row[*index as usize] - expected.as_f64().expect("a number") as f32).abs();
                assert!(difference.is_finite());
                largest = largest.max(difference);
            }
        }
    }
    largest
}

#[test]
fn the_tiny_model_is_that_of_transformers() {
    let difference = largest_difference(&fixtures().join("tiny-model"), &fixtures().join("golden/tiny_logits.json"));
    assert!(difference < 1e-4, "{difference}");
}

#[test]
fn the_other_families_are_those_of_transformers() {
    for family in ["llama3-tiny", "qwen2-tiny"] {
        let folder = fixtures().join("golden").join(family);
        let difference = largest_difference(&folder, &folder.join("logits.json"));
        assert!(difference < 1e-4, "{family}: {difference}");
    }
}

/// `PEMLC_SMOLLM2` names the GGUF of SmolLM2-135M.
#[test]
fn smollm2_is_that_of_transformers() {
    let Some(model) = std::env::var_os("PEMLC_SMOLLM2") else {
        eprintln!("skipped: PEMLC_SMOLLM2 does not name the GGUF of SmolLM2-135M");
        return;
    };
    let difference = largest_difference(Path::new(&model), &fixtures().join("golden/smollm2_logits.json"));
    assert!(difference < 1e-3, "{difference}");
}
