//! `pemlc export`: the whole pipeline, from a run directory to an artifact directory.

use crate::emit::{MODEL_FILE, WriteError};
use crate::ir::{Graph, IrError, verify};
use crate::lower::lower_decoder;
use crate::model_card::model_card;
use crate::outputs::{Extras, companions, lower_extras, write_adapters, write_graphs, write_task_folders};
use crate::passes::{PROMPT_PASSES, Pass, PassError, PipelineOptions, decoder_passes, prompt_passes, run_passes_with};
use crate::prompt::PromptError;
use crate::run_source::{RunSource, SourceError};
use crate::target::common_runtimes;
use crate::trace::{PrintAfter, Trace};
use pemlc_artifact::artifact::{ARTIFACT_SCHEMA_VERSION, ArtifactManifest, GraphRecord};
use pemlc_artifact::atomic::AtomicDir;
use pemlc_artifact::hash::{FileHash, hash_directory};
use pemlc_artifact::manifest::ManifestError;
use pemlc_artifact::run::{BaseDtype, BaseModel};
use pemlc_artifact::{Checkpoint, CheckpointError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What the prompt's graph is called beside those that become files.
const PROMPT: &str = "prompt";

/// Choices of an export.
#[derive(Debug, Clone, Default)]
pub struct ExportOptions {
    /// Replace an existing artifact directory.
    pub force: bool,
    /// What to write beside `model.onnx`.
    pub extras: Extras,
    /// What the passes are told.
    pub pipeline: PipelineOptions,
    /// After which passes to keep graphs as text.
    pub print_after: PrintAfter,
}

/// What an export made.
#[derive(Debug, Clone)]
pub struct Exported {
    /// The artifact's manifest.
    pub manifest: ArtifactManifest,
    /// What the passes did to each graph.
    pub traces: Vec<Trace>,
}

/// Why an export failed. Nothing is left at the output path.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The output path is taken.
    #[error("{0} exists and is not empty: choose another output directory, or replace it with --force")]
    OutputExists(PathBuf),
    /// The run directory cannot be used.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The base model cannot be opened.
    #[error("base model: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// The base model is not the one that was trained.
    #[error("{path} is not the base model of this run: {reason}. Pass the right one with --base")]
    OtherBase {
        /// The model given.
        path: PathBuf,
        /// How it differs.
        reason: String,
    },
    /// The prompt cannot be compiled.
    #[error("{path}: {source}")]
    Prompt {
        /// The file at fault.
        path: PathBuf,
        /// Why.
        source: PromptError,
    },
    /// No pass has the name.
    #[error("no pass is called `{name}`; passes are {known}")]
    UnknownPass {
        /// What was asked for.
        name: String,
        /// The passes, in order.
        known: String,
    },
    /// Adapter files were asked for, and there is nothing to put into them.
    #[error("no task has a delta or prefix of its own, so adapter files would be empty: leave out ort-adapters")]
    NothingToAdapt,
    /// A defect of the compiler: lowering built a graph that does not fit together.
    #[error("lowering: {0}")]
    Lower(#[from] IrError),
    /// A defect of the compiler: a pass failed.
    #[error(transparent)]
    Pass(#[from] PassError),
    /// The model cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// Another file of the artifact cannot be written.
    #[error("cannot write {path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// The manifest cannot be written.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

/// Compiles the run directory `run_dir` into the artifact directory `out`.
///
/// `base` overrides the base model's path; it must hold the same files. `out` appears whole or not at all, with `validated: false`:
/// `check` sets it. `progress` gets one line a step.
pub fn export(
    run_dir: &Path,
    base: Option<&Path>,
    out: &Path,
    options: &ExportOptions,
    progress: &mut dyn FnMut(&str),
) -> Result<Exported, ExportError> {
    let mut clock = Clock { progress, last: Instant::now() };
    refuse_occupied(out, options)?;
    let passes = decoder_passes(&options.pipeline);
    refuse_unknown_passes(&options.print_after, &passes)?;
    let source = RunSource::open(run_dir)?;
    let mut checkpoint = open_base(&source.manifest.base, base)?;
    if source.manifest.base_dtype == BaseDtype::Bf16 {
        // The deltas were trained on rounded weights, so those are the ones to merge them into.
        checkpoint.round_to_bf16();
    }
    clock.done("base model opened and compared with the run's hashes");

    let mut normal_form = source.deltas(&checkpoint)?;
    clock.done("deltas read");
    let mut traces = Vec::new();
    let mut compile = |file: &str, graph: &mut Graph, passes: &[Box<dyn Pass + '_>]| -> Result<(), ExportError> {
        verify(graph)?;
        let mut trace = Trace::new(file);
        run_passes_with(graph, passes, &mut |outcome, graph| trace.add(outcome, graph, &options.print_after))?;
        traces.push(trace);
        Ok(())
    };
    let mut prompt_difference = None;
    if let Some(prompt) = source.prompt(checkpoint.config())? {
        let failed = |source| ExportError::Prompt { path: prompt.path().to_owned(), source };
        let mut graph = prompt.lower(checkpoint.config(), &normal_form).map_err(failed)?;
        if let Some(graph) = &mut graph {
            compile(PROMPT, graph, &prompt_passes(&checkpoint))?;
        }
        let (rows, difference) = prompt.prefix(graph.as_ref(), &checkpoint).map_err(failed)?;
        clock.done(&prompt.compiled(difference));
        (normal_form.prefix, prompt_difference) = (Some(rows), difference);
    }

    let tasks = source.tasks();
    let mut graph = lower_decoder(checkpoint.config(), &normal_form)?;
    compile(MODEL_FILE, &mut graph, &passes)?;
    let mut extras = lower_extras(&options.extras, checkpoint.config(), &normal_form, &tasks)?;
    for extra in &mut extras {
        compile(&extra.record.file, &mut extra.graph, &passes)?;
    }
    let counts = traces.iter().find(|trace| trace.file == MODEL_FILE).map_or(&[][..], |trace| &trace.outcomes);
    let changes: Vec<String> =
        counts.iter().map(|outcome| format!("{} {}", outcome.pass, outcome.changed.len())).collect();
    clock.done(&format!("graph of {} nodes (changes: {})", graph.nodes().len(), changes.join(", ")));

    let io_error = |path: &Path| {
        let path = path.to_owned();
        move |source| ExportError::Io { path, source }
    };
    let directory = AtomicDir::new(out).map_err(io_error(out))?;
    let files =
        write_graphs(&graph, &extras, &checkpoint, (&metadata(&source), options.pipeline.target), directory.path())?;
    if options.extras.ort_adapters {
        write_adapters(&normal_form, &tasks, directory.path())?;
    }
    let bytes: u64 = files.iter().map(|file| file.bytes).sum();
    clock.done(&format!("model written, {:.1} MB", bytes as f64 / 1e6));

    write_companions(&source, &checkpoint, directory.path())?;
    if options.extras.task_folders {
        write_task_folders(&tasks, &checkpoint, directory.path())?;
    }
    let graphs = extras.into_iter().map(|extra| extra.record).collect();
    let manifest = write_manifest(&source, &checkpoint, (files, graphs), options, prompt_difference, directory.path())?;
    directory.commit(options.force).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => ExportError::OutputExists(out.to_owned()),
        _ => ExportError::Io { path: out.to_owned(), source: error },
    })?;
    clock.done("artifact directory in place");
    Ok(Exported { manifest, traces })
}

/// Tells each step with the seconds it took.
struct Clock<'a> {
    progress: &'a mut dyn FnMut(&str),
    last: Instant,
}

