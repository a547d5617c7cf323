//! Adapters that were trained elsewhere, as a run directory: Hugging Face PEFT folders in, what training would have left out.
//!
//! Every task becomes private: its deltas are a PEFT folder of ours, its rows one set of the prefix. The probes are this crate's own answers
//! for the adapted model, so that an export is held to an oracle, as it is after training.

mod adaptation;
mod error;
mod prompts;
mod summary;
mod task;
mod texts;

pub use error::ImportError;
pub use summary::TaskSummary;

use crate::adaptation::Adaptation;
use crate::backbone::Backbone;
use crate::config::BaseDtype;
use crate::error::TrainError;
use crate::run::{Base, Sheet, peak_memory};
use burn::tensor::Device;
use pemlc_artifact::Checkpoint;
use pemlc_artifact::atomic::AtomicDir;
use pemlc_artifact::destination::check_destination;
use pemlc_artifact::hash::hash_directory;
use pemlc_artifact::manifest::check_task_names;
use pemlc_artifact::run::{Costs, LoraRecord, RUN_SCHEMA_VERSION, RunManifest, RunPaths, TaskRecord};
use pemlc_data::{Template, Tokenizer};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;
use task::Task;

/// What `method` is in the `run.json` of a run that was imported.
pub const METHOD: &str = "import";

/// What to import.
#[derive(Debug, Clone)]
pub struct ImportRequest {
    /// The base model: a Hugging Face folder or a `.gguf` file.
    pub base: PathBuf,
    /// Tasks, in `task_id` order.
    pub tasks: Vec<ImportTask>,
    /// Texts to probe with, one a line; without, a few that are built in.
    pub probe_texts: Option<PathBuf>,
    /// The run directory to write.
    pub output: PathBuf,
    /// Replace it if it exists.
    pub force: bool,
}

/// A task and its adapters.
#[derive(Debug, Clone)]
pub struct ImportTask {
    /// Name.
    pub name: String,
    /// Folders: at most one of deltas, and one of a prefix or a soft prompt.
    pub folders: Vec<Folder>,
    /// Prompt template, as in a run file; `{text}` gives a request to the model as it is.
    pub template: String,
    /// Possible answers, if they are known.
    pub verbalizers: Vec<String>,
}

/// A PEFT folder.
#[derive(Debug, Clone)]
pub struct Folder {
    /// Where it is.
    pub path: PathBuf,
    /// The task that is meant where it holds several (multitask prompt tuning), from 0.
    pub index: Option<usize>,
}

/// What was imported.
#[derive(Debug, Clone)]
pub struct Imported {
    /// `run.json`.
    pub manifest: RunManifest,
    /// Of each task.
    pub tasks: Vec<TaskSummary>,
    /// What a reader should know, one sentence each.
    pub notes: Vec<String>,
}

/// Writes the run directory. It appears whole or not at all. `progress` gets one line a step.
///
/// # Errors
/// When the base model or an adapter cannot be read or does not fit, when a text has no tokens, or when a file cannot be written.
pub fn import(request: &ImportRequest, progress: &mut dyn FnMut(&str)) -> Result<Imported, ImportError> {
    let started = Instant::now();
    check_task_names(&request.output, request.tasks.iter().map(|task| task.name.as_str())).map_err(TrainError::from)?;
    let folders = request.tasks.iter().flat_map(|task| &task.folders).map(|folder| folder.path.as_path());
    let inputs: Vec<&Path> = folders.chain([request.base.as_path()]).chain(request.probe_texts.as_deref()).collect();
    check_destination(&request.output, request.force, "run.json", &inputs)?;
    for task in &request.tasks {
        Template::parse(&task.template).map_err(|source| ImportError::Template { task: task.name.clone(), source })?;
    }
    let path = std::path::absolute(&request.base).map_err(TrainError::io(&request.base))?;
    let checkpoint = Checkpoint::open(&path).map_err(TrainError::from)?;
    let tokenizer =
        Tokenizer::from_json(&checkpoint.tokenizer_json().map_err(TrainError::from)?).map_err(TrainError::from)?;
    let texts = texts::read(request.probe_texts.as_deref(), &tokenizer, checkpoint.config().vocab_size)?;
    // Every folder is read before anything that takes long: a wrong one should not cost a model's loading.
    let tasks: Vec<Task> =
        request.tasks.iter().map(|task| Task::read(task, checkpoint.config())).collect::<Result<_, _>>()?;
    progress(&format!(
        "{} adapters of {} tasks read and matched",
        tasks.iter().map(Task::adapters).sum::<usize>(),
        tasks.len()
    ));
    let base = Base::of(&checkpoint).map_err(TrainError::from)?;
    let record = base.record(&path.display().to_string(), checkpoint.config());
    let backbone = Backbone::load(&checkpoint, &Device::flex(), BaseDtype::F32).map_err(TrainError::from)?;
    progress(&format!("base model {} loaded", record.name));

    let io = |error| TrainError::io(&request.output)(error);
    let directory = AtomicDir::new(&request.output).map_err(io)?;
    let paths = RunPaths::new(directory.path());
    let adaptations: Vec<Adaptation> = tasks.iter().map(|task| adaptation::of(task, &backbone)).collect();
    for task in &tasks {
        if let Some(lora) = &task.lora {
            let mut lora = lora.clone();
            lora.base_model.clone_from(&record.name);
            lora.write(&paths.task_lora(&task.name), backbone.config()).map_err(TrainError::from)?;
        }
    }
    let prefix = prompts::write(&tasks, &adaptations, &backbone, &paths, &record.name)?;
    if tasks.iter().any(|task| !task.prompt().is_empty()) {
        progress("soft prompts folded into prefix rows");
    }
    probe(&backbone, &adaptations, &texts).write(&paths.probes()).map_err(TrainError::from)?;
    progress("probes answered, in f64");

    base.write_tokenizer(tokenizer.json(), &paths)?;
    let notes = tasks.iter().filter_map(|task| task.note(&record.name)).collect();
    let summaries: Vec<TaskSummary> = tasks.iter().map(Task::summary).collect();
    let files = hash_directory(paths.root(), &|path| path == "run.json").map_err(io)?;
    let manifest = RunManifest {
        schema_version: RUN_SCHEMA_VERSION,
        pemlc_version: env!("CARGO_PKG_VERSION").to_owned(),
        base: record,
        method: METHOD.to_owned(),
        tasks: request.tasks.iter().map(task_record).collect(),
        lora: lora_record(&tasks),
        prefix,
        routing: None,
        seed: 0,
        device: "cpu".to_owned(),
        base_dtype: BaseDtype::F32,
        stages: Vec::new(),
        costs: Costs {
            evaluation_seconds: started.elapsed().as_secs_f64(),
            trainable_parameters: summaries.iter().map(|task| task.parameters).sum(),
            peak_memory_bytes: peak_memory(),
            ..Costs::default()
        },
        files,
    };
    manifest.write(paths.root()).map_err(TrainError::from)?;
    directory.commit(request.force).map_err(io)?;
    Ok(Imported { manifest, tasks: summaries, notes })
}

