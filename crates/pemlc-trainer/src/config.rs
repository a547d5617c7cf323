//! The run file.

mod ada_lora;
#[cfg(test)]
mod hostile_tests;
mod low_rank;
mod method_name;
mod prefix;
mod prompt;
mod search;

pub use ada_lora::AdaLoraConfig;
pub use low_rank::{CPolyConfig, DoraConfig, MixLoraConfig, MoeLoraConfig, MtlLoraConfig, MultiLoraConfig, PolyConfig};
pub use method_name::MethodName;
pub use prefix::{AfterSearch, PrefixConfig, PrefixInit, PrefixSharing, Relaxation, Update};
pub use prompt::{FactorInit, PromptConfig, PromptEncoder, PromptInit};

pub use search::{Choice, Dimension, When};

use pemlc_artifact::Projection;
use pemlc_artifact::prompt::MOST_POSITIONS;
pub use pemlc_artifact::run::BaseDtype;
use pemlc_data::TaskConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A run file: base model, tasks, and how to train. Paths are relative to the file; `${VAR}` and `${VAR:-default}` in them are
/// taken from the environment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// A Hugging Face folder or a `.gguf` file.
    pub model: String,
    /// Run directory; `--output` overrides it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// What is trained.
    #[serde(default)]
    pub method: MethodName,
    /// Seed of every random choice; below 2^63, because TOML knows no larger integers.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// The loop.
    #[serde(default)]
    pub training: TrainingConfig,
    /// Low-rank deltas.
    #[serde(default)]
    pub lora: LoraConfig,
    /// DoRA.
    #[serde(default)]
    pub dora: DoraConfig,
    /// AdaLoRA.
    #[serde(default)]
    pub adalora: AdaLoraConfig,
    /// MTL-LoRA.
    #[serde(default)]
    pub mtl_lora: MtlLoraConfig,
    /// MultiLoRA.
    #[serde(default)]
    pub multi_lora: MultiLoraConfig,
    /// MOELoRA.
    #[serde(default)]
    pub moe_lora: MoeLoraConfig,
    /// MixLoRA.
    #[serde(default)]
    pub mixlora: MixLoraConfig,
    /// Poly and multi-head routing.
    #[serde(default)]
    pub poly: PolyConfig,
    /// C-Poly.
    #[serde(default)]
    pub c_poly: CPolyConfig,
    /// Prefix rows and their encoder.
    #[serde(default)]
    pub prefix: PrefixConfig,
    /// Soft prompts.
    #[serde(default)]
    pub prompt: PromptConfig,
    /// Scoring.
    #[serde(default)]
    pub evaluation: EvaluationConfig,
    /// What `pemlc search` varies: keys of this file, and their values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub search: BTreeMap<String, Dimension>,
    /// The tasks; their order is their `task_id`.
    pub tasks: Vec<TaskConfig>,
}

fn default_seed() -> u64 {
    17
}

/// The training loop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrainingConfig {
    /// Optimiser steps.
    pub steps: u64,
    /// Examples a batch, tasks mixed.
    pub batch_size: usize,
    /// Batches an optimiser step.
    pub gradient_accumulation: usize,
    /// Tokens of prompt and longest answer; what to do beyond is each task's `on_long`.
    pub max_length: usize,
    /// Learning rate of LoRA.
    pub learning_rate: f64,
    /// Learning rate of the prompt.
    pub prefix_learning_rate: f64,
    /// How learning rates fall after the warm-up.
    pub schedule: Schedule,
    /// Steps over which learning rates rise linearly from 0.
    pub warmup_steps: u64,
    /// Decoupled weight decay of LoRA and the prompt.
    pub weight_decay: f64,
    /// Largest global norm of the gradients.
    pub gradient_clip: f64,
    /// A task with n examples is drawn with probability proportional to n^x: 1 is by size, 0 uniform.
    pub sampling_exponent: f64,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
    /// Number type of the frozen base.
    pub base_dtype: BaseDtype,
}

