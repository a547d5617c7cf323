//! The ONNX edge on the way out: `model.onnx` with one `model.onnx.data` beside it.

mod evaluate;
mod external_data;
mod protobuf;

pub use evaluate::EvaluateError;
pub use external_data::WriteError;
pub use protobuf::{IR_VERSION, OPSET};

use crate::ir::Graph;
use ::protobuf::Message;
use pemlc_artifact::Checkpoint;
use pemlc_artifact::hash::FileHash;
use sha2::{Digest, Sha256};
use std::path::Path;

/// Name of the graph's file.
pub const MODEL_FILE: &str = "model.onnx";
/// Name of the weights' file.
pub const DATA_FILE: &str = "model.onnx.data";

/// Writes `graph` into `directory`, its weights read from `checkpoint` one at a time. Returns the hashes of both files.
pub fn write_model(
    graph: &Graph,
    checkpoint: &Checkpoint,
    metadata: &[(String, String)],
    directory: &Path,
) -> Result<Vec<FileHash>, WriteError> {
    let places = external_data::plan(graph);
    let data = external_data::write(graph, &places, checkpoint, &directory.join(DATA_FILE))?;
    let path = directory.join(MODEL_FILE);
    let io_error = |source| WriteError::Io { path: path.clone(), source };
    let bytes = protobuf::model(graph, &places, DATA_FILE, metadata).write_to_bytes();
    let bytes = bytes.map_err(|error| io_error(std::io::Error::other(error)))?;
    std::fs::write(&path, &bytes).map_err(io_error)?;
    let sha256 = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(vec![FileHash { path: MODEL_FILE.to_owned(), sha256, bytes: bytes.len() as u64 }, data])
}
