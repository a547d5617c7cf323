//! The artifact directory: what export leaves and serving stacks read.
//!
//! ```text
//! ARTIFACT/
//!   model.onnx, model.onnx.data
//!   pemlc.json                    this manifest, written last
//!   config.json, tokenizer.json, tokenizer_config.json, generation_config.json, special_tokens_map.json
//!   adapters/                     the run's PEFT folders
//!   probes.safetensors            the trainer's probes, so that `check` needs nothing else
//!   README.md                     model card
//! ```

use crate::config::ModelConfig;
use crate::hash::FileHash;
use crate::manifest::{self, ManifestError};
use crate::run::TaskRecord;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Version of the artifact directory that this build writes and reads.
pub const ARTIFACT_SCHEMA_VERSION: u32 = 1;

/// `pemlc.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ArtifactManifest {
    /// [`ARTIFACT_SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Version of pemlc that wrote it.
    pub pemlc_version: String,
    /// Name of the base model.
    pub base_model: String,
    /// Its licence, when known.
    pub base_licence: Option<String>,
    /// Its shape.
    pub config: ModelConfig,
    /// Method that trained it.
    pub method: String,
    /// Tasks in `task_id` order.
    pub tasks: Vec<TaskRecord>,
    /// Opset of the standard operators.
    pub opset: i64,
    /// ONNX IR version.
    pub ir_version: i64,
    /// Weights' number type, for instance `f32`.
    pub dtype: String,
    /// Runtimes that know all of the graphs' number types and operators; empty when all do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runtimes: Vec<String>,
    /// Largest absolute logit difference that this number type is allowed; absent for f32, whose is the check's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<f64>,
    /// Packaging profile, for instance `causal-lm`.
    pub profile: String,
    /// Largest absolute difference of the rows of a frozen encoder or of soft prompts, as compiled, from those that the trainer evaluated.
    pub encoder_difference: Option<f64>,
    /// Graphs beside `model.onnx`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub graphs: Vec<GraphRecord>,
    /// What the check asked for and found; absent until a check ran.
    pub validation: Option<Validation>,
    /// True only when every check of every runtime asked for passed on exactly these files.
    pub validated: bool,
    /// Files of this directory, `pemlc.json` excepted.
    pub files: Vec<FileHash>,
}

/// A graph beside `model.onnx`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GraphRecord {
    /// Path in the artifact directory.
    pub file: String,
    /// What it is for.
    pub profile: GraphProfile,
    /// The one task that it answers as; absent where a row, or an adapter, says which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// Of a scorer: tokens of every answer of every task, in the order of `scores`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<Vec<Vec<u32>>>,
}

/// What a graph takes and gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum GraphProfile {
    /// As `model.onnx` without `task_id`: it answers as one task.
    PinnedCausalLm,
    /// As `model.onnx` without `task_id`: an `.onnx_adapter` file brings a task's tensors, and without one all answers are NaN.
    AdapterCausalLm,
    /// `input_ids`, `attention_mask`, `position_ids`, `task_id` to `scores`: the log-likelihood of every answer of the task.
    Scorer,
}

impl ArtifactManifest {
    /// Reads `pemlc.json` of the artifact directory `directory`.
    pub fn read(directory: &Path) -> Result<Self, ManifestError> {
        let path = ArtifactPaths::new(directory).manifest();
        let artifact: Self = manifest::read(&path, ARTIFACT_SCHEMA_VERSION)?;
        manifest::check_task_names(&path, artifact.tasks.iter().map(|task| task.name.as_str()))?;
        Ok(artifact)
    }

    /// Writes `pemlc.json` of the artifact directory `directory`, atomically.
    pub fn write(&self, directory: &Path) -> Result<(), ManifestError> {
        manifest::write(&ArtifactPaths::new(directory).manifest(), self)
    }
}

/// Where things are in an artifact directory.
#[derive(Debug, Clone)]
pub struct ArtifactPaths {
    root: PathBuf,
}

#[allow(missing_docs)]
impl ArtifactPaths {
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }
    pub fn root(&self) -> &Path {
        &self.root
    }
    pub fn manifest(&self) -> PathBuf {
        self.root.join("pemlc.json")
    }
    pub fn graph(&self) -> PathBuf {
        self.root.join("model.onnx")
    }
    pub fn graph_data(&self) -> PathBuf {
        self.root.join("model.onnx.data")
    }
    pub fn tokenizer(&self) -> PathBuf {
        self.root.join("tokenizer.json")
    }
    pub fn adapters(&self) -> PathBuf {
        self.root.join("adapters")
    }
    pub fn probes(&self) -> PathBuf {
        self.root.join("probes.safetensors")
    }
    pub fn model_card(&self) -> PathBuf {
        self.root.join("README.md")
    }
}

/// The outcome of a check.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Validation {
    /// Largest absolute logit difference allowed at positions whose largest logit is at most 10; beyond, it grows in proportion.
    pub tolerance: f64,
    /// One entry a runtime.
    pub runtimes: Vec<RuntimeValidation>,
}