impl Default for TrainingConfig {
    fn default() -> Self {
        Self {
            steps: 300,
            batch_size: 8,
            gradient_accumulation: 1,
            max_length: 256,
            learning_rate: 5e-4,
            prefix_learning_rate: 5e-3,
            schedule: Schedule::Cosine,
            warmup_steps: 10,
            weight_decay: 0.0,
            gradient_clip: 1.0,
            sampling_exponent: 0.5,
            checkpoint_every: 100,
            base_dtype: BaseDtype::F32,
        }
    }
}

/// How learning rates fall after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// To zero at the last step, along half a cosine.
    Cosine,
    /// Not at all.
    Constant,
}

/// Low-rank deltas.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// Rank of each delta.
    pub rank: usize,
    /// The scale is alpha / rank.
    pub alpha: f64,
    /// Share of each delta's input that is zeroed in training.
    pub dropout: f64,
    /// Adapted projections.
    pub targets: Vec<Projection>,
    /// Which deltas there are.
    pub sharing: LoraSharing,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self { rank: 8, alpha: 16.0, dropout: 0.0, targets: Projection::ALL.to_vec(), sharing: LoraSharing::Shared }
    }
}

/// Which deltas there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LoraSharing {
    /// One for all tasks.
    Shared,
    /// One for each task.
    PerTask,
    /// One for all tasks, and one more for each.
    Both,
}

impl LoraSharing {
    /// Name as in a run file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::PerTask => "per_task",
            Self::Both => "both",
        }
    }

    /// Whether one delta serves all tasks.
    pub fn has_shared(self) -> bool {
        self != Self::PerTask
    }

    /// Whether each task has a delta of its own.
    pub fn has_private(self) -> bool {
        self != Self::Shared
    }
}

/// Scoring.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluationConfig {
    /// Validation examples a task, spread evenly over the file.
    pub limit: usize,
    /// Rows a batch.
    pub batch_size: usize,
    /// Whether the untouched base model is scored too.
    pub base: bool,
}

impl Default for EvaluationConfig {
    fn default() -> Self {
        Self { limit: 200, batch_size: 16, base: true }
    }
}

/// Why a run file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not TOML, an unknown key, or a value of the wrong type.
    #[error("{path}: {message}")]
    Syntax {
        /// The run file.
        path: PathBuf,
        /// Where and what.
        message: String,
    },
    /// A value outside its range.
    #[error("{path}: `{key}` is {value}, expected {expected}")]
    Value {
        /// The run file.
        path: PathBuf,
        /// Dotted key.
        key: String,
        /// What it is.
        value: String,
        /// What it should be.
        expected: String,
    },
}

/// Most optimiser steps of a run: more than anybody waits for, and small enough to be doubled.
const MOST_STEPS: u64 = 1_000_000_000;
/// Longest run file: reading takes some fifty times a file's size.
const MOST_BYTES: usize = 256 << 10;

impl RunConfig {
    /// Reads the text of a run file; `path` is for messages.
    pub fn from_toml(text: &str, path: &Path) -> Result<Self, ConfigError> {
        if text.len() > MOST_BYTES {
            let message = format!("{} bytes, a run file has at most {MOST_BYTES}", text.len());
            return Err(ConfigError::Syntax { path: path.to_owned(), message });
        }
        let config: Self = toml::from_str(text)
            .map_err(|error| ConfigError::Syntax { path: path.to_owned(), message: error.to_string() })?;
        config.check(path)?;
        Ok(config)
    }

    /// Steps with mixed operations: none for methods without an encoder.
    pub fn search_steps(&self) -> u64 {
        if self.method != MethodName::Peml || self.prefix.architecture.is_some() || self.prefix.random_architecture {
            return 0;
        }
        let steps = self.training.steps;
        self.prefix.search_steps.unwrap_or(steps * 2 / 5).min(steps)
    }

