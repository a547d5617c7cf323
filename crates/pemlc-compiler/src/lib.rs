//! From a run directory to one ONNX graph with a `task_id` input: a normal form that no longer knows the method, an intermediate
//! representation, passes over it, and the ONNX edge. Protobuf stays at that edge; the trainer is not known here.
#![forbid(unsafe_code)]

mod approximation;
mod base_task;
pub mod deltas;
pub mod diff;
pub mod emit;
mod evaluate;
pub mod export;
pub mod genai;
pub mod inspect;
pub mod interpret;
pub mod ir;
mod linear_algebra;
pub mod lower;
pub mod model_card;
pub mod normal_form;
pub mod outputs;
pub mod passes;
mod private_scale;
pub mod prompt;
pub mod rank_reduction;
pub mod run_source;
pub mod snapshot;
pub mod target;
pub mod trace;

pub use export::{ExportError, ExportOptions, Exported, export};
pub use inspect::{InspectError, inspect};
