//! The command line, as clap sees it. Its `--help` texts are snapshots in `tests/help.rs`.

mod export;
mod graph;

pub(crate) use export::{Also, Explain, ExportArguments};
pub(crate) use graph::{DiffArguments, InspectArguments, SnapshotArguments};

use clap::{Args, Parser, Subcommand, ValueEnum};
use pemlc_runtime::{DEFAULT_DRAWN, RuntimeKind};
use pemlc_trainer::device::DeviceChoice;
use std::path::PathBuf;

/// Train one base model for many tasks, and compile it to one ONNX graph with a task_id input.
///
/// The road is: `pemlc train` learns small adapters for the tasks of a run file and leaves a run directory; `pemlc export` compiles
/// that directory and its base model to an artifact directory (model.onnx and companions) and checks it against the trainer's own
/// answers; `pemlc run` asks the artifact.
#[derive(Debug, Parser)]
#[command(
    name = "pemlc",
    version,
    max_term_width = 100,
    after_help = "Exit codes: 0 done, 1 failed (also: a check that does not pass), 2 wrong usage, 130 interrupted."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Train(TrainArguments),
    Import(ImportArguments),
    Export(ExportArguments),
    Check(CheckArguments),
    Evaluate(EvaluateArguments),
    Run(RunArguments),
    Inspect(InspectArguments),
    Diff(DiffArguments),
    Snapshot(SnapshotArguments),
    Tasks(TasksArguments),
    Search(SearchArguments),
    /// List the methods that a run file can name: what they are, what is left of them in the graph, what they train.
    Methods,
    Compare(CompareArguments),
    Report(ReportArguments),
    #[command(hide = true)]
    Schemas(SchemasArguments),
}

/// Train the adapters that a run file describes.
///
/// Reads and validates every task first, so that a bad file stops the run before it costs anything. Writes a run directory: adapters
/// as Hugging Face PEFT folders, the frozen prompt encoder, probes (the trainer's own answers), predictions, metrics, checkpoints and
/// report.html. Ctrl-C saves a checkpoint and prints how to go on; a second Ctrl-C stops at once. After a crash, `--resume` continues
/// from the last checkpoint, and on the CPU ends with bitwise the adapters of an uninterrupted run.
#[derive(Debug, Args)]
pub(crate) struct TrainArguments {
    /// Run file (TOML); docs/run-file.md describes every key
    pub(crate) config: PathBuf,
    /// Run directory to write; overrides the run file's `output`
    #[arg(long, short, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,
    /// Where to train: auto (CUDA when this build and machine have it, else the CPU), cpu, or cuda:N
    #[arg(long, default_value = "auto", value_name = "DEVICE", value_parser = DeviceChoice::parse)]
    pub(crate) device: DeviceChoice,
    /// architecture.json of another run: train its cell from fresh weights, without a search (`prefix.architecture`)
    #[arg(long, value_name = "FILE")]
    pub(crate) architecture: Option<PathBuf>,
    /// Go on from the last checkpoint in the run directory
    #[arg(long)]
    pub(crate) resume: bool,
    #[command(flatten)]
    pub(crate) overrides: Overrides,
}

