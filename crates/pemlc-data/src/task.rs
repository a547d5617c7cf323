//! Tasks with their data: the one place where files become examples.

use crate::config::{Metric, TaskConfig};
use crate::error::{DataError, TaskProblem};
use crate::example::Example;
use crate::loader::Loader;
use crate::notes::Notes;
use crate::tokenizer::Tokenizer;
use std::path::Path;

/// The tasks of a run, in `task_id` order.
#[derive(Debug, Clone)]
pub struct TaskSet {
    /// The tasks.
    pub tasks: Vec<Task>,
    /// What a user should know and may be right to ignore, one sentence each.
    pub warnings: Vec<String>,
}

/// One task and its examples.
#[derive(Debug, Clone)]
pub struct Task {
    /// Name.
    pub name: String,
    /// Settings.
    pub config: TaskConfig,
    /// Metric in force.
    pub metric: Metric,
    /// Training examples, in file order; never empty.
    pub train: Vec<Example>,
    /// Validation examples, in file order; never empty.
    pub validation: Vec<Example>,
    /// Training examples that were too long.
    pub train_long: LongCounts,
    /// Validation examples that were too long.
    pub validation_long: LongCounts,
}

impl Task {
    /// Whether the answer is free text, so that greedy decoding decides.
    pub fn is_free_text(&self) -> bool {
        self.config.answer.is_some()
    }
}

/// What became of examples with more than `max_length` tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LongCounts {
    /// Prompts that lost tokens from their middle.
    pub truncated: usize,
    /// Examples left out.
    pub dropped: usize,
}

/// How much data to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Tokens of prompt and longest answer.
    pub max_length: usize,
    /// Training examples a task, where the task sets none.
    pub train_limit: Option<usize>,
    /// Validation examples a task, where the task sets none.
    pub validation_limit: Option<usize>,
}

/// Reads, renders, tokenises and checks every task. `base_dir` is the run file's folder.
pub fn load_tasks(
    configs: &[TaskConfig],
    base_dir: &Path,
    tokenizer: &Tokenizer,
    limits: &Limits,
) -> Result<TaskSet, DataError> {
    if configs.is_empty() {
        return Err(DataError::NoTasks);
    }
    let problem = |config: &TaskConfig, problem| DataError::Task { task: config.name.clone(), problem };
    // Every setting is checked before any file is read: those errors cost no waiting.
    let mut templates = Vec::with_capacity(configs.len());
    for (index, config) in configs.iter().enumerate() {
        let template = config.check().map_err(|error| problem(config, error))?;
        if let Some(other) = configs[..index].iter().find(|other| other.name.eq_ignore_ascii_case(&config.name)) {
            return Err(problem(config, TaskProblem::DuplicateName { other: other.name.clone() }));
        }
        templates.push(template);
    }
    let mut set = TaskSet { tasks: Vec::with_capacity(configs.len()), warnings: Vec::new() };
    for (config, template) in configs.iter().zip(&templates) {
        let loader = Loader { config, template, tokenizer, max_length: limits.max_length, base_dir };
        let train_limit = config.train_limit.or(limits.train_limit);
        let validation_limit = config.validation_limit.or(limits.validation_limit);
        let (train, train_notes) = loader.split("train", &config.train, train_limit)?;
        let (validation, validation_notes) = loader.split("validation", &config.validation, validation_limit)?;
        set.warnings.extend(Notes::warnings(&train_notes, &validation_notes, config));
        set.tasks.push(Task {
            name: config.name.clone(),
            config: config.clone(),
            metric: config.metric(),
            train,
            validation,
            train_long: train_notes.long,
            validation_long: validation_notes.long,
        });
    }
    Ok(set)
}

/// At most `limit` of `0..count`, spread evenly: a file sorted by label still gives every label.
pub(crate) fn evenly_spaced(count: usize, limit: Option<usize>) -> impl Iterator<Item = usize> {
    let taken = limit.unwrap_or(count).min(count);
    (0..taken).map(move |index| index * count / taken)
}
