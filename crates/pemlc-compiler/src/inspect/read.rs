//! The file as protobuf messages, once [`super::wire`] has seen that they fit into memory.

use super::{InspectError, wire};
use std::fs::File;
use std::path::Path;
use tract_onnx::Onnx;
use tract_onnx::pb::{GraphProto, ModelProto};
use tract_onnx::prelude::Framework;

/// Protobuf messages are limited to 2 GB; a larger file is no ONNX model.
const MAX_BYTES: u64 = 1 << 31;

/// The model in `path`, and its graph apart.
pub(super) fn read(path: &Path) -> Result<(ModelProto, GraphProto), InspectError> {
    let io_error = |source| InspectError::Io { path: path.to_owned(), source };
    let not_onnx = |reason: String| InspectError::NotOnnx { path: path.to_owned(), reason };
    let metadata = std::fs::metadata(path).map_err(io_error)?;
    if !metadata.is_file() {
        return Err(not_onnx("it is not a file; give the path of the .onnx file".to_owned()));
    }
    if metadata.len() > MAX_BYTES {
        return Err(not_onnx(format!("{} bytes are more than protobuf allows", metadata.len())));
    }
    let bytes = std::fs::read(path).map_err(io_error)?;
    wire::check(&bytes).map_err(|needed| {
        not_onnx(format!(
            "its {} bytes would take more than {needed} in memory, as no real model does: it is made of empty parts",
            bytes.len()
        ))
    })?;
    // The decoder makes a copy of its own.
    drop(bytes);
    let mut file = File::open(path).map_err(io_error)?;
    let decoded = Onnx::default().proto_model_for_read(&mut file);
    let mut model = decoded.map_err(|error| not_onnx(format!("{error:#}")))?;
    let graph = model.graph.take().ok_or_else(|| not_onnx("it holds no graph".to_owned()))?;
    Ok((model, graph))
}

/// The folder that external data is relative to.
pub(super) fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