/// What one runtime answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RuntimeValidation {
    /// `ort-cpu`, `ort-cuda` or `tract`.
    pub runtime: String,
    /// Version of the library that ran.
    pub version: String,
    /// Execution provider that really ran, for ONNX Runtime.
    pub execution_provider: Option<String>,
    /// One entry a check.
    pub checks: Vec<CheckResult>,
    /// Whether all of them passed.
    pub passed: bool,
    /// Wall seconds.
    pub seconds: f64,
}

/// One check on one runtime.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CheckResult {
    /// `prefill`, `mixed-batch`, `shapes`, `cached-decode`, `left-padding`, `differs-from-base`, `bad-task-id`.
    pub check: String,
    /// Task, where the check is per task.
    pub task: Option<String>,
    /// Largest absolute difference of a logit.
    pub max_abs: Option<f64>,
    /// Largest difference relative to `max(1, |expected|)`.
    pub max_rel: Option<f64>,
    /// Share of positions whose argmax agrees.
    pub argmax_agreement: Option<f64>,
    /// Whether it passed.
    pub passed: bool,
    /// What went wrong or what was compared, in words.
    pub detail: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Family;
    use serde_json::{Value, json};

    fn manifest() -> ArtifactManifest {
        let task = |name: &str| TaskRecord {
            name: name.to_owned(),
            metric: "accuracy".to_owned(),
            train_examples: 4,
            validation_examples: 2,
            base_score: Some(0.5),
            score: Some(1.0),
            standard_error: None,
            template: "{text}".to_owned(),
            verbalizers: vec![" no".to_owned(), " yes".to_owned()],
        };
        ArtifactManifest {
            schema_version: ARTIFACT_SCHEMA_VERSION,
            pemlc_version: "0.1.0".to_owned(),
            base_model: "tiny".to_owned(),
            base_licence: None,
            config: ModelConfig {
                family: Family::Qwen2,
                hidden_size: 8,
                intermediate_size: 12,
                num_hidden_layers: 1,
                num_attention_heads: 2,
                num_key_value_heads: 1,
                head_dim: 4,
                vocab_size: 16,
                max_position_embeddings: 32,
                rms_norm_eps: 1e-6,
                rope_theta: 10_000.0,
                rope_scaling: Some(crate::config::RopeScaling::Linear { factor: 2.0 }),
                tie_word_embeddings: true,
                bos_token_id: None,
                eos_token_ids: vec![1],
                pad_token_id: None,
            },
            method: "peml".to_owned(),
            tasks: vec![task("one"), task("two")],
            opset: 18,
            ir_version: 8,
            dtype: "f32".to_owned(),
            runtimes: Vec::new(),
            tolerance: None,
            profile: "causal-lm".to_owned(),
            encoder_difference: Some(1e-7),
            graphs: Vec::new(),
            validation: None,
            validated: false,
            files: vec![],
        }
    }

    fn refused(edit: impl Fn(&mut Value)) -> String {
        let folder = tempfile::tempdir().unwrap();
        manifest().write(folder.path()).unwrap();
        let path = folder.path().join("pemlc.json");
        let mut value: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        edit(&mut value);
        std::fs::write(&path, value.to_string()).unwrap();
        let error = ArtifactManifest::read(folder.path()).unwrap_err().to_string();
        error.replace(&folder.path().display().to_string(), "FOLDER")
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        manifest().write(folder.path()).unwrap();
        assert_eq!(ArtifactManifest::read(folder.path()).unwrap(), manifest());
    }

    #[test]
    fn manifests_of_other_versions_and_hostile_names_are_refused() {
        insta::assert_snapshot!(
            [
                refused(|manifest| {
                    manifest["schema_version"] = json!(2);
                    manifest["a field of version 2"] = json!(true);
                }),
                refused(|manifest| manifest["schema_version"] = json!("1")),
                refused(|manifest| manifest["schema_version"] = json!(0)),
                refused(|manifest| manifest["tasks"][0]["name"] = json!("../../home")),
                refused(|manifest| manifest["tasks"][0]["name"] = json!("two")),
                refused(|manifest| manifest["tasks"][0]["name"] = json!("shared")),
                refused(|manifest| manifest["opset"] = json!("eighteen")),
            ]
            .join("\n"), @r#"
FOLDER/pemlc.json: schema_version is 2, but this build of pemlc knows up to 1: update pemlc
FOLDER/pemlc.json: `schema_version` is missing or not a positive integer
FOLDER/pemlc.json: `schema_version` is missing or not a positive integer
FOLDER/pemlc.json: task name "../../home" cannot name a folder: use letters, digits, '-', '_' and '.'
FOLDER/pemlc.json: task "two" is listed twice
FOLDER/pemlc.json: task name "shared" is the folder of the shared adapter
FOLDER/pemlc.json: invalid type: string "eighteen", expected i64 at line 1 column 814
"#);
        let missing = ArtifactManifest::read(Path::new("nowhere")).unwrap_err().to_string();
        assert!(missing.starts_with("nowhere/pemlc.json: "), "{missing}");
    }

    #[test]
    fn every_schema_asks_for_a_version() {
        for (name, text) in crate::schemas() {
            let schema: Value = serde_json::from_str(&text).unwrap();
            assert!(schema["required"].as_array().unwrap().contains(&json!("schema_version")), "{name}");
        }
    }
}
