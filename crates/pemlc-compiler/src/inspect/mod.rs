//! What is in an ONNX file, whoever wrote it: its text ([`inspect()`]), its weights ([`weights`]), its shapes ([`shapes`]) and what it
//! costs to run ([`cost`]). Reads with tract's protobuf types; trusts no number in the file.
//!
//! Protobuf types stay in this folder: `text` shows them as they are, everything else works on `model::Model`.

mod attributes;
mod columns;
pub mod cost;
mod elements;
mod initialiser;
pub(crate) mod model;
pub(crate) mod number;
mod read;
pub mod shapes;
mod text;
mod types;
pub mod weights;
mod wire;

pub(crate) use elements::Chunks;
pub(crate) use text::{Hashes, name, show};

use std::path::{Path, PathBuf};

/// Why a file cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        source: std::io::Error,
    },
    /// The file is not an ONNX model.
    #[error("{path} is not an ONNX model: {reason}")]
    NotOnnx {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The directory holds no graph, or several.
    #[error("{path} holds no model.onnx{found}: give the path of the .onnx file")]
    NoGraph {
        /// The directory.
        path: PathBuf,
        /// What else is there, in words.
        found: String,
    },
}

/// The ONNX file `path` as text. Weights in external files beside it are hashed too; one that cannot be read is shown as such.
pub fn inspect(path: &Path) -> Result<String, InspectError> {
    show(path, &Hashes::Shown)
}

/// The ONNX file that `path` means: itself, or the graph of an artifact directory: `model.onnx`, or else its only `.onnx` file.
pub fn graph_file(path: &Path) -> Result<PathBuf, InspectError> {
    if !path.is_dir() || path.join("model.onnx").is_file() {
        return Ok(if path.is_dir() { path.join("model.onnx") } else { path.to_owned() });
    }
    let io_error = |source| InspectError::Io { path: path.to_owned(), source };
    let mut graphs = Vec::new();
    for entry in std::fs::read_dir(path).map_err(io_error)? {
        let file = entry.map_err(io_error)?.path();
        if file.extension().is_some_and(|extension| extension == "onnx") && file.is_file() {
            graphs.push(file);
        }
    }
    graphs.sort();
    match graphs.as_slice() {
        [graph] => Ok(graph.clone()),
        _ => {
            let names = graphs.iter().filter_map(|graph| graph.file_name()).map(|name| name.to_string_lossy());
            let names: Vec<String> = names.map(|file| name(&file)).collect();
            let found = if names.is_empty() { String::new() } else { format!(" but {}", names.join(", ")) };
            Err(InspectError::NoGraph { path: path.to_owned(), found })
        }
    }
}

/// A declared type as the texts show it.
pub(crate) fn shape_text(declared: Option<&model::TensorType>) -> String {
    use model::Dimension;
    let Some(declared) = declared else { return "?".to_owned() };
    let Some(shape) = &declared.shape else { return format!("{}[?]", declared.dtype) };
    let dimension = |dimension: &Dimension| match dimension {
        Dimension::Fixed(size) => size.to_string(),
        Dimension::Symbol(symbol) => symbol.to_string(),
        Dimension::Unknown => "?".to_owned(),
    };
    let dims: Vec<String> = shape.iter().take(MAX_DIMS).map(dimension).collect();
    let more = if shape.len() > MAX_DIMS { format!(", ... {} in all", shape.len()) } else { String::new() };
    format!("{}[{}{more}]", declared.dtype, shortened(&dims.join(", ")))
}

/// Longer shapes are cut.
const MAX_DIMS: usize = 64;
/// Longer names are cut where they would be repeated: a small file must not make a large text.
const MAX_REPEATED: usize = 512;

/// The beginning of `text`, with a sign that it was longer.
pub(crate) fn shortened(text: &str) -> String {
    match text.floor_char_boundary(MAX_REPEATED) {
        end if end < text.len() => format!("{}...", &text[..end]),
        _ => text.to_owned(),
    }
}