fn task_record(task: &ImportTask) -> TaskRecord {
    TaskRecord {
        name: task.name.clone(),
        metric: "none".to_owned(),
        train_examples: 0,
        validation_examples: 0,
        base_score: None,
        score: None,
        standard_error: None,
        template: task.template.clone(),
        verbalizers: task.verbalizers.clone(),
        separator: None,
        normalize: None,
    }
}

fn lora_record(tasks: &[Task]) -> Option<LoraRecord> {
    let adapters = || tasks.iter().filter_map(|task| task.lora.as_ref());
    let largest = adapters().max_by_key(|adapter| adapter.ranks().1)?;
    let targets: BTreeSet<_> = adapters().flat_map(|adapter| adapter.targets()).collect();
    Some(LoraRecord {
        rank: largest.ranks().1,
        alpha: largest.alpha,
        targets: targets.into_iter().collect(),
        shared: false,
        per_task: true,
        mixed: true,
    })
}

/// Every task's answers on some of the texts, beside those of the base model.
fn probe(backbone: &Backbone, adaptations: &[Adaptation], texts: &[Vec<u32>]) -> pemlc_artifact::probes::Probes {
    let mut rows: Vec<(usize, &[u32])> = Vec::new();
    for task in 0..adaptations.len() {
        for place in 0..texts::PER_TASK {
            // Different lengths, so that padding is probed too.
            let text = texts.get((task * texts::PER_TASK + place) % texts.len().max(1));
            let text = text.map_or(&[][..], Vec::as_slice);
            rows.push((task, &text[..text.len().min(texts::LENGTH - 3 * place)]));
        }
    }
    let sheet = Sheet::new(&rows);
    let (mut logits, mut base_logits, mut rounding) = (Vec::new(), Vec::new(), Some(Vec::new()));
    for (task, adaptation) in adaptations.iter().enumerate() {
        let rows = task * texts::PER_TASK..(task + 1) * texts::PER_TASK;
        let own = [0; texts::PER_TASK];
        let (exact, of_task) = sheet.answers(backbone, rows.clone(), &own, adaptation);
        logits.extend(exact);
        rounding = rounding.zip(of_task).map(|(all, more)| [all, more].concat());
        base_logits.extend(sheet.logits(backbone, rows, &own, &Adaptation::default()));
    }
    sheet.probes(backbone.config().vocab_size, logits, base_logits, rounding)
}

impl Folder {
    /// A folder, and behind `#` which of its tasks is meant, unless a folder of the whole name exists.
    pub fn parse(text: &str) -> Self {
        let whole = || Self { path: PathBuf::from(text), index: None };
        if Path::new(text).exists() {
            return whole();
        }
        match text.rsplit_once('#').map(|(path, index)| (path, index.parse())) {
            Some((path, Ok(index))) => Self { path: PathBuf::from(path), index: Some(index) },
            _ => whole(),
        }
    }
}
