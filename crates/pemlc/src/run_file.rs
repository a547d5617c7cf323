//! A run file from disk, with `--set` applied.

use crate::overrides;
use anyhow::Context;
use pemlc_artifact::Checkpoint;
use pemlc_data::{Limits, TaskSet, Tokenizer};
use pemlc_trainer::config::RunConfig;
use std::path::{Path, PathBuf};

/// What stands above the reason why the base model cannot be read.
pub(crate) const NO_MODEL: &str = "the base model (`model` in the run file) cannot be read";

/// A run file and the folder that its paths are relative to.
#[derive(Debug)]
pub(crate) struct RunFile {
    pub(crate) config: RunConfig,
    pub(crate) folder: PathBuf,
}

impl RunFile {
    /// Reads `path` and applies `set`.
    pub(crate) fn read(path: &Path, set: &[String]) -> anyhow::Result<Self> {
        let mut text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read the run file {}", path.display()))?;
        if !set.is_empty() {
            let mut table = toml::from_str(&text).with_context(|| format!("{} is not valid TOML", path.display()))?;
            overrides::apply(&mut table, set, &schema())?;
            text = toml::to_string(&table)?;
        }
        let config = RunConfig::from_toml(&text, path)?;
        let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok(Self { config, folder: folder.to_owned() })
    }
}

/// The run file's JSON Schema.
pub(crate) fn schema() -> serde_json::Value {
    schemars::schema_for!(RunConfig).to_value()
}

impl RunFile {
    /// The file's tasks, and the tokenizer that made their tokens.
    pub(crate) fn load_tasks(&self) -> anyhow::Result<(TaskSet, Tokenizer)> {
        let model = pemlc_data::expand_path(&self.config.model, &self.folder).context("model")?;
        let checkpoint = Checkpoint::open(&model).context(NO_MODEL)?;
        let end_of_text = checkpoint.config().eos_token_ids.first().copied();
        let tokenizer = Tokenizer::from_json(&checkpoint.tokenizer_json()?)?.with_end_of_text(end_of_text);
        let limits = Limits { max_length: self.config.training.max_length, train_limit: None, validation_limit: None };
        let set = pemlc_data::load_tasks(&self.config.tasks, &self.folder, &tokenizer, &limits)?;
        Ok((set, tokenizer))
    }
}