impl Clock<'_> {
    fn done(&mut self, step: &str) {
        (self.progress)(&format!("{step} ({:.2} s)", self.last.elapsed().as_secs_f64()));
        self.last = Instant::now();
    }
}

/// Fails early, before any work, when a graph is to be shown after a pass that there is not.
fn refuse_unknown_passes(print_after: &PrintAfter, passes: &[Box<dyn Pass>]) -> Result<(), ExportError> {
    let mut known: Vec<&str> = PROMPT_PASSES.to_vec();
    known.extend(passes.iter().map(|pass| pass.name()).filter(|name| !PROMPT_PASSES.contains(name)));
    match print_after.unknown(&known) {
        Some(name) => Err(ExportError::UnknownPass { name: name.to_owned(), known: known.join(", ") }),
        None => Ok(()),
    }
}

/// Fails early, before any work, when the commit at the end would be refused.
fn refuse_occupied(out: &Path, options: &ExportOptions) -> Result<(), ExportError> {
    let io_error = |source| ExportError::Io { path: out.to_owned(), source };
    match std::fs::read_dir(out) {
        Ok(mut entries) => match entries.next() {
            Some(_) if !options.force => Err(ExportError::OutputExists(out.to_owned())),
            _ => Ok(()),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io_error(error)),
    }
}

