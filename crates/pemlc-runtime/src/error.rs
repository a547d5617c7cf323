//! Why a graph cannot be opened or run.

use crate::RuntimeKind;
use std::path::PathBuf;

/// Why a graph cannot be opened or run.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// No ONNX Runtime library anywhere.
    #[error(
        "the ONNX Runtime library was not found; looked at:\n{}\nGet it with `cargo xtask setup`, or take \
         onnxruntime/capi/{} out of the PyPI package onnxruntime=={} and set PEMLC_ORT_DYLIB to its path",
        looked.iter().map(|place| format!("  {place}")).collect::<Vec<_>>().join("\n"),
        crate::ORT_LIBRARY,
        crate::ORT_VERSION
    )]
    OrtNotFound {
        /// The places, in the order in which they were tried.
        looked: Vec<String>,
    },
    /// The library exists but cannot be used.
    #[error("ONNX Runtime library {}: {message}", path.display())]
    OrtLibrary {
        /// The library.
        path: PathBuf,
        /// What the loader says.
        message: String,
    },
    /// The execution provider asked for is not there. There is no fallback.
    #[error("{runtime}: {message}; nothing was run in its place")]
    Provider {
        /// The runtime asked for.
        runtime: RuntimeKind,
        /// What is missing.
        message: String,
    },
    /// The runtime refuses the graph.
    #[error("{runtime} cannot load {}: {message}", path.display())]
    Load {
        /// The runtime.
        runtime: RuntimeKind,
        /// The graph.
        path: PathBuf,
        /// What the runtime says.
        message: String,
    },
    /// The graph's inputs or outputs are not those of a task-conditioned decoder.
    #[error("{runtime}: the inputs and outputs of {} are not those of an artifact: {message}", path.display())]
    Interface {
        /// The runtime.
        runtime: RuntimeKind,
        /// The graph.
        path: PathBuf,
        /// Which input or output, what was expected.
        message: String,
    },
    /// The caller's tensors do not fit together.
    #[error("inputs do not fit together: {0}")]
    Inputs(String),
    /// Running failed.
    #[error("{runtime}: running {inputs} failed: {message}")]
    Run {
        /// The runtime.
        runtime: RuntimeKind,
        /// Batch, sequence and past lengths.
        inputs: String,
        /// What the runtime says.
        message: String,
    },
    /// An output has a shape that the inputs do not allow.
    #[error("{runtime}: running {inputs} gave {output} of shape {found:?}, expected {expected:?}{hint}")]
    OutputShape {
        /// The runtime.
        runtime: RuntimeKind,
        /// Batch, sequence and past lengths.
        inputs: String,
        /// The output's name.
        output: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape that the inputs call for.
        expected: Vec<usize>,
        /// What this usually means.
        hint: &'static str,
    },
    /// Logits are NaN or infinite where an answer was needed.
    #[error(
        "{runtime}: the logits of batch row {row}, position {position} are not finite: is task_id {task_id} one of the graph's tasks?"
    )]
    NotFinite {
        /// The runtime.
        runtime: RuntimeKind,
        /// Batch row.
        row: usize,
        /// Position in the sequence.
        position: usize,
        /// The row's task.
        task_id: i64,
    },
}
