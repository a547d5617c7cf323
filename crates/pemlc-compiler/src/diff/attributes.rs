//! Attributes and nodes as text to compare.

use super::tokens::Outer;
use super::weights::{changed, weight_type};
use super::{Change, Difference, Sides};
use crate::inspect::model::{AttributeValue, Graph, Node, Storage, Weight};
use crate::inspect::shortened;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// Compares the attributes of two nodes that belong together, named `subject`; graphs inside, which see the values of `outer`, are
/// compared as graphs.
pub(super) fn compare(
    sides: &Sides<'_>,
    difference: &mut Difference,
    (before, after): (&Node, &Node),
    (subject, prefix): (&str, &str),
    outer: Outer<'_>,
) {
    let (one, other) = (by_name(before), by_name(after));
    let names: BTreeSet<&str> = one.keys().chain(other.keys()).copied().collect();
    for name in names {
        let subject = shortened(&format!("{subject}, {name}"));
        match (one.get(name).copied(), other.get(name).copied()) {
            (Some(AttributeValue::Tensor(one)), Some(AttributeValue::Tensor(other))) => {
                changed(sides, difference, one, other, &subject);
            }
            (Some(AttributeValue::Graph(one)), Some(AttributeValue::Graph(other))) => {
                let prefix = shortened(&format!("{prefix}{}/{name}/", after.label()));
                sides.graphs(difference, one, other, &prefix, Some(outer));
            }
            (one, other) => difference.nodes.extend(Change::of(|| subject, one.map(text), other.map(text))),
        }
    }
}

fn by_name(node: &Node) -> BTreeMap<&str, &AttributeValue> {
    node.attributes.iter().map(|attribute| (attribute.name.as_str(), &attribute.value)).collect()
}

/// The node in one line, with all that is in it.
pub(super) fn node_text(node: &Node) -> String {
    let attributes: Vec<String> =
        node.attributes.iter().map(|attribute| format!("{}={}", attribute.name, text(&attribute.value))).collect();
    let attributes = if attributes.is_empty() { String::new() } else { format!(" {{{}}}", attributes.join(", ")) };
    format!("{} = {}({}){attributes}", node.outputs.join(", "), node.full_operator(), node.inputs.join(", "))
}

/// An attribute's value; equal values give equal texts, and only they (but for the values of external tensors).
pub(super) fn text(value: &AttributeValue) -> String {
    let bytes = |bytes: &Vec<u8>| format!("\"{}\"", bytes.escape_ascii());
    match value {
        AttributeValue::Float(value) => format!("{value:?}"),
        AttributeValue::Int(value) => value.to_string(),
        AttributeValue::Text(value) => bytes(value),
        AttributeValue::Tensor(value) => tensor(value),
        AttributeValue::Graph(value) => graph(value),
        AttributeValue::Floats(values) => format!("{values:?}"),
        AttributeValue::Ints(values) => format!("{values:?}"),
        AttributeValue::Texts(values) => format!("[{}]", values.iter().map(bytes).collect::<Vec<_>>().join(", ")),
        AttributeValue::Tensors(values) => format!("[{}]", values.iter().map(tensor).collect::<Vec<_>>().join(", ")),
        AttributeValue::Graphs(values) => format!("[{}]", values.iter().map(graph).collect::<Vec<_>>().join(", ")),
        AttributeValue::Reference(name) => format!("@{name}"),
        AttributeValue::Other(kind) => kind.clone(),
    }
}

fn tensor(weight: &Weight) -> String {
    let described = weight_type(weight);
    match (&weight.storage, weight.small_integers(8)) {
        (_, Some(values)) => format!("{described} = {values:?}"),
        (Storage::Inline(bytes), None) => {
            let hash = Sha256::digest(bytes);
            format!("{described} #{}", hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect::<String>())
        }
        (Storage::External(place), None) => format!("{described} in {}", place.location),
        (Storage::Broken(reason), None) => format!("{described} <{reason}>"),
    }
}

fn graph(graph: &Graph) -> String {
    let weights: Vec<String> =
        graph.weights.iter().map(|weight| format!("{}: {}", weight.name, tensor(weight))).collect();
    let nodes: Vec<String> = graph.nodes.iter().map(node_text).collect();
    let names = |values: &[crate::inspect::model::Value]| {
        values.iter().map(|value| value.name.as_str()).collect::<Vec<_>>().join(", ")
    };
    let all = [weights, nodes].concat();
    format!("graph({}) -> ({}) {{ {} }}", names(&graph.inputs), names(&graph.outputs), all.join("; "))
}