#[derive(Debug, Args)]
pub(crate) struct Overrides {
    /// Override a key of the run file, for instance `--set training.steps=50` or `--set tasks.0.train_limit=100`
    ///
    /// KEY is dotted and VALUE is TOML; a VALUE that is not valid TOML is taken as a string. May be given several times.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

/// Make a run directory out of adapters that were trained elsewhere: Hugging Face PEFT folders.
///
/// Reads LoRA (also rsLoRA, DoRA, rank and alpha patterns), prefix tuning, prompt tuning, P-tuning and multitask prompt tuning, from
/// adapter_config.json and adapter_model.safetensors. Tasks may differ in everything: kind, rank, targets, length. Soft prompts are folded
/// into prefix rows. Whatever PEFT would use and this cannot, and every tensor that belongs to nothing, is an error that lists it. The run
/// holds probes, this program's own answers in f64, to which `pemlc export` holds the graph.
#[derive(Debug, Args)]
pub(crate) struct ImportArguments {
    /// Run directory to write
    pub(crate) out: PathBuf,
    /// The base model that the adapters belong to: a Hugging Face folder or a .gguf file
    #[arg(long, value_name = "MODEL")]
    pub(crate) base: PathBuf,
    /// A task and a PEFT folder; in the order of task_id
    ///
    /// A task may be given twice: a LoRA folder, and one of a prefix or a soft prompt. DIR#INDEX is task INDEX, from 0, of a multitask prompt.
    #[arg(long, required = true, value_name = "NAME=DIR")]
    pub(crate) task: Vec<String>,
    /// Prompt template of a task, for `pemlc run`: `--template 'sentiment=Review: {text}'` [default: the request as it is]
    #[arg(long, value_name = "NAME=TEXT")]
    pub(crate) template: Vec<String>,
    /// Possible answers of a task, as a JSON list: `--verbalizers 'mood=[" bad"," good"]'`
    #[arg(long, value_name = "NAME=LIST")]
    pub(crate) verbalizers: Vec<String>,
    /// Texts to probe with, one a line, of which the first 24 tokens count [default: a few sentences that are built in]
    #[arg(long, value_name = "FILE")]
    pub(crate) probe_text: Option<PathBuf>,
    /// Replace OUT when it exists and is not empty
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CheckSettings {
    /// Runtimes to check on, separated by commas: ort-cpu, ort-cpu-unoptimized (graph optimisations off), ort-cuda, tract
    ///
    /// Default: all but ort-cuda, as far as they know the artifact's number type
    #[arg(long, value_delimiter = ',', value_name = "RUNTIME")]
    pub(crate) runtime: Vec<RuntimeKind>,
    /// Largest absolute difference of a logit that passes; it grows in proportion where logits exceed 10
    ///
    /// Default: 1e-4 (f16 1e-1), and against the trainer what the number type is allowed (bf16 1) or four times the trainer's own f32
    /// rounding, where that is more
    #[arg(long, value_name = "DIFFERENCE", value_parser = positive)]
    pub(crate) tolerance: Option<f64>,
    /// How far a task's next-token distributions may be from the trainer's: the largest mean total variation (0 to 1) that passes
    ///
    /// Takes the place of the comparison of logits with the trainer's. Default: 0.02 for int8, 0.1 for int4, none for others
    #[arg(long, value_name = "DISTANCE", value_parser = positive)]
    pub(crate) max_distortion: Option<f64>,
    /// Batches of drawn sizes to run on each runtime (batch 1-9, sequence 1-70, past 0-130; tasks, unknown ids and padding mixed), and as
    /// many more as it takes to draw every task
    #[arg(long, default_value_t = DEFAULT_DRAWN, value_name = "CASES")]
    pub(crate) drawn: usize,
    /// Seed of the drawn batches
    #[arg(long, default_value_t = 0, value_name = "SEED")]
    pub(crate) seed: u64,
    /// Run this one of the drawn batches and no other, as a failure names it
    #[arg(long, value_name = "CASE")]
    pub(crate) case: Option<usize>,
}

/// Check an artifact against the trainer's own answers.
///
/// Compares the files with their hashes, then runs the probes on each runtime: prefill, a mixed-task batch against single-task
/// batches, several shapes, cached decoding against a full run, left padding, every task against the base model, and task ids that do
/// not exist. Writes what it found into pemlc.json. Exits with 1 when anything fails. With `--bisect`, says which node is at fault.
#[derive(Debug, Args)]
pub(crate) struct CheckArguments {
    /// Artifact directory
    pub(crate) dir: PathBuf,
    /// Find the first node of model.onnx that one of two runtimes computes wrongly; writes nothing
    ///
    /// Runs the checks on both, and the case in which they differ most once more with the values inside the graph as outputs. Without
    /// names: the first two of `--runtime`; else the one named, or the first that failed, or ort-cpu, against ort-cpu-unoptimized (which is
    /// held against tract or ort-cpu itself). Reading values keeps
    /// optimisations from removing them; a difference that goes away by that is narrowed to the values whose reading removes it.
    #[arg(long, num_args = 0..=1, require_equals = true, value_delimiter = ',', value_name = "A,B", conflicts_with = "run")]
    pub(crate) bisect: Option<Vec<RuntimeKind>>,
    #[command(flatten)]
    pub(crate) check: CheckSettings,
    /// Also rewrite the report page of this run directory, with the table of differences
    #[arg(long, value_name = "RUN")]
    pub(crate) run: Option<PathBuf>,
}

/// Score a run's validation examples through the artifact, and compare with the trainer's predictions.
///
/// Every example that the run scored (all of its validation data, or `evaluation.limit` of them) goes through the runtime; predicted
/// answers and scores are compared with the run's predictions.jsonl. Exits with 1 when any predicted answer differs.
#[derive(Debug, Args)]
pub(crate) struct EvaluateArguments {
    /// Artifact directory
    pub(crate) dir: PathBuf,
    /// Run directory that the artifact was exported from
    #[arg(long, value_name = "RUN")]
    pub(crate) run: PathBuf,
    /// Runtime to score on: ort-cpu, ort-cpu-unoptimized, ort-cuda or tract
    #[arg(long, default_value = "ort-cpu", value_name = "RUNTIME")]
    pub(crate) runtime: RuntimeKind,
    /// Rows scored at once
    #[arg(long, default_value_t = 8, value_name = "ROWS", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) batch_size: u16,
}

/// Answer one request with an artifact.
///
/// The request is put into the task's prompt template. Prints the task's possible answers with their probabilities, the likeliest
/// first, when the task has a fixed set, and the text that the model generates.
#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// Artifact directory
    pub(crate) dir: PathBuf,
    /// Task, by name
    #[arg(long, value_name = "NAME")]
    pub(crate) task: String,
    /// The request: fills the template's field when it has just one
    #[arg(long, value_name = "TEXT", required_unless_present = "field")]
    pub(crate) text: Option<String>,
    /// A field of the template, for instance `--field premise="It rains."`; once for each field
    #[arg(long, value_name = "FIELD=TEXT", conflicts_with_all = ["text", "raw"])]
    pub(crate) field: Vec<String>,
    /// A candidate answer, for tasks whose examples carry their own; once for each candidate
    #[arg(long, value_name = "TEXT")]
    pub(crate) choice: Vec<String>,
    /// Give TEXT to the model as it is, without the template
    #[arg(long)]
    pub(crate) raw: bool,
    /// Generate at most so many tokens. Default: 16, or none where there are answers to choose from
    #[arg(long, value_name = "TOKENS")]
    pub(crate) max_new_tokens: Option<usize>,
    /// Runtime to ask: ort-cpu, ort-cpu-unoptimized, ort-cuda or tract
    #[arg(long, default_value = "ort-cpu", value_name = "RUNTIME")]
    pub(crate) runtime: RuntimeKind,
}

/// Read and validate the tasks of a run file, and show one example of each.
///
/// Does all that `pemlc train` does before training: data files, templates, labels, lengths.
#[derive(Debug, Args)]
pub(crate) struct TasksArguments {
    /// Run file (TOML)
    pub(crate) config: PathBuf,
    #[command(flatten)]
    pub(crate) overrides: Overrides,
}

/// Search for settings of a run file: train trials, keep them in a study, learn from them what to try next.
///
/// What varies is the table `search` of the run file (docs/search.md). A trial's value is the mean score of all tasks on validation data.
/// Settings are drawn by TPE. The study is an SQLite file or a PostgreSQL database that Optuna reads; the same command goes on with it,
/// and several processes may share it: a trial of one that died is given back.
#[derive(Debug, Args)]
pub(crate) struct SearchArguments {
    /// Run file (TOML)
    pub(crate) config: PathBuf,
    /// Trials that the study is to have, those that failed not counted
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) trials: u64,
    /// The study: sqlite:///FILE, FILE or postgresql://USER@HOST:PORT/DATABASE (password: PGPASSWORD)
    #[arg(long, value_name = "URL")]
    pub(crate) study: String,
    /// Name of the study within its file or database
    #[arg(long, default_value = "pemlc", value_name = "NAME")]
    pub(crate) name: String,
    /// Folder for the trials' run directories
    #[arg(long, short, value_name = "DIR")]
    pub(crate) output: PathBuf,
    /// Which trials stop early
    #[arg(long, value_enum, default_value_t = Prune::Asha, value_name = "PRUNER")]
    pub(crate) prune: Prune,
    /// One trial in N goes on from each rung of asha
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u64).range(2..))]
    pub(crate) reduction: u64,
    /// Processes that run trials at the same time
    #[arg(long, default_value_t = 1, value_name = "N", overrides_with = "workers")]
    pub(crate) workers: usize,
    /// Where to train: auto, cpu, or cuda:N
    #[arg(long, default_value = "auto", value_name = "DEVICE", value_parser = DeviceChoice::parse)]
    pub(crate) device: DeviceChoice,
    #[command(flatten)]
    pub(crate) overrides: Overrides,
}

