//! What is on disk: base-model checkpoints read by reference, the run directory that training leaves, the artifact directory that
//! export leaves, and Hugging Face PEFT adapter folders. Nothing here knows of burn or ONNX.
#![forbid(unsafe_op_in_unsafe_fn)]

pub mod artifact;
pub mod atomic;
pub mod bounded_read;
pub mod checkpoint;
pub mod config;
pub mod destination;
pub mod hash;
pub mod manifest;
pub mod peft;
pub mod probes;
pub mod prompt;
pub mod run;
mod safetensors_header;
pub mod schemas;
pub mod tensors;

pub use checkpoint::{Checkpoint, CheckpointError, StoredType, TensorView};
pub use config::{Family, ModelConfig, Projection};
pub use manifest::{BASE_TASK, ManifestError};
pub use schemas::schemas;
