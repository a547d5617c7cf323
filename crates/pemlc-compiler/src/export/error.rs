//! Why an export failed.

use crate::base_task::BaseTaskError;
use crate::emit::WriteError;
use crate::ir::IrError;
use crate::passes::PassError;
use crate::prompt::PromptError;
use crate::run_source::SourceError;
use crate::target::Opset;
use pemlc_artifact::CheckpointError;
use pemlc_artifact::destination::DestinationError;
use pemlc_artifact::manifest::ManifestError;
use std::io;
use std::path::PathBuf;

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