/// Opens the base model and compares it, file by file, with what the run recorded.
fn open_base(recorded: &BaseModel, given: Option<&Path>) -> Result<Checkpoint, ExportError> {
    let path = given.map_or_else(|| PathBuf::from(&recorded.path), Path::to_owned);
    let checkpoint = Checkpoint::open(&path)?;
    let differs = |reason: String| ExportError::OtherBase { path: path.clone(), reason };
    if checkpoint.config() != &recorded.config {
        return Err(differs("its configuration is another".to_owned()));
    }
    let found = checkpoint.file_hashes()?;
    for expected in &recorded.files {
        // A model may move or be renamed as a whole; a single file has the name of its model.
        let same_name = |file: &&FileHash| file.path == expected.path || recorded.files.len() == 1;
        match found.iter().find(same_name) {
            Some(file) if file.sha256 == expected.sha256 => {}
            Some(file) => {
                let (path, sha256, expected) = (&file.path, &file.sha256, &expected.sha256);
                return Err(differs(format!("{path} has SHA-256 {sha256}, the run used {expected}")));
            }
            None => return Err(differs(format!("{} is missing", expected.path))),
        }
    }
    Ok(checkpoint)
}

fn metadata(source: &RunSource) -> Vec<(String, String)> {
    let tasks = source.tasks();
    vec![
        ("pemlc.base_model".to_owned(), source.manifest.base.name.clone()),
        ("pemlc.method".to_owned(), source.manifest.method.clone()),
        ("pemlc.tasks".to_owned(), serde_json::json!(tasks).to_string()),
    ]
}

/// Tokenizer and configuration as the Hugging Face and onnxruntime-genai ecosystems name them, the adapters, the probes.
fn write_companions(source: &RunSource, checkpoint: &Checkpoint, directory: &Path) -> Result<(), ExportError> {
    for (name, text) in companions(checkpoint, MODEL_FILE)? {
        let path = directory.join(name);
        std::fs::write(&path, text).map_err(|source| ExportError::Io { path, source })?;
    }
    for name in ["adapters", "probes.safetensors"] {
        let (from, to) = (source.paths().root().join(name), directory.join(name));
        copy(&from, &to).map_err(|source| ExportError::Io { path: to, source })?;
    }
    Ok(())
}

/// Copies a file or a folder; one that is absent is left out.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let kind = match std::fs::symlink_metadata(from) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if kind.is_dir() {
        std::fs::create_dir_all(to)?;
        for entry in std::fs::read_dir(from)? {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
    } else if kind.is_file() {
        std::fs::copy(from, to)?;
    }
    Ok(())
}

/// Writes the model card, then `pemlc.json` with the hashes of all files.
fn write_manifest(
    source: &RunSource,
    checkpoint: &Checkpoint,
    (model_files, graphs): (Vec<FileHash>, Vec<GraphRecord>),
    options: &ExportOptions,
    prompt_difference: Option<f64>,
    directory: &Path,
) -> Result<ArtifactManifest, ExportError> {
    let run = &source.manifest;
    let mut manifest = ArtifactManifest {
        schema_version: ARTIFACT_SCHEMA_VERSION,
        pemlc_version: env!("CARGO_PKG_VERSION").to_owned(),
        base_model: run.base.name.clone(),
        base_licence: run.base.licence.clone(),
        config: checkpoint.config().clone(),
        method: run.method.clone(),
        tasks: run.tasks.clone(),
        opset: options.pipeline.target.opset.number(),
        ir_version: options.pipeline.target.opset.ir_version(),
        dtype: options.pipeline.precision.name().to_owned(),
        runtimes: common_runtimes(&[options.pipeline.precision.runtimes(), options.pipeline.target.runtimes()]),
        tolerance: options.pipeline.precision.tolerance(),
        profile: "causal-lm".to_owned(),
        encoder_difference: prompt_difference,
        graphs,
        validation: None,
        validated: false,
        files: Vec::new(),
    };
    let card = directory.join("README.md");
    std::fs::write(&card, model_card(&manifest)).map_err(|source| ExportError::Io { path: card, source })?;
    // The model's files were hashed while they were written.
    let written = |path: &str| model_files.iter().any(|file| file.path == path);
    let others = hash_directory(directory, &written);
    let others = others.map_err(|source| ExportError::Io { path: directory.to_owned(), source })?;
    manifest.files = others.into_iter().chain(model_files.iter().cloned()).collect();
    manifest.files.sort_by(|left, right| left.path.cmp(&right.path));
    manifest.write(directory)?;
    Ok(manifest)
}
