//! The prompt of a run: read, lowered to a graph of its own, which passes turn into rows, and held to the rows that the trainer stored.
//!
//! A method that trains rows directly has no source to compile: its rows are taken as they are.

mod compare;
mod read;
mod rows;

pub use compare::{PromptDiffers, RELATIVE_TOLERANCE};

use crate::evaluate::EvaluateError;
use crate::ir::{Graph, IrError};
use crate::lower::{EncoderError, EncoderWeights, SoftPromptRows, lower_prompt_encoder, lower_soft_prompt};
use crate::normal_form::{NormalForm, Prefix};
use compare::compare;
use pemlc_artifact::prompt::{Architecture, Insertion};
use pemlc_artifact::run::PrefixRecord;
use pemlc_artifact::tensors::TensorMap;
use pemlc_artifact::{Checkpoint, ModelConfig};
use rows::Compiled;
use std::path::{Path, PathBuf};

/// Why a prompt cannot be compiled.
#[derive(Debug, thiserror::Error)]
pub enum PromptError {
    /// The encoder cannot be lowered.
    #[error(transparent)]
    Encoder(#[from] EncoderError),
    /// The soft prompts cannot be lowered.
    #[error(transparent)]
    Ir(#[from] IrError),
    /// The passes left an output that is not stored.
    #[error("`{0}` did not become stored rows")]
    NotStored(String),
    /// Stored rows have no values.
    #[error("`{name}`: {source}")]
    Value {
        /// The output.
        name: String,
        /// Why.
        source: Box<EvaluateError>,
    },
    /// `prefix.safetensors` is not of this model and run.
    #[error(
        "(sets of rows, layers, key-value heads, rows, head width) are {found:?}, run.json and the model say {expected:?}"
    )]
    Table {
        /// By `run.json` and the base model.
        expected: [usize; 5],
        /// In the file.
        found: [usize; 5],
    },
    /// `soft_prompt.safetensors` is not of this model and run.
    #[error("{0}")]
    SoftPrompts(String),
    /// A prompt of all tasks comes to rows of each task's own where it passes through their deltas.
    #[error(
        "run.json says that all tasks share one set of rows, but what they are made of passes through deltas that tasks have for themselves: `prefix.per_task` must be true"
    )]
    OneSet,
    /// The trainer's rows are absent and the compiler's are no numbers.
    #[error("the rows of {whose}, layer {layer}, hold {value}: did training diverge?")]
    NotFinite {
        /// The task.
        whose: String,
        /// The layer.
        layer: usize,
        /// What they hold.
        value: f32,
    },
    /// The compiler's rows are not the trainer's.
    #[error(transparent)]
    Differs(#[from] PromptDiffers),
}

/// What rows are made of.
#[derive(Debug)]
enum Source {
    /// They were trained directly, or their source was not kept.
    Rows,
    /// A frozen encoder.
    Encoder(Box<Architecture>, TensorMap),
    /// Vectors in front of the token embeddings.
    SoftPrompts(SoftPromptRows),
}

/// The prompt of a run, in memory.
#[derive(Debug)]
pub(crate) struct Prompt {
    source: Source,
    /// File of the source, for errors.
    path: PathBuf,
    record: PrefixRecord,
    /// Names, in `task_id` order.
    tasks: Vec<String>,
    /// The trainer's rows, if it left any.
    trained: Option<Prefix>,
}

impl Prompt {
    /// File of the source, for errors.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Says what was done, and how far it is from the trainer's evaluation.
    pub(crate) fn compiled(&self, difference: Option<f64>) -> String {
        let done = match self.source {
            Source::Rows => return "prefix rows read".to_owned(),
            Source::Encoder(..) => "prompt encoder frozen",
            Source::SoftPrompts(_) => "soft prompts folded",
        };
        match difference {
            Some(difference) => format!("{done}, {difference:.1e} from the trainer's evaluation"),
            None => format!("{done}; the run has no rows of the trainer's to compare with"),
        }
    }

    fn title(&self) -> &'static str {
        match self.source {
            Source::Rows => "prefix",
            Source::Encoder(..) => "prompt encoder",
            Source::SoftPrompts(_) => "soft prompt",
        }
    }

    /// The graph of the source, if it has one, over what training made of the model beside it.
    pub(crate) fn lower(&self, config: &ModelConfig, normal_form: &NormalForm) -> Result<Option<Graph>, PromptError> {
        let through_deltas = match &self.source {
            Source::Rows => false,
            Source::Encoder(architecture, _) => architecture.insertion != Insertion::Rows,
            Source::SoftPrompts(_) => true,
        };
        if through_deltas && !self.record.per_task && self.tasks.len() > 1 && !normal_form.private.is_empty() {
            return Err(PromptError::OneSet);
        }
        match &self.source {
            Source::Rows => Ok(None),
            Source::Encoder(architecture, weights) => {
                let weights = EncoderWeights::new(weights);
                Ok(Some(lower_prompt_encoder(architecture, weights, config, normal_form, self.sets())?))
            }
            Source::SoftPrompts(prompts) => Ok(Some(lower_soft_prompt(config, normal_form, prompts)?)),
        }
    }

    /// The rows that `graph`, what the passes made of [`lower`](Self::lower)'s, holds, and how far they are from the trainer's; of a prompt
    /// without a source, the trainer's own.
    pub(crate) fn prefix(
        &self,
        graph: Option<&Graph>,
        checkpoint: &Checkpoint,
    ) -> Result<(Prefix, Option<f64>), PromptError> {
        let config = checkpoint.config();
        let Some(graph) = graph else {
            let rows = self.trained.clone();
            return rows.map(|rows| (rows, None)).ok_or_else(|| PromptError::NotStored("prompt".to_owned()));
        };
        let compiled = Compiled::new(graph, checkpoint)?;
        let places: Vec<(usize, usize)> = match &self.source {
            Source::SoftPrompts(prompts) => prompts.set_lengths(self.record.per_task),
            _ => (0..self.sets()).map(|set| (set, self.record.length)).collect(),
        };
        let prefix = compiled.place(&places, self.trained.as_ref(), self.shape(config), self.set_of_task())?;
        let sets: Vec<(usize, String)> = places.iter().map(|(set, _)| (*set, self.whose(*set))).collect();
        let Some(trained) = &self.trained else {
            rows::finite(&prefix, &sets)?;
            return Ok((prefix, None));
        };
        let difference = compare(&prefix, trained, &sets, self.title())?;
        Ok((prefix, Some(difference)))
    }

    fn sets(&self) -> usize {
        if self.record.per_task { self.tasks.len() } else { 1 }
    }

    /// Which set of rows each task reads.
    fn set_of_task(&self) -> Vec<usize> {
        (0..self.tasks.len()).map(|task| if self.record.per_task { task } else { 0 }).collect()
    }

    /// `[sets, kv_heads, length, head_dim]`.
    fn shape(&self, config: &ModelConfig) -> [usize; 4] {
        [self.sets(), config.num_key_value_heads, self.record.length, config.head_dim]
    }

    fn whose(&self, set: usize) -> String {
        match self.tasks.get(set) {
            Some(task) if self.record.per_task => format!("task `{task}`"),
            _ => "all tasks".to_owned(),
        }
    }
}
