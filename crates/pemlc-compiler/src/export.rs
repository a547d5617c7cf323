//! `pemlc export`: the whole pipeline, from a run directory to an artifact directory.

use crate::approximation::{approximation, share_tolerance};
use crate::base_task::{BaseTaskError, add_base_task, base_task_record};
use crate::emit::{MODEL_FILE, WriteError};
use crate::ir::{Graph, IrError, verify};
use crate::lower::{lower_decoder, lower_uniform_decoder};
use crate::model_card::model_card;
use crate::outputs::{Extras, companions, lower_extras, write_adapters, write_graphs, write_task_folders};
use crate::passes::{PROMPT_PASSES, Pass, PassError, PipelineOptions, decoder_passes, prompt_passes, run_passes_with};
use crate::prompt::PromptError;
use crate::rank_reduction::{RankReduction, reduce_ranks};
use crate::run_source::{Found, RunSource, SourceError};
use crate::target::{Opset, common_runtimes};
use crate::trace::{PrintAfter, Trace};
use pemlc_artifact::artifact::{ARTIFACT_SCHEMA_VERSION, Approximation, ArtifactManifest, GraphRecord};
use pemlc_artifact::atomic::AtomicDir;
use pemlc_artifact::destination::{DestinationError, check_destination};
use pemlc_artifact::hash::{FileHash, hash_directory};
use pemlc_artifact::manifest::ManifestError;
use pemlc_artifact::probes::Probes;
use pemlc_artifact::run::{BaseDtype, BaseModel, TaskRecord};
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
    /// Add the frozen base model as the last task.
    pub include_base: bool,
    /// Leave out of tasks' own deltas what hardly counts: an upper bound of the relative Frobenius error of each task's. Between 0 and 1.
    pub rank_tolerance: Option<f64>,
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
    /// What was left out of tasks' own deltas, where that was asked for.
    pub reduction: Option<RankReduction>,
}

/// Why an export failed. Nothing is left at the output path.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The output path is taken.
    #[error(transparent)]
    Output(#[from] DestinationError),
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
    /// The base model cannot be a task.
    #[error(transparent)]
    BaseTask(#[from] BaseTaskError),
    /// A tolerance that is none.
    #[error(
        "--rank-tolerance {0} is not between 0 and 1: it is the share of a task's delta that may be left out, 0.01 for a hundredth"
    )]
    RankTolerance(f64),
    /// No pass has the name.
    #[error("no pass is called `{name}`; passes are {known}")]
    UnknownPass {
        /// What was asked for.
        name: String,
        /// The passes, in order.
        known: String,
    },
    /// The number type came with a later opset.
    #[error("--dtype {dtype} needs opset {lowest}, {given} was asked for: leave out --opset, or use --target ort")]
    Opset {
        /// The number type.
        dtype: &'static str,
        /// The first opset that has it.
        lowest: Opset,
        /// The opset asked for.
        given: Opset,
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
    let free = |inputs: &[&Path]| check_destination(out, options.force, "pemlc.json", inputs);
    free(&[run_dir])?;
    let (precision, target) = (options.pipeline.precision, options.pipeline.target);
    let lowest = precision.lowest_opset(target.operators);
    if target.opset < lowest {
        return Err(ExportError::Opset { dtype: precision.name(), lowest, given: target.opset });
    }
    if let Some(tolerance) = options.rank_tolerance.filter(|tolerance| !(0.0..1.0).contains(tolerance)) {
        return Err(ExportError::RankTolerance(tolerance));
    }
    let (pipeline, rank_tolerance) = share_tolerance(options);
    let passes = decoder_passes(&pipeline);
    refuse_unknown_passes(&options.print_after, &passes)?;
    let source = RunSource::open(run_dir)?;
    free(&[base.unwrap_or(Path::new(&source.manifest.base.path))])?;
    let mut checkpoint = open_base(&source.manifest.base, base)?;
    if source.manifest.base_dtype == BaseDtype::Bf16 {
        // The deltas were trained on rounded weights, so those are the ones to merge them into.
        checkpoint.round_to_bf16();
    }
    clock.done("base model opened and compared with the run's hashes");

    let Found { mut normal_form, base_factors } = source.deltas(&checkpoint, options.include_base)?;
    clock.done("deltas read");
    let mut records = source.manifest.tasks.clone();
    records.extend(options.include_base.then(base_task_record));
    let tasks: Vec<&str> = records.iter().map(|task| task.name.as_str()).collect();
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
    // After the prompt, which ran through the whole deltas, and before the base model's, which takes off all of what is left.
    let reduction = rank_tolerance.map(|tolerance| reduce_ranks(&mut normal_form, tolerance));
    if options.include_base {
        add_base_task(&mut normal_form, &base_factors)?;
    }

    let uniform = options.pipeline.switch.is_uniform();
    let lower = if uniform { lower_uniform_decoder } else { lower_decoder };
    let mut graph = lower(checkpoint.config(), &normal_form)?;
    compile(MODEL_FILE, &mut graph, &passes)?;
    let mut extras = lower_extras(&options.extras, checkpoint.config(), (&normal_form, uniform), &tasks)?;
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
    // The graphs hold what they need of it; the rest would stay in memory while weights are written.
    let normal_form = options.extras.ort_adapters.then_some(normal_form);
    let directory = AtomicDir::new(out).map_err(io_error(out))?;
    let files =
        write_graphs(&graph, &extras, &checkpoint, (&metadata(&source, &tasks), pipeline.target), directory.path())?;
    if let Some(normal_form) = normal_form {
        write_adapters(&normal_form, &tasks, directory.path())?;
    }
    let bytes: u64 = files.iter().map(|file| file.bytes).sum();
    clock.done(&format!("model written, {:.1} MB", bytes as f64 / 1e6));

    write_companions(&source, &checkpoint, options.include_base, directory.path())?;
    if options.extras.task_folders {
        write_task_folders(&tasks, &checkpoint, directory.path())?;
    }
    let graphs = extras.into_iter().map(|extra| extra.record).collect();
    let approximation = options.rank_tolerance.zip(reduction.as_ref()).map(|(tolerance, reduction)| {
        approximation(tolerance, reduction, &tasks, pipeline.precision.tolerance().unwrap_or_default())
    });
    let facts = Facts { records: records.clone(), approximation, prompt_difference };
    let manifest = write_manifest(&source, &checkpoint, (files, graphs), &pipeline, facts, directory.path())?;
    directory.commit(options.force).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => DestinationError::NotEmpty(out.to_owned()).into(),
        _ => ExportError::Io { path: out.to_owned(), source: error },
    })?;
    clock.done("artifact directory in place");
    Ok(Exported { manifest, traces, reduction })
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

