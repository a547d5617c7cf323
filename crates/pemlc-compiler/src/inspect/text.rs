//! Any ONNX file as deterministic text: opsets, inputs, outputs, nodes with attributes and shapes, initialisers as
//! `dtype[shape] #hash`.

use super::{InspectError, attributes, initialiser, read, types};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use tract_onnx::pb::{FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto};

/// Which hashes of weights the text has.
#[derive(Debug)]
pub(crate) enum Hashes<'a> {
    /// All.
    Shown,
    /// None: weights are not even read.
    Absent,
    /// All but those of initialisers whose name contains one of these, which are `#(elided)`.
    Without(&'a [String]),
}

/// Where external data lies, and what to do with it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) directory: &'a Path,
    pub(super) hashes: &'a Hashes<'a>,
}

/// The file as text.
pub(crate) fn show(path: &Path, hashes: &Hashes<'_>) -> Result<String, InspectError> {
    let (model, graph) = read::read(path)?;
    let mut text = String::new();
    let context = Context { directory: read::directory(path), hashes };
    header(&mut text, &model);
    for function in &model.functions {
        show_function(&mut text, function, context);
    }
    show_graph(&mut text, &graph, context, "");
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
}

/// A function: nodes that one node of the graph stands for.
fn show_function(text: &mut String, function: &FunctionProto, context: Context<'_>) {
    let names = |names: &[String]| names.iter().map(|text| name(text)).collect::<Vec<_>>().join(", ");
    let domain = function.domain.as_deref().filter(|domain| !domain.is_empty());
    let domain = domain.map(|domain| format!("{}:", name(domain))).unwrap_or_default();
    let label = name(function.name.as_deref().unwrap_or("?"));
    let (inputs, outputs) = (names(&function.input), names(&function.output));
    let attributes =
        if function.attribute.is_empty() { String::new() } else { format!(" {{{}}}", names(&function.attribute)) };
    let _ = writeln!(text, "function {outputs} = {domain}{label}({inputs}){attributes}");
    let _ = writeln!(text, "nodes {}", function.node.len());
    for node in &function.node {
        show_node(text, node, &BTreeMap::new(), context, "");
    }
}

/// A name from the file on one line, whatever is in it: control characters could otherwise write to the terminal.
pub(crate) fn name(text: &str) -> String {
    let escape = |c: char| if matches!(c, '\'' | '"') { c.to_string() } else { c.escape_debug().to_string() };
    text.chars().map(escape).collect()
}

fn show_graph(text: &mut String, graph: &GraphProto, context: Context<'_>, indent: &str) {
    let _ = writeln!(text, "{indent}graph {}", name(&graph.name));
    for (what, values) in [("input", &graph.input), ("output", &graph.output)] {
        for value in values {
            let _ =
                writeln!(text, "{indent}  {what} {}: {}", name(&value.name), types::describe(value.r#type.as_ref()));
        }
    }
    let _ = writeln!(text, "{indent}initialisers {}", graph.initializer.len() + graph.sparse_initializer.len());
    for tensor in &graph.initializer {
        let described = initialiser::describe(tensor, context);
        let _ = writeln!(text, "{indent}  {}: {described}", name(&tensor.name));
    }
    for sparse in &graph.sparse_initializer {
        let label = sparse.values.as_ref().map(|values| name(&values.name)).unwrap_or_default();
        let part = |tensor: &Option<TensorProto>| {
            tensor.as_ref().map_or_else(|| "?".to_owned(), |tensor| initialiser::describe(tensor, context))
        };
        let (values, indices) = (part(&sparse.values), part(&sparse.indices));
        let _ = writeln!(text, "{indent}  {label}: sparse{:?}, values {values}, at {indices}", sparse.dims);
    }
    let infos: BTreeMap<&str, &ValueInfoProto> =
        graph.value_info.iter().chain(&graph.output).map(|info| (info.name.as_str(), info)).collect();
    let _ = writeln!(text, "{indent}nodes {}", graph.node.len());
    for node in &graph.node {
        show_node(text, node, &infos, context, indent);
    }
}

fn show_node(
    text: &mut String,
    node: &NodeProto,
    infos: &BTreeMap<&str, &ValueInfoProto>,
    context: Context<'_>,
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
            None => listed.push(format!("{}={}", name(&attribute.name), attributes::describe(attribute, context))),
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
        show_graph(text, graph, context, &format!("{indent}      "));
    }
}