    /// Optimiser steps of the whole run: a cell that is trained anew after its search takes `training.steps` more.
    pub fn total_steps(&self) -> u64 {
        let (search, steps) = (self.search_steps(), self.training.steps);
        match self.prefix.after_search {
            _ if search == 0 => steps,
            AfterSearch::Tune => steps,
            AfterSearch::Retrain => search + steps,
            AfterSearch::Both => 2 * steps,
        }
    }

    /// The step before which the cell is trained anew.
    pub fn retraining_from(&self) -> Option<u64> {
        match self.prefix.after_search {
            _ if self.search_steps() == 0 => None,
            AfterSearch::Tune => None,
            AfterSearch::Retrain => Some(self.search_steps()),
            AfterSearch::Both => Some(self.training.steps),
        }
    }

    /// Where the log-gate starts.
    pub fn log_gate_init(&self) -> f64 {
        match (self.prefix.log_gate, self.prefix.log_gate_init, self.prefix.init) {
            (false, ..) => 0.0,
            (true, Some(value), _) => value,
            (true, None, PrefixInit::Cold) => -6.0,
            (true, None, PrefixInit::Warm) => 0.0,
        }
    }

    fn check(&self, path: &Path) -> Result<(), ConfigError> {
        let fail = |key: &str, value: String, expected: &str| {
            Err(ConfigError::Value { path: path.to_owned(), key: key.to_owned(), value, expected: expected.to_owned() })
        };
        let (training, lora, prefix) = (&self.training, &self.lora, &self.prefix);
        if i64::try_from(self.seed).is_err() {
            return fail("seed", self.seed.to_string(), "less than 2^63");
        }
        let positive = [
            ("training.steps", training.steps as usize),
            ("training.batch_size", training.batch_size),
            ("training.gradient_accumulation", training.gradient_accumulation),
            ("training.max_length", training.max_length),
            ("training.checkpoint_every", training.checkpoint_every as usize),
            ("lora.rank", lora.rank),
            ("evaluation.limit", self.evaluation.limit),
            ("evaluation.batch_size", self.evaluation.batch_size),
        ];
        for (key, value) in positive.into_iter().chain(self.prompt.positive()).chain(self.low_rank_positive()) {
            if value == 0 {
                return fail(key, "0".to_owned(), "at least 1");
            }
        }
        if training.steps > MOST_STEPS {
            return fail("training.steps", training.steps.to_string(), &format!("at most {MOST_STEPS}"));
        }
        let not_negative = [
            ("training.learning_rate", training.learning_rate),
            ("training.prefix_learning_rate", training.prefix_learning_rate),
            ("training.weight_decay", training.weight_decay),
        ];
        for (key, value) in not_negative {
            if !(value.is_finite() && value >= 0.0) {
                return fail(key, value.to_string(), "a number, at least 0");
            }
        }
        for (key, value) in [("training.gradient_clip", training.gradient_clip), ("lora.alpha", lora.alpha)] {
            if !(value.is_finite() && value > 0.0) {
                return fail(key, value.to_string(), "a number above 0");
            }
        }
        if !training.sampling_exponent.is_finite() {
            return fail("training.sampling_exponent", training.sampling_exponent.to_string(), "a finite number");
        }
        if !(0.0..1.0).contains(&lora.dropout) {
            return fail("lora.dropout", lora.dropout.to_string(), "at least 0 and below 1");
        }
        if let Some((key, value, expected)) = self.low_rank_fault().or_else(|| self.adalora.fault()) {
            return fail(key, value, &expected);
        }
        if lora.targets.is_empty() {
            return fail("lora.targets", "empty".to_owned(), "at least one projection");
        }
        if let Some((key, value, expected)) = prefix.fault() {
            return fail(&key, value, &expected);
        }
        if self.method == MethodName::Peml && prefix.length > MOST_POSITIONS {
            return fail("prefix.length", prefix.length.to_string(), &format!("at most {MOST_POSITIONS}"));
        }
        Ok(())
    }
}
