//! Everything that is read and checked before the first step.

use super::request::TrainRequest;
use crate::backbone::Backbone;
use crate::config::RunConfig;
use crate::error::TrainError;
use crate::event::{Event, Observer};
use pemlc_artifact::hash::FileHash;
use pemlc_artifact::prompt::{Architecture, Operation};
use pemlc_artifact::run::{BaseModel, RunPaths};
use pemlc_artifact::{Checkpoint, CheckpointError, ModelConfig};
use pemlc_data::{Limits, TaskSet, Tokenizer, expand_path, load_tasks};
use std::path::{Path, PathBuf};

/// A run, ready to start.
pub(crate) struct Prepared {
    /// With absolute paths.
    pub(crate) config: RunConfig,
    pub(crate) paths: RunPaths,
    pub(crate) base: Base,
    /// The cell that the run file names.
    pub(crate) architecture: Option<Architecture>,
    pub(crate) tasks: TaskSet,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) backbone: Backbone,
    /// For instance `cpu`.
    pub(crate) device_name: String,
}

/// What is recorded of the base model. The checkpoint itself is closed once its weights are loaded: its mapped pages would count as memory.
pub(crate) struct Base {
    pub(crate) files: Vec<FileHash>,
    pub(crate) licence: Option<String>,
    /// `config.json`.
    pub(crate) config_json: String,
    /// `(file name, contents)`.
    pub(crate) companions: Vec<(String, String)>,
}

impl Base {
    pub(crate) fn of(checkpoint: &Checkpoint) -> Result<Self, CheckpointError> {
        Ok(Self {
            files: checkpoint.file_hashes()?,
            licence: checkpoint.licence()?,
            config_json: checkpoint.config_json()?,
            companions: checkpoint.companion_files()?,
        })
    }

    /// What `run.json` says of the model at `path`.
    pub(crate) fn record(&self, path: &str, config: &ModelConfig) -> BaseModel {
        let at = Path::new(path);
        // A folder's name may have dots in it; a file's ending says nothing of the model.
        let name = if at.is_dir() { at.file_name() } else { at.file_stem() };
        BaseModel {
            path: path.to_owned(),
            name: name.map_or_else(|| path.to_owned(), |name| name.to_string_lossy().into_owned()),
            licence: self.licence.clone(),
            config: config.clone(),
            files: self.files.clone(),
        }
    }

    /// Writes the tokenizer, whose text is `tokenizer`, and the files that serving stacks read beside it.
    pub(crate) fn write_tokenizer(&self, tokenizer: &str, paths: &RunPaths) -> Result<(), TrainError> {
        let folder = paths.tokenizer();
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            pemlc_artifact::atomic::write(&path, text.as_bytes()).map_err(TrainError::io(&path))
        };
        write("tokenizer.json", tokenizer)?;
        write("config.json", &self.config_json)?;
        self.companions.iter().try_for_each(|(name, contents)| write(name, contents))
    }
}

impl Prepared {
    /// Opens device, model and data, in order of what is quick to fail.
    pub(crate) fn new(request: &TrainRequest, observer: &mut dyn Observer) -> Result<Self, TrainError> {
        let (device, device_name) = request.device.open()?;
        let paths = RunPaths::new(&request.output);
        refuse(request, &paths)?;
        let config = absolute(&request.config, &request.config_dir)?;
        let checkpoint = Checkpoint::open(Path::new(&config.model))?;
        let model = checkpoint.config();
        let architecture =
            config.prefix.architecture.as_ref().map(|path| Architecture::read(Path::new(path))).transpose()?;
        if let Some(architecture) = &architecture {
            check_architecture(architecture, config.prefix.width, model.num_hidden_layers)?;
        }
        config.check_model(model).map_err(|(key, value, expected)| TrainError::Setting { key, value, expected })?;
        let tokenizer =
            Tokenizer::from_json(&checkpoint.tokenizer_json()?)?.with_end_of_text(model.eos_token_ids.first().copied());
        let limits = Limits { max_length: config.training.max_length, train_limit: None, validation_limit: None };
        let tasks = load_tasks(&config.tasks, &request.config_dir, &tokenizer, &limits)?;
        check_vocabulary(&tasks, model.vocab_size)?;
        for warning in &tasks.warnings {
            observer.event(Event::Warning(warning.clone()));
        }
        let base = Base::of(&checkpoint)?;
        let backbone = Backbone::load(&checkpoint, &device, config.training.base_dtype)?;
        Ok(Self { config, paths, base, architecture, tasks, tokenizer, backbone, device_name })
    }
}

/// Refuses to start over a run, and to resume what is finished or was never begun.
fn refuse(request: &TrainRequest, paths: &RunPaths) -> Result<(), TrainError> {
    let checkpoints = super::checkpoint::list(&paths.checkpoints())?;
    match (request.resume, paths.manifest().exists(), checkpoints.is_empty()) {
        (true, true, _) => Err(TrainError::AlreadyFinished(request.output.clone())),
        (true, false, true) => Err(TrainError::NothingToResume(request.output.clone())),
        (false, true, _) | (false, _, false) => Err(TrainError::Occupied(request.output.clone())),
        (true, false, false) | (false, false, true) => Ok(()),
    }
}

/// The run file with every path absolute, so that it can be read again from anywhere.
fn absolute(config: &RunConfig, folder: &Path) -> Result<RunConfig, TrainError> {
    let expand = |key: &'static str, text: &str| -> Result<String, TrainError> {
        let path: PathBuf = expand_path(text, folder).map_err(|source| TrainError::Path { key, source })?;
        Ok(std::path::absolute(&path).map_err(TrainError::io(&path))?.display().to_string())
    };
    let mut config = config.clone();
    config.model = expand("model", &config.model)?;
    for task in &mut config.tasks {
        task.train = expand("train", &task.train)?;
        task.validation = expand("validation", &task.validation)?;
    }
    if let Some(path) = &mut config.prefix.architecture {
        *path = expand("prefix.architecture", path)?;
    }
    config.output = None;
    // A run is one trial: what others might be is not part of it.
    config.search.clear();
    Ok(config)
}

/// A cell may be trained at another width than it was found at, if its operations allow it.
fn check_architecture(architecture: &Architecture, width: usize, layers: usize) -> Result<(), TrainError> {
    if let Some(layer) = architecture.layers.iter().flatten().find(|layer| **layer >= layers) {
        return Err(TrainError::Setting {
            key: "prefix.architecture",
            value: format!("a cell with rows on layer {layer}"),
            expected: format!(
                "layers below {layers}, as this model has: take `layers` out of the file to give all of them rows"
            ),
        });
    }
    let heads = architecture.edges.iter().find_map(|edge| match edge.operation {
        Operation::Attention { heads } if !width.is_multiple_of(heads) => Some(heads),
        _ => None,
    });
    match heads {
        Some(heads) => Err(TrainError::Setting {
            key: "prefix.width",
            value: width.to_string(),
            expected: format!("a multiple of {heads}, the heads of the attention in prefix.architecture"),
        }),
        None => Ok(()),
    }
}

/// A tokenizer of another model can give tokens beyond the embedding table.
fn check_vocabulary(tasks: &TaskSet, vocabulary: usize) -> Result<(), TrainError> {
    let examples = tasks.tasks.iter().flat_map(|task| task.train.iter().chain(&task.validation));
    for example in examples {
        let tokens = example.prompt.iter().chain(example.answers.iter().flatten());
        if let Some(token) = tokens.copied().find(|token| *token as usize >= vocabulary) {
            return Err(TrainError::Vocabulary { example: example.id.clone(), token, vocabulary });
        }
    }
    Ok(())
}
