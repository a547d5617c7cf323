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
use crate::manifest::{self, BASE_TASK, ManifestError};
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
    /// Tasks in `task_id` order. The last one may be [`BASE_TASK`], the frozen base model itself.
    pub tasks: Vec<TaskRecord>,
    /// Whether all rows of a batch must have one task: rows whose `task_id` is another than the first row's are NaN.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub one_task_per_batch: bool,
    /// What was left out of the tasks' deltas, where a tolerance was given for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approximation: Option<Approximation>,
    /// Opset of the standard operators.
    pub opset: i64,
    /// ONNX IR version.
    pub ir_version: i64,
    /// Weights' number type, for instance `f32`.
    pub dtype: String,
    /// Runtimes that know all of the graphs' number types and operators; empty when all do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runtimes: Vec<String>,
    /// Largest absolute logit difference from the trainer that this number type is allowed, and of f16 from its own answers too; absent for
    /// f32, whose is the check's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<f64>,
    /// Largest mean total variation between a task's next-token distributions and the trainer's that this number type is allowed; present
    /// where the check asks what rounding cost, and not whether logits are the trainer's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_distortion: Option<f64>,
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

/// Deltas that are not quite the trainer's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Approximation {
    /// The tolerance given: an upper bound of the relative Frobenius error of every task's deltas, all projections together. Where a basis
    /// that tasks share may have been chosen, half of it is for `relative_error` and half for bases.
    pub rank_tolerance: f64,
    /// Largest absolute difference from the trainer's logits that the check allows, where they are at most 10; beyond, it grows in
    /// proportion. Runs of the graph among each other are held to the tolerance of its number type.
    pub logit_tolerance: f64,
    /// One entry a task, in `task_id` order.
    pub tasks: Vec<TaskApproximation>,
    /// Projections where no task has a delta any more.
    pub dropped_sites: Vec<String>,
}

/// What was left out of one task's deltas.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskApproximation {
    /// The task.
    pub task: String,
    /// Ranks of its deltas, the sum over projections.
    pub ranks: usize,
    /// How many of them are left.
    pub kept: usize,
    /// Frobenius norm of what was left out over that of the task's deltas, all projections together.
    pub relative_error: f64,
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
        let names: Vec<&str> = artifact.tasks.iter().map(|task| task.name.as_str()).collect();
        // The base model, if it is a task, is the last.
        let trained = names.strip_suffix(&[BASE_TASK]).unwrap_or(&names);
        manifest::check_task_names(&path, trained.iter().copied())?;
        let graphs = artifact.graphs.iter().map(|graph| graph.file.as_str());
        manifest::check_files(&path, artifact.files.iter().map(|file| file.path.as_str()).chain(graphs))?;
        let config = artifact.config.check().map_err(|reason| format!("`config`: {reason}"));
        config.map_err(|reason| ManifestError::Malformed { path, reason })?;
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
    /// Tasks for which more is allowed, because f32 itself is further from the exact logits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rounding: Vec<TaskRounding>,
    /// Largest mean total variation from the trainer's distributions that was allowed, where distortion is what was bounded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_distortion: Option<f64>,
    /// The same for differences from the trainer, where the artifact's weights are rounded (bf16) or its deltas approximate; else `tolerance`
    /// holds there too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trainer_tolerance: Option<f64>,
    /// One entry a runtime.
    pub runtimes: Vec<RuntimeValidation>,
}

/// A task whose logits f32 rounding moves by more than a check's tolerance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TaskRounding {
    /// The task.
    pub task: String,
    /// Largest absolute difference of the trainer's own f32 logits from its exact ones, on the task's probes.
    pub f32_rounding: f64,
    /// Largest absolute logit difference allowed for it, where that is more than the tolerance: four times `f32_rounding`.
    pub allowed: f64,
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
    /// What the number type cost each task; empty for f32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub distortion: Vec<Distortion>,
    /// Whether all of them passed.
    pub passed: bool,
    /// Wall seconds.
    pub seconds: f64,
}

/// How far a task's answers are from the trainer's, over all scored positions of its probes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Distortion {
    /// The task.
    pub task: String,
    /// Positions measured.
    pub positions: u64,
    /// Mean total variation between the next token's distribution and the trainer's: on average, no event's probability moves by more.
    pub total_variation: f64,
    /// The same between the untouched base model's and the trainer's: what training moved.
    pub base_total_variation: f64,
    /// Mean Kullback-Leibler divergence of the distribution from the trainer's, in nats.
    pub kl_divergence: f64,
    /// Largest absolute difference of a logit.
    pub max_abs: f64,
    /// Mean absolute difference of a logit.
    pub mean_abs: f64,
    /// Share of positions whose likeliest token is the trainer's.
    pub argmax_agreement: f64,
}

/// One check on one runtime.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CheckResult {
    /// `prefill`, `mixed-batch`, `shapes`, `cached-decode`, `left-padding`, `differs-from-base`, `bad-task-id`, `between-runtimes`,
    /// `one-task-per-batch`.
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
            separator: None,
            normalize: None,
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
            one_task_per_batch: false,
            approximation: None,
            opset: 18,
            ir_version: 8,
            dtype: "f32".to_owned(),
            runtimes: Vec::new(),
            tolerance: None,
            max_distortion: None,
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
    fn the_base_model_may_be_the_last_task() {
        let folder = tempfile::tempdir().unwrap();
        let mut with_base = manifest();
        with_base.tasks[1].name = BASE_TASK.to_owned();
        with_base.write(folder.path()).unwrap();
        assert_eq!(ArtifactManifest::read(folder.path()).unwrap(), with_base);
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
                refused(|manifest| manifest["tasks"][0]["name"] = json!("__base__")),
                refused(|manifest| manifest["opset"] = json!("eighteen")),
            ]
            .join("\n"), @r#"
FOLDER/pemlc.json: schema_version is 2, but this build of pemlc knows up to 1: update pemlc
FOLDER/pemlc.json: `schema_version` is missing or not a positive integer
FOLDER/pemlc.json: `schema_version` is missing or not a positive integer
FOLDER/pemlc.json: task name "../../home" cannot name a folder: use letters, digits, '-', '_' and '.'
FOLDER/pemlc.json: task "two" is listed twice
FOLDER/pemlc.json: task name "shared" is the folder of the shared adapter
FOLDER/pemlc.json: task name "__base__" is the base model's own: pemlc export --include-base adds it
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
