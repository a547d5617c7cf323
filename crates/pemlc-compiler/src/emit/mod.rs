//! The ONNX edge on the way out: `model.onnx` with one `model.onnx.data` beside it.

mod external_data;
mod fitted;
mod ort_adapter;
mod protobuf;
mod quantise;
mod round;

pub use crate::evaluate::EvaluateError;
pub use external_data::WriteError;
pub use ort_adapter::ort_adapter;

use crate::ir::Graph;
use crate::target::Target;
use ::protobuf::Message;
use pemlc_artifact::Checkpoint;
use pemlc_artifact::hash::FileHash;
use sha2::{Digest, Sha256};
use std::path::Path;

/// Name of the graph's file.
pub const MODEL_FILE: &str = "model.onnx";
/// Name of the weights' file.
pub const DATA_FILE: &str = "model.onnx.data";

/// Writes graphs, each to its own file name in `directory`, their weights read from `checkpoint` a block at a time into one data file,
/// where equal weights are once. Returns the hashes of the graphs' files in order, then of the data file.
pub fn write_models(
    graphs: &[(&str, &Graph)],
    data_file: &str,
    checkpoint: &Checkpoint,
    (metadata, target): (&[(String, String)], Target),
    directory: &Path,
) -> Result<Vec<FileHash>, WriteError> {
    let plan = external_data::plan(&graphs.iter().map(|(_, graph)| *graph).collect::<Vec<_>>());
    let data = external_data::write(&plan, checkpoint, &directory.join(data_file))?;
    let mut hashes = Vec::with_capacity(graphs.len() + 1);
    for ((name, graph), places) in graphs.iter().zip(&plan.places) {
        let path = directory.join(name);
        let io_error = |source| WriteError::Io { path: path.clone(), source };
        let bytes = protobuf::model(graph, places, data_file, metadata, target).write_to_bytes();
        let bytes = bytes.map_err(|error| io_error(std::io::Error::other(error)))?;
        std::fs::write(&path, &bytes).map_err(io_error)?;
        let sha256 = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        hashes.push(FileHash { path: (*name).to_owned(), sha256, bytes: bytes.len() as u64 });
    }
    hashes.push(data);
    Ok(hashes)
}
