//! The ONNX edge on the way out: `model.onnx` with one `model.onnx.data` beside it.

mod evaluate;
mod external_data;
mod ort_adapter;
mod protobuf;

pub use evaluate::EvaluateError;
pub use external_data::WriteError;
pub use ort_adapter::ort_adapter;
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
    write_model_as(graph, checkpoint, metadata, &directory.join(MODEL_FILE))
}

/// As [`write_model`], to the file `path`, its weights beside it.
pub(crate) fn write_model_as(
    graph: &Graph,
    checkpoint: &Checkpoint,
    metadata: &[(String, String)],
    path: &Path,
) -> Result<Vec<FileHash>, WriteError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let data_file = if name == MODEL_FILE && path.parent().is_some_and(|parent| parent.ends_with("onnx")) {
        format!("{name}_data")
    } else {
        format!("{name}.data")
    };
    let places = external_data::plan(graph);
    let data = external_data::write(graph, &places, checkpoint, &path.with_file_name(&data_file))?;
    let io_error = |source| WriteError::Io { path: path.to_owned(), source };
    let bytes = protobuf::model(graph, &places, &data_file, metadata).write_to_bytes();
    let bytes = bytes.map_err(|error| io_error(std::io::Error::other(error)))?;
    std::fs::write(path, &bytes).map_err(io_error)?;
    let sha256 = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(vec![FileHash { path: name, sha256, bytes: bytes.len() as u64 }, data])
}
