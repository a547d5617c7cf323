//! The run directory: what training leaves and export reads.
//!
//! ```text
//! RUN/
//!   run.json                      this manifest, written last
//!   config.toml                   the resolved run file
//!   tokenizer/                    tokenizer.json, config.json and companions of the base model
//!   adapters/shared/              PEFT LoRA folder: the shared delta, if any
//!   adapters/<task>/lora/         PEFT LoRA folder: the task's private delta, if any
//!   adapters/<task>/prefix/       PEFT prefix folder, only when every log-gate is zero
//!   prompt/architecture.json      the frozen encoder's architecture (see `prompt`)
//!   prompt/encoder.safetensors    its weights
//!   prompt/prefix.safetensors     the trainer's own evaluation of it
//!   prompt/soft_prompt.safetensors  the soft prompts that rows of it come from, if there are any
//!   probes.safetensors            inputs and the trainer's logits (see `probes`)
//!   predictions.jsonl             one line per validation example: scores of every choice
//!   metrics.jsonl                 training progress
//!   checkpoints/                  what --resume reads
//!   report.html
//! ```

use crate::config::{ModelConfig, Projection};
use crate::hash::FileHash;
use crate::manifest::{self, ManifestError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Version of the run directory that this build writes and reads.
pub const RUN_SCHEMA_VERSION: u32 = 1;

/// `run.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunManifest {
    /// [`RUN_SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Version of pemlc that wrote it.
    pub pemlc_version: String,
    /// The frozen base model.
    pub base: BaseModel,
    /// Method name as in the run file, for instance `peml`.
    pub method: String,
    /// Tasks in `task_id` order: index 0 is `task_id` 0.
    pub tasks: Vec<TaskRecord>,
    /// LoRA folders, if the method has deltas.
    pub lora: Option<LoraRecord>,
    /// The prompt, if the method has a prefix.
    pub prefix: Option<PrefixRecord>,
    /// Experts, if the method chooses among them for each token. Such a run has no weights of its own for a task, and cannot be exported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routing: Option<RoutingRecord>,
    /// Seed of every random choice.
    pub seed: u64,
    /// Device that training ran on, for instance `cpu` or `cuda:0`.
    pub device: String,
    /// Number type of the frozen base.
    pub base_dtype: BaseDtype,
    /// Scores at the ends of the stages of a search, the last being those of `tasks`; none without a search.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<StageRecord>,
    /// What the run cost.
    pub costs: Costs,
    /// Files of this directory, `run.json` and `checkpoints/` excepted.
    pub files: Vec<FileHash>,
}

/// Number type of the frozen base. Adapters are f32 always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BaseDtype {
    /// 32 bits.
    F32,
    /// 16 bits, half the memory. The exported graph holds what it rounded to.
    Bf16,
}

impl BaseDtype {
    /// Name as in a run file.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }
}

impl RunManifest {
    /// Reads `run.json` of the run directory `directory`.
    pub fn read(directory: &Path) -> Result<Self, ManifestError> {
        let path = RunPaths::new(directory).manifest();
        let run: Self = manifest::read(&path, RUN_SCHEMA_VERSION)?;
        manifest::check_task_names(&path, run.tasks.iter().map(|task| task.name.as_str()))?;
        manifest::check_files(&path, run.files.iter().map(|file| file.path.as_str()))?;
        let config = run.base.config.check().map_err(|reason| format!("`base.config`: {reason}"));
        config.map_err(|reason| ManifestError::Malformed { path, reason })?;
        Ok(run)
    }

    /// Writes `run.json` of the run directory `directory`, atomically.
    pub fn write(&self, directory: &Path) -> Result<(), ManifestError> {
        let path = RunPaths::new(directory).manifest();
        manifest::check_task_names(&path, self.tasks.iter().map(|task| task.name.as_str()))?;
        manifest::write(&path, self)
    }
}

/// Where things are in a run directory.
#[derive(Debug, Clone)]
pub struct RunPaths {
    root: PathBuf,
}

#[allow(missing_docs)]
impl RunPaths {
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }
    pub fn root(&self) -> &Path {
        &self.root
    }
    pub fn manifest(&self) -> PathBuf {
        self.root.join("run.json")
    }
    pub fn config(&self) -> PathBuf {
        self.root.join("config.toml")
    }
    pub fn tokenizer(&self) -> PathBuf {
        self.root.join("tokenizer")
    }
    pub fn adapters(&self) -> PathBuf {
        self.root.join("adapters")
    }
    pub fn shared_lora(&self) -> PathBuf {
        self.adapters().join("shared")
    }
    pub fn experts(&self) -> PathBuf {
        self.adapters().join("experts.safetensors")
    }
    pub fn task_lora(&self, task: &str) -> PathBuf {
        self.adapters().join(task).join("lora")
    }
    pub fn task_prefix(&self, task: &str) -> PathBuf {
        self.adapters().join(task).join("prefix")
    }
    pub fn architecture(&self) -> PathBuf {
        self.root.join("prompt/architecture.json")
    }
    pub fn encoder(&self) -> PathBuf {
        self.root.join("prompt/encoder.safetensors")
    }
    pub fn prefix(&self) -> PathBuf {
        self.root.join("prompt/prefix.safetensors")
    }
    pub fn soft_prompt(&self) -> PathBuf {
        self.root.join("prompt/soft_prompt.safetensors")
    }
    pub fn probes(&self) -> PathBuf {
        self.root.join("probes.safetensors")
    }
    pub fn predictions(&self) -> PathBuf {
        self.root.join("predictions.jsonl")
    }
    pub fn metrics(&self) -> PathBuf {
        self.root.join("metrics.jsonl")
    }
    pub fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }
    pub fn report(&self) -> PathBuf {
        self.root.join("report.html")
    }
}

