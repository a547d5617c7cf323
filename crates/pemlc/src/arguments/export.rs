//! Arguments of `pemlc export`.

use super::CheckSettings;
use clap::{Args, ValueEnum};
use pemlc_compiler::passes::{Lowering, Precision, Workload};
use pemlc_compiler::target::{Operators, Opset};
use std::path::PathBuf;

/// Compile a run directory to an artifact directory.
///
/// Folds the shared adapters into the weights (in f32), stacks private ones behind the `task_id` input, freezes the prompt into static
/// key and value rows, and writes model.onnx with its data, the tokenizer, the adapters, the probes and pemlc.json. Then runs `pemlc
/// check` on it; a check that fails exits with 1 and leaves `validated: false` in pemlc.json.
#[derive(Debug, Args)]
pub(crate) struct ExportArguments {
    /// Run directory that `pemlc train` or `pemlc import` wrote
    pub(crate) run: PathBuf,
    /// Artifact directory to write
    pub(crate) out: PathBuf,
    /// The base model, when it is no longer where the run was trained; its hashes must be the same
    #[arg(long, value_name = "PATH")]
    pub(crate) base: Option<PathBuf>,
    /// How tasks' own deltas are computed: by-cost (what is predicted to cost least, for each), gather, masked, appended, shared-basis, or
    /// scalar (one task a batch: rows of another task than the first row's answer NaN)
    #[arg(long, default_value = "by-cost", value_name = "LOWERING", value_parser = lowering)]
    pub(crate) task_switch: Lowering,
    /// What to make the graph fast for, as BATCHxSEQUENCE; several, separated by commas. Default: 8x64, 1x64, 8x1 and 1x1 alike
    #[arg(long, value_delimiter = ',', value_name = "SIZES", value_parser = workload)]
    pub(crate) optimize_for: Vec<Workload>,
    /// Add the frozen base model, without any delta or prefix, as a last task called __base__
    #[arg(long)]
    pub(crate) include_base: bool,
    /// Leave out of tasks' own deltas the ranks and projections that hardly count: at most this share of each task's delta (Frobenius
    /// norm, 0.01 for a hundredth). The check then allows logits to differ from the trainer's by that share of the largest
    #[arg(long, value_name = "SHARE")]
    pub(crate) rank_tolerance: Option<f64>,
    /// Number types: f32; f16 (products and cache, sums and the residual stream stay f32); bf16, int8, int4 (weights stored so, computed in f32)
    #[arg(long, default_value = "f32", value_name = "DTYPE", value_parser = precision)]
    pub(crate) dtype: Precision,
    /// Whose operators the graph may hold: onnx (ONNX's own, for every runtime) or ort (ONNX Runtime's too)
    #[arg(long, default_value = "onnx", value_name = "TARGET", value_parser = operators)]
    pub(crate) target: Operators,
    /// Opset of ONNX's own operators: 18, or 21 to 24. Default: the lowest that has the number type, 18 but for int4 (21 without --target ort)
    #[arg(long, value_name = "OPSET", value_parser = opset)]
    pub(crate) opset: Option<Opset>,
    /// Write more beside model.onnx; several, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', value_name = "WHAT")]
    pub(crate) also: Vec<Also>,
    /// Say what each pass changed and what it declined, and why; `all` writes every line, `some` counts lines that are alike
    #[arg(long, value_enum, num_args = 0..=1, default_missing_value = "some", require_equals = true, value_name = "DETAIL")]
    pub(crate) explain: Option<Explain>,
    /// Print the graph's text after this pass, or after `all`; several, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "PASS")]
    pub(crate) print_after: Vec<String>,
    /// Replace OUT when it exists and is not empty
    #[arg(long)]
    pub(crate) force: bool,
    /// Do not check the artifact: it stays marked as not validated
    #[arg(long, conflicts_with_all = ["runtime", "tolerance", "max_distortion", "drawn", "seed", "case"])]
    pub(crate) no_check: bool,
    #[command(flatten)]
    pub(crate) check: CheckSettings,
}

/// How much `pemlc export --explain` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Explain {
    /// Lines that are alike are counted
    Some,
    /// Every line
    All,
}

/// What `pemlc export` writes beside `model.onnx`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Also {
    /// scorer.onnx: a prompt in, the log-likelihood of each of the task's answers out, in one run without a cache
    Scorer,
    /// task.NAME.onnx for every task: that task merged in, no task_id, the same data file as model.onnx
    PerTask,
    /// tasks/NAME/ for every task: a folder that Optimum, transformers.js and onnxruntime-genai load as it is
    TaskFolders,
    /// adapters.onnx and onnx_adapters/NAME.onnx_adapter, for ONNX Runtime's own adapters
    OrtAdapters,
}

fn lowering(text: &str) -> Result<Lowering, String> {
    let names = Lowering::ALL.map(Lowering::name).join(", ");
    Lowering::ALL.into_iter().find(|lowering| lowering.name() == text).ok_or_else(|| format!("expected one of {names}"))
}

fn workload(text: &str) -> Result<Workload, String> {
    let size = |text: &str| text.parse().ok().filter(|size| *size > 0usize);
    let sizes = text.split_once('x').and_then(|(batch, sequence)| Some((size(batch)?, size(sequence)?)));
    let (batch, sequence) =
        sizes.ok_or("expected BATCHxSEQUENCE, for instance 8x64 to read prompts or 8x1 to write")?;
    Ok(Workload { batch, sequence })
}

fn precision(text: &str) -> Result<Precision, String> {
    let names = Precision::ALL.map(Precision::name).join(", ");
    Precision::ALL
        .into_iter()
        .find(|precision| precision.name() == text)
        .ok_or_else(|| format!("expected one of {names}"))
}

fn operators(text: &str) -> Result<Operators, String> {
    let names = Operators::ALL.map(Operators::name).join(", ");
    Operators::ALL.into_iter().find(|one| one.name() == text).ok_or_else(|| format!("expected one of {names}"))
}

fn opset(text: &str) -> Result<Opset, String> {
    let names = Opset::ALL.map(|opset| opset.to_string()).join(", ");
    Opset::ALL.into_iter().find(|opset| opset.to_string() == text).ok_or_else(|| format!("expected one of {names}"))
}
