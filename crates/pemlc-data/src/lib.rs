//! Tasks as text files, made into token batches, and scored.
//!
//! ```text
//! run file  --[config]-->  TaskConfig
//! data file --[reader]-->  records --[template, label, answers]--> Example --[task]--> TaskSet
//! TaskSet   --[mixer]--->  training batches          a pure function of (seed, step)
//! TaskSet   --[scoring]->  scoring batches --(model)--> log-likelihoods --[prediction, metrics]--> Score
//! ```
//!
//! Everything a user can get wrong is found by [`load_tasks`], before any training, and its error names the file, the line
//! and the field. Nothing here knows of tensors or of ONNX.
#![forbid(unsafe_code)]

mod answers;
mod batch;
mod check;
mod config;
mod error;
mod example;
mod expand;
mod label;
mod loader;
mod long;
mod metrics;
mod mixer;
mod notes;
mod prediction;
mod random;
mod reader;
mod record;
mod request;
mod scoring;
mod task;
mod template;
mod tokenizer;

pub use answers::separated;
pub use batch::{Batch, Target};
pub use config::{Metric, Normalize, OnLong, TaskConfig};
pub use error::{DataError, FileProblem, RowProblem, TaskProblem};
pub use example::Example;
pub use expand::{ExpandError, expand_path, expand_variables};
pub use metrics::{Score, evaluate_metric};
pub use mixer::Mixer;
pub use prediction::{Prediction, predict, predict_free_text, ranked};
pub use request::Request;
pub use scoring::{Query, ScoringBatch, ScoringRow, scoring_batches, scoring_rows};
pub use task::{Limits, LongCounts, Task, TaskSet, load_tasks};
pub use template::{Template, TemplateError};
pub use tokenizer::{Tokenizer, TokenizerError};
