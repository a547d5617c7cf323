//! Arguments of the commands that look into graphs.

use clap::Args;
use std::path::PathBuf;

/// Print an ONNX graph as deterministic text, or its weights, shapes or cost.
///
/// Without an option: opsets, inputs, outputs, nodes with attributes and shapes, and initialisers as dtype, shape and a short hash. Two
/// graphs that print the same text compute the same. Works on any ONNX file; docs/inspect.md explains the tables.
#[derive(Debug, Args)]
pub(crate) struct InspectArguments {
    /// An .onnx file, or an artifact directory
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) show: InspectTable,
    /// Rows of the run whose cost is counted
    #[arg(long, default_value_t = 8, value_name = "ROWS", requires = "cost")]
    pub(crate) batch: u64,
    /// New tokens of each row
    #[arg(long, default_value_t = 64, value_name = "TOKENS", requires = "cost")]
    pub(crate) sequence: u64,
    /// Tokens of each row that are in the cache
    #[arg(long, default_value_t = 0, value_name = "TOKENS", requires = "cost")]
    pub(crate) past: u64,
    /// Size of another symbolic dimension, for instance `--dim num_images=1`; may be given several times
    #[arg(long, value_name = "SYMBOL=SIZE", value_parser = dimension, requires = "cost")]
    pub(crate) dim: Vec<(String, u64)>,
    /// Print a table as JSON
    #[arg(long, requires = "table")]
    pub(crate) json: bool,
}

/// What to show in place of the graph.
#[derive(Debug, Args)]
#[group(id = "table", multiple = false)]
pub(crate) struct InspectTable {
    /// Show the initialisers: where they are, how their values are spread, hashes
    #[arg(long)]
    pub(crate) weights: bool,
    /// Show every value with its type, in execution order
    #[arg(long)]
    pub(crate) shapes: bool,
    /// Count multiply-adds, operations and bytes by class, operator and layer
    #[arg(long)]
    pub(crate) cost: bool,
}

/// Compare two graphs: structure first, then weight by weight.
///
/// Nodes are matched by name, then by output, then by structure, so that a renamed node is told as renamed. Weights of different number
/// types are compared as numbers. The order of nodes is no difference. Exits with 0 when the graphs are equal, with 1 when they differ
/// or cannot be read.
#[derive(Debug, Args)]
pub(crate) struct DiffArguments {
    /// An .onnx file, or an artifact directory
    #[arg(value_name = "A")]
    pub(crate) before: PathBuf,
    /// The other
    #[arg(value_name = "B")]
    pub(crate) after: PathBuf,
    /// Do not compare the values of weights; their types and shapes still count
    #[arg(long)]
    pub(crate) ignore_weights: bool,
    /// Weights that differ by no more than this are equal
    #[arg(long, default_value_t = 0.0, value_name = "DIFFERENCE", value_parser = not_negative, conflicts_with = "ignore_weights")]
    pub(crate) tolerance: f64,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Keep the text of a graph under version control, and fail when the graph changes.
///
/// The text is that of `pemlc inspect` without the hashes of weights, so that training again does not change it, after the tasks and
/// facts of pemlc.json that clients rely on. `--check` prints a unified diff and exits with 1 when the graph is not as accepted.
#[derive(Debug, Args)]
#[command(
    group(clap::ArgGroup::new("action").required(true).args(["check", "accept"])),
    // Behind the folder: FILE may be left out, and would be taken for it.
    override_usage = "pemlc snapshot [OPTIONS] <DIR> <--check [<FILE>]|--accept [<FILE>]>"
)]
pub(crate) struct SnapshotArguments {
    /// Artifact directory, or an .onnx file
    pub(crate) dir: PathBuf,
    /// Compare with the snapshot in FILE (graph.snap when none is named)
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "graph.snap")]
    pub(crate) check: Option<PathBuf>,
    /// Write the snapshot to FILE (graph.snap when none is named)
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "graph.snap")]
    pub(crate) accept: Option<PathBuf>,
    /// Keep hashes of weights too
    #[arg(long)]
    pub(crate) weights: bool,
    /// Keep no hash of weights whose name contains TEXT, as of tables that differ between machines; may be given several times
    #[arg(long, value_name = "TEXT", requires = "weights")]
    pub(crate) elide: Vec<String>,
}

fn not_negative(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(value),
        _ => Err("expected a number of at least 0, for instance 1e-6".to_owned()),
    }
}

fn dimension(text: &str) -> Result<(String, u64), String> {
    let parts = text.rsplit_once('=').and_then(|(symbol, size)| Some((symbol.to_owned(), size.parse().ok()?)));
    parts
        .filter(|(symbol, _)| !symbol.is_empty())
        .ok_or_else(|| "expected SYMBOL=SIZE, for instance num_images=1".to_owned())
}