fn metadata(source: &RunSource, tasks: &[&str]) -> Vec<(String, String)> {
    vec![
        ("pemlc.base_model".to_owned(), source.manifest.base.name.clone()),
        ("pemlc.method".to_owned(), source.manifest.method.clone()),
        ("pemlc.tasks".to_owned(), serde_json::json!(tasks).to_string()),
    ]
}

/// Tokenizer and configuration as the Hugging Face and onnxruntime-genai ecosystems name them, the adapters, the probes.
fn write_companions(
    source: &RunSource,
    checkpoint: &Checkpoint,
    include_base: bool,
    directory: &Path,
) -> Result<(), ExportError> {
    for (name, text) in companions(checkpoint, MODEL_FILE)? {
        let path = directory.join(name);
        std::fs::write(&path, text).map_err(|source| ExportError::Io { path, source })?;
    }
    for name in ["adapters", "probes.safetensors"] {
        let (from, to) = (source.paths().root().join(name), directory.join(name));
        copy(&from, &to).map_err(|source| ExportError::Io { path: to, source })?;
    }
    if include_base && source.paths().probes().exists() {
        let base = i64::try_from(source.manifest.tasks.len()).unwrap_or(i64::MAX);
        let probes = Probes::read(&source.paths().probes()).map_err(SourceError::from)?;
        probes.with_base_task(base).write(&directory.join("probes.safetensors")).map_err(SourceError::from)?;
    }
    Ok(())
}

/// Copies a file or a folder, and what links point to; one that is absent is left out.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let kind = match std::fs::metadata(from) {
        Ok(metadata) => metadata.file_type(),
        // A link that leads nowhere is not an absent file.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !from.is_symlink() => return Ok(()),
        Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", from.display()))),
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

/// What an export found out for the manifest.
struct Facts {
    /// The task table.
    records: Vec<TaskRecord>,
    approximation: Option<Approximation>,
    prompt_difference: Option<f64>,
}

/// Writes the model card, then `pemlc.json` with the hashes of all files.
fn write_manifest(
    source: &RunSource,
    checkpoint: &Checkpoint,
    (model_files, graphs): (Vec<FileHash>, Vec<GraphRecord>),
    pipeline: &PipelineOptions,
    facts: Facts,
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
        tasks: facts.records,
        one_task_per_batch: pipeline.switch.is_uniform(),
        approximation: facts.approximation,
        opset: pipeline.target.opset.number(),
        ir_version: pipeline.target.opset.ir_version(),
        dtype: pipeline.precision.name().to_owned(),
        runtimes: common_runtimes(&[pipeline.precision.runtimes(), pipeline.target.runtimes()]),
        tolerance: pipeline.precision.tolerance(),
        max_distortion: pipeline.precision.distortion_bound(),
        profile: "causal-lm".to_owned(),
        encoder_difference: facts.prompt_difference,
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
