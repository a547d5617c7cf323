//! The prompt's files.

use super::{Prompt, Source};
use crate::export::ExportError;
use crate::ir::Tensor;
use crate::lower::{EncoderError, SoftPromptRows};
use crate::prompt::PromptError;
use crate::run_source::SourceError;
use pemlc_artifact::ModelConfig;
use pemlc_artifact::prompt::{self, Architecture, Insertion, SoftPrompts};
use pemlc_artifact::run::{PrefixRecord, RunPaths};
use pemlc_artifact::tensors;
use std::path::Path;
use std::sync::Arc;

impl Prompt {
    /// Reads the prompt that `record` tells of, of a run of `tasks`.
    pub(crate) fn read(
        paths: &RunPaths,
        record: &PrefixRecord,
        config: &ModelConfig,
        tasks: &[&str],
    ) -> Result<Self, ExportError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| ExportError::Prompt { path, source }
        };
        let tasks: Vec<String> = tasks.iter().map(|task| (*task).to_owned()).collect();
        let path = paths.prefix();
        let mut read = Self { source: Source::Rows, path: path.clone(), record: record.clone(), tasks, trained: None };
        let (architecture, encoder, soft_prompt) = (paths.architecture(), paths.encoder(), paths.soft_prompt());
        if soft_prompt.exists() {
            let prompts = SoftPrompts::read(&soft_prompt).map_err(SourceError::from)?;
            if prompts.tasks.iter().any(|prompt| !prompt.is_empty()) {
                let rows = read.soft_prompts(&prompts, config).map_err(PromptError::SoftPrompts);
                read.source = Source::SoftPrompts(rows.map_err(at(&soft_prompt))?);
                read.path = soft_prompt;
            }
        } else if architecture.exists() || encoder.exists() {
            let architecture = Architecture::read(&architecture).map_err(SourceError::Architecture)?;
            if architecture.length != record.length {
                let (rows, expected) = (architecture.length, record.length);
                let reason = EncoderError::Architecture(format!("has {rows} rows, run.json says {expected}"));
                return Err(at(&paths.architecture())(reason.into()));
            }
            // Runs of earlier versions kept no heads that give hidden states.
            if architecture.insertion == Insertion::Rows || encoder.exists() {
                let weights = tensors::read(&encoder).map_err(SourceError::from)?;
                read.source = Source::Encoder(Box::new(architecture), weights);
                read.path = encoder;
            }
        }
        // Without the trainer's rows those that are compiled stand unchecked until the runtimes run.
        if path.exists() || matches!(read.source, Source::Rows) {
            let trained = prompt::Prefix::read(&path).map_err(SourceError::from)?;
            read.trained = Some(read.stack_trained(&trained, config).map_err(at(&path))?);
        } else {
            read.refuse_lost_rows(paths)?;
        }
        Ok(read)
    }

    /// Prompts that are not empty, each with the task whose deltas it passes through. The error says what does not fit.
    fn soft_prompts(&self, prompts: &SoftPrompts, config: &ModelConfig) -> Result<SoftPromptRows, String> {
        let (hidden, count) = (prompts.hidden, prompts.tasks.len());
        if hidden != config.hidden_size {
            return Err(format!(
                "vectors of {hidden} numbers, but the base model's embeddings have {}",
                config.hidden_size
            ));
        }
        let sets = self.sets();
        if count != sets && count != 1 {
            return Err(format!("prompts of {count} tasks, but run.json says that there are {sets} sets of rows"));
        }
        // One prompt comes to rows of each task's own where the deltas are.
        let of_set = |set: usize| &prompts.tasks[if count == 1 { 0 } else { set }];
        let tasks: Vec<usize> = (0..sets).filter(|set| !of_set(*set).is_empty()).collect();
        let lengths: Vec<usize> = tasks.iter().map(|set| of_set(*set).len() / hidden).collect();
        let longest = lengths.iter().copied().max().unwrap_or_default();
        if longest > self.record.length {
            return Err(format!("a prompt of {longest} vectors, but run.json says {} rows", self.record.length));
        }
        let embeddings = Tensor::f32_from_fn(vec![tasks.len(), longest, hidden], |place| {
            let (part, rest) = (place / (longest * hidden), place % (longest * hidden));
            of_set(tasks[part]).get(rest).copied().unwrap_or_default()
        });
        Ok(SoftPromptRows { tasks, lengths, embeddings: Arc::new(embeddings) })
    }

    /// Rows that no soft prompt comes to are in the trainer's file alone. Leaving them out would be the base model answering.
    fn refuse_lost_rows(&self, paths: &RunPaths) -> Result<(), SourceError> {
        let Source::SoftPrompts(prompts) = &self.source else { return Ok(()) };
        let longest = prompts.lengths.iter().copied().max().unwrap_or_default();
        if longest != self.record.length {
            let reason = format!(
                "is missing, and run.json says {} rows, where the longest soft prompt has {longest} vectors",
                self.record.length
            );
            return Err(SourceError::File { path: paths.prefix(), reason });
        }
        let others = self.tasks.iter().enumerate().filter(|(task, _)| !prompts.tasks.contains(task));
        let lost = others.map(|(_, name)| name).find(|name| self.record.per_task && paths.task_prefix(name).exists());
        match lost {
            Some(name) => Err(SourceError::File {
                path: paths.prefix(),
                reason: format!("is missing, and task `{name}` has rows that no soft prompt comes to"),
            }),
            None => Ok(()),
        }
    }
}
