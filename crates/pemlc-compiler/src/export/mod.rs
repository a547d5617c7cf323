//! `pemlc export`: the whole pipeline, from a run directory to an artifact directory.

mod base_model;
mod error;
mod files;

pub use error::ExportError;

use crate::approximation::{approximation, share_tolerance};
use crate::base_task::{add_base_task, base_task_record};
use crate::emit::MODEL_FILE;
use crate::ir::{Graph, verify};
use crate::lower::{lower_decoder, lower_uniform_decoder};
use crate::outputs::{Extras, lower_extras, write_adapters, write_graphs, write_task_folders};
use crate::passes::{PROMPT_PASSES, Pass, PipelineOptions, decoder_passes, prompt_passes, run_passes_with};
use crate::rank_reduction::{RankReduction, reduce_ranks};
use crate::run_source::{Found, RunSource};
use crate::trace::{PrintAfter, Trace};
use base_model::open_base;
use files::{Facts, metadata, write_companions, write_manifest};
use pemlc_artifact::artifact::ArtifactManifest;
use pemlc_artifact::atomic::AtomicDir;
use pemlc_artifact::destination::{DestinationError, check_destination};
use pemlc_artifact::run::BaseDtype;
use std::io;
use std::path::Path;
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