/// The base model that a run adapted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BaseModel {
    /// Path as given in the run file, made absolute.
    pub path: String,
    /// A name to show: the folder's or file's.
    pub name: String,
    /// Licence, when the checkpoint states one.
    pub licence: Option<String>,
    /// Shape of the model.
    pub config: ModelConfig,
    /// Hashes of its files: export refuses another model.
    pub files: Vec<FileHash>,
}

/// One task and how it scored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TaskRecord {
    /// Name as in the run file.
    pub name: String,
    /// Metric's name, for instance `accuracy`.
    pub metric: String,
    /// Training examples.
    pub train_examples: usize,
    /// Validation examples.
    pub validation_examples: usize,
    /// Validation score of the untouched base model.
    pub base_score: Option<f64>,
    /// Validation score after training, as the trainer computes it.
    pub score: Option<f64>,
    /// Standard error of `score` over the choice of examples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standard_error: Option<f64>,
    /// The prompt template, so that an artifact can be used without the run file.
    pub template: String,
    /// Possible answers, when the task has a fixed set.
    pub verbalizers: Vec<String>,
    /// Text between the prompt and a choice or free-text answer, when the run file sets one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub separator: Option<String>,
    /// What log-likelihoods of answers are divided by before they are compared, as in a run file: `none`, `tokens` or `characters`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub normalize: Option<String>,
}

/// Where low-rank deltas are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LoraRecord {
    /// Rank.
    pub rank: usize,
    /// Alpha; the scale is alpha / rank.
    pub alpha: f64,
    /// Adapted projections.
    pub targets: Vec<Projection>,
    /// Whether `adapters/shared` exists.
    pub shared: bool,
    /// Whether `adapters/<task>/lora` exists for every task.
    pub per_task: bool,
    /// Whether each folder of a task has its own ranks, alphas and targets, and tasks may lack one, as in runs that were imported: then
    /// `rank` is the largest, and `alpha` says nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mixed: bool,
}

/// Experts chosen by token, in `adapters/experts.safetensors`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RoutingRecord {
    /// Experts of each layer.
    pub experts: usize,
    /// Experts that a token has.
    pub top: usize,
}

/// The prompt's shape.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PrefixRecord {
    /// Rows per layer.
    pub length: usize,
    /// Whether each task has rows of its own (else all tasks share one set, stored as task 0's).
    pub per_task: bool,
    /// Whether attention logits of the rows carry a learned log-gate.
    pub gated: bool,
}

/// Scores at the end of a stage of training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StageRecord {
    /// `soft` is the mixture, `discretised` the cell that it became, before any further step, `tuned` the cell after the steps from the
    /// search's weights, `retrained` after those from fresh ones.
    pub stage: String,
    /// Optimiser steps before it.
    pub steps: u64,
    /// Of every task.
    pub scores: Vec<StageScore>,
}

impl StageRecord {
    /// The mean over tasks.
    pub fn mean(&self) -> f64 {
        self.scores.iter().map(|score| score.value).sum::<f64>() / self.scores.len().max(1) as f64
    }
}

/// One task's score at the end of a stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StageScore {
    /// The task.
    pub task: String,
    /// The metric's value on validation examples.
    pub value: f64,
    /// Its standard error over the choice of examples.
    pub standard_error: f64,
}

/// What a run cost.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Costs {
    /// Wall seconds of the search phase (mixed operations).
    pub search_seconds: f64,
    /// Wall seconds of training after discretisation (all of it for methods without search).
    pub training_seconds: f64,
    /// Wall seconds of training the cell that was found on fresh weights.
    #[serde(default)]
    pub retraining_seconds: f64,
    /// Wall seconds of scoring.
    pub evaluation_seconds: f64,
    /// Seconds that an accelerator was held, times accelerators; 0 on the CPU.
    #[serde(default)]
    pub device_seconds: f64,
    /// Optimiser steps.
    pub optimizer_steps: u64,
    /// Tokens through forward and backward, padding excluded.
    pub tokens: u64,
    /// Tokens through a forward pass alone, to score.
    #[serde(default)]
    pub evaluation_tokens: u64,
    /// Mean seconds of a step of plain LoRA on batches of this run, timed after it; none for short runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora_step_seconds: Option<f64>,
    /// Seconds of search, training and retraining over those of as many LoRA steps as `training.steps`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relative_to_lora: Option<f64>,
    /// Trainable parameters.
    pub trainable_parameters: u64,
    /// Peak resident memory of the process in bytes.
    pub peak_memory_bytes: u64,
}