/// Which trials of a search stop early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Prune {
    /// Those that are not among the best at 1/N^2 or 1/N of their steps; those of fewer than N^2 steps never stop
    Asha,
    /// None
    None,
}

/// Compare finished runs of the same tasks.
///
/// Runs that differ in their seed alone are taken together: their scores become a mean and its standard error over seeds. Prints the
/// scores of every task, the trained numbers and the cost relative to plain LoRA; for searches also the scores of the mixture, of the
/// discretised cell and of the tuned or retrained one, and how far the seeds found the same cell.
#[derive(Debug, Args)]
pub(crate) struct CompareArguments {
    /// Run directories
    #[arg(required = true, value_name = "RUN")]
    pub(crate) runs: Vec<PathBuf>,
}

/// Write the report page of a run: one HTML file that needs no network.
#[derive(Debug, Args)]
pub(crate) struct ReportArguments {
    /// Run directory
    pub(crate) run: PathBuf,
    /// Artifact directory whose check to show
    #[arg(long, value_name = "DIR")]
    pub(crate) artifact: Option<PathBuf>,
    /// File to write [default: report.html in the run directory]
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

/// Write the JSON Schemas of everything on disk, one file each.
#[derive(Debug, Args)]
pub(crate) struct SchemasArguments {
    /// Folder to write
    pub(crate) dir: PathBuf,
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value > 0.0 => Ok(value),
        _ => Err("expected a number above 0, for instance 1e-4".to_owned()),
    }
}
