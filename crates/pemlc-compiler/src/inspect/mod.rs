//! Any ONNX file as deterministic text: opsets, inputs, outputs, nodes with attributes and shapes, initialisers as
//! `dtype[shape] #hash`. Reads with tract's protobuf types, whose decoder bounds nesting; trusts no number in the file.

mod attributes;
mod initialiser;
mod types;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, ValueInfoProto};
use tract_onnx::prelude::Framework;

/// Protobuf messages are limited to 2 GB; a larger file is no ONNX model.
const MAX_BYTES: u64 = 1 << 31;

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
}

/// The ONNX file `path` as text. Weights in external files beside it are hashed too; one that cannot be read is shown as such.
pub fn inspect(path: &Path) -> Result<String, InspectError> {
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
    let model = tract_onnx::onnx()
        .proto_model_for_read(&mut bytes.as_slice())
        .map_err(|error| not_onnx(format!("{:#}", error)))?;
    let graph = model.graph.as_ref().ok_or_else(|| not_onnx("it holds no graph".to_owned()))?;
    let mut text = String::new();
    header(&mut text, &model);
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    show_graph(&mut text, graph, directory, "");
    Ok(text)
}

fn header(text: &mut String, model: &ModelProto) {
    let _ = writeln!(text, "ir_version {}", model.ir_version);
    for opset in &model.opset_import {
        let domain = if opset.domain.is_empty() { "ai.onnx".to_owned() } else { name(&opset.domain) };
        let _ = writeln!(text, "opset {domain} {}", opset.version);
    }
    let mut metadata: Vec<(&str, &str)> =
        model.metadata_props.iter().map(|entry| (entry.key.as_str(), entry.value.as_str())).collect();
    metadata.sort_unstable();
    for (key, value) in metadata {
        let _ = writeln!(text, "metadata {} = {}", name(key), name(value));
    }
    for function in &model.functions {
        let label = name(function.name.as_deref().unwrap_or("?"));
        let _ = writeln!(text, "function {label} ({} nodes)", function.node.len());
    }
}

/// A name from the file on one line, whatever is in it: control characters could otherwise write to the terminal.
fn name(text: &str) -> String {
    let escape = |c: char| if matches!(c, '\'' | '"') { c.to_string() } else { c.escape_debug().to_string() };
    text.chars().map(escape).collect()
}

fn show_graph(text: &mut String, graph: &GraphProto, directory: &Path, indent: &str) {
    let _ = writeln!(text, "{indent}graph {}", name(&graph.name));
    for (what, values) in [("input", &graph.input), ("output", &graph.output)] {
        for value in values {
            let _ =
                writeln!(text, "{indent}  {what} {}: {}", name(&value.name), types::describe(value.r#type.as_ref()));
        }
    }
    let _ = writeln!(text, "{indent}initialisers {}", graph.initializer.len() + graph.sparse_initializer.len());
    for tensor in &graph.initializer {
        let described = initialiser::describe(tensor, directory);
        let _ = writeln!(text, "{indent}  {}: {described}", name(&tensor.name));
    }
    for sparse in &graph.sparse_initializer {
        let label = sparse.values.as_ref().map(|values| name(&values.name)).unwrap_or_default();
        let _ = writeln!(text, "{indent}  {label}: sparse{:?}", sparse.dims);
    }
    let infos: BTreeMap<&str, &ValueInfoProto> =
        graph.value_info.iter().chain(&graph.output).map(|info| (info.name.as_str(), info)).collect();
    let _ = writeln!(text, "{indent}nodes {}", graph.node.len());
    for node in &graph.node {
        show_node(text, node, &infos, directory, indent);
    }
}

fn show_node(
    text: &mut String,
    node: &NodeProto,
    infos: &BTreeMap<&str, &ValueInfoProto>,
    directory: &Path,
    indent: &str,
) {
    let outputs: Vec<String> = node
        .output
        .iter()
        .map(|output| match infos.get(output.as_str()) {
            Some(info) => format!("{}: {}", name(output), types::describe(info.r#type.as_ref())),
            None => name(output),
        })
        .collect();
    let inputs: Vec<String> = node.input.iter().map(|input| name(input)).collect();
    let mut listed = Vec::new();
    let mut graphs = Vec::new();
    for attribute in &node.attribute {
        match &attribute.g {
            Some(graph) => graphs.push((&attribute.name, graph)),
            None => listed.push(format!("{}={}", name(&attribute.name), attributes::describe(attribute, directory))),
        }
    }
    let listed = if listed.is_empty() { String::new() } else { format!(" {{{}}}", listed.join(", ")) };
    let domain = if node.domain.is_empty() { String::new() } else { format!("{}:", name(&node.domain)) };
    let _ = writeln!(
        text,
        "{indent}  {} = {domain}{}({}){listed}",
        outputs.join(", "),
        name(&node.op_type),
        inputs.join(", ")
    );
    for (attribute, graph) in graphs {
        let _ = writeln!(text, "{indent}    {}:", name(attribute));
        show_graph(text, graph, directory, &format!("{indent}      "));
    }
}
