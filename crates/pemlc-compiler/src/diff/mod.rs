//! Two graphs compared, structure first and then weight by weight, without either in memory twice or any external tensor in memory at
//! all.
//!
//! Nodes are matched by name, then by output, then by structure: the same operator on the same values is the same node under another
//! name. The order of nodes is no difference, nor is documentation, nor who produced the file.

mod attributes;
mod nodes;
mod text;
mod tokens;
mod values;
mod weights;

use crate::inspect::model::{Graph, Model, Value};
use crate::inspect::{InspectError, graph_file, shape_text};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use tokens::Outer;

pub use values::ValueDifference;

/// What counts as a difference.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Leave the values of weights alone; types and shapes still count.
    pub ignore_weights: bool,
    /// Values that differ by no more than this are equal.
    pub tolerance: f64,
}

/// All differences of two graphs.
#[derive(Debug, Default, Serialize)]
pub struct Difference {
    /// Whether there is none: renamed nodes and weights count as one.
    pub equal: bool,
    /// IR version, opsets, metadata, functions.
    pub model: Vec<Change>,
    /// Inputs and outputs.
    pub interface: Vec<Change>,
    /// Nodes, those in graphs inside nodes too.
    pub nodes: Vec<Change>,
    /// Initialisers and the tensors of nodes.
    pub weights: Vec<Change>,
    /// How many nodes and weights are the same.
    pub same: Same,
}

/// What did not change.
#[derive(Debug, Default, Serialize)]
pub struct Same {
    /// Nodes.
    pub nodes: usize,
    /// Initialisers.
    pub weights: usize,
    /// Initialisers whose values differ within the tolerance.
    pub within_tolerance: usize,
}

/// One difference.
#[derive(Debug, Serialize)]
pub struct Change {
    /// What it is about, for instance `node layers.0.norm`.
    pub subject: String,
    /// What happened to it.
    pub kind: ChangeKind,
    /// How it was, where it was.
    pub before: Option<String>,
    /// How it is, where it is.
    pub after: Option<String>,
    /// How far values are apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub values: Option<ValueDifference>,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// It is only in the second.
    Added,
    /// It is only in the first.
    Removed,
    /// It is in both, in another way.
    Changed,
    /// It is in both, under another name.
    Renamed,
}

impl Change {
    fn new(subject: String, kind: ChangeKind, before: Option<String>, after: Option<String>) -> Self {
        Self { subject, kind, before, after, values: None }
    }

    /// A change of a text, if there is one.
    fn of(subject: impl FnOnce() -> String, before: Option<String>, after: Option<String>) -> Option<Self> {
        let kind = match (&before, &after) {
            (Some(before), Some(after)) if before == after => return None,
            (None, None) => return None,
            (Some(_), Some(_)) => ChangeKind::Changed,
            (None, Some(_)) => ChangeKind::Added,
            (Some(_), None) => ChangeKind::Removed,
        };
        Some(Self::new(subject(), kind, before, after))
    }
}

/// Compares `before` with `after`, each an `.onnx` file or an artifact directory.
pub fn diff(before: &Path, after: &Path, options: &Options) -> Result<Difference, InspectError> {
    let before = Model::read(&graph_file(before)?)?;
    let after = Model::read(&graph_file(after)?)?;
    let mut difference = Difference::default();
    let number = |value: i64| Some(value.to_string());
    difference.model.extend(Change::of(|| "ir_version".into(), number(before.ir_version), number(after.ir_version)));
    let opsets =
        |model: &Model| model.opsets.iter().map(|(name, version)| (name.clone(), version.to_string())).collect();
    maps(&mut difference.model, "opset", &opsets(&before), &opsets(&after));
    maps(&mut difference.model, "metadata", &before.metadata, &after.metadata);
    maps(&mut difference.model, "function", &functions(&before), &functions(&after));
    let sides = Sides { before: &before, after: &after, options };
    sides.graphs(&mut difference, &before.graph, &after.graph, "", None);
    difference.equal = [&difference.model, &difference.interface, &difference.nodes, &difference.weights]
        .iter()
        .all(|changes| changes.is_empty());
    Ok(difference)
}

/// Functions by name, with all that is in them as text.
fn functions(model: &Model) -> BTreeMap<String, String> {
    let text = |function: &crate::inspect::model::Function| {
        let nodes: Vec<String> = function.nodes.iter().map(attributes::node_text).collect();
        format!("({}) -> ({}): {}", function.inputs.join(", "), function.outputs.join(", "), nodes.join("; "))
    };
    model.functions.iter().map(|function| (format!("{}:{}", function.domain, function.name), text(function))).collect()
}

fn maps(changes: &mut Vec<Change>, what: &str, before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) {
    let added = after.keys().filter(|key| !before.contains_key(*key));
    for key in before.keys().chain(added) {
        changes.extend(Change::of(|| format!("{what} {key}"), before.get(key).cloned(), after.get(key).cloned()));
    }
}

/// Both models, for what is not in the graphs at hand.
#[derive(Clone, Copy)]
struct Sides<'a> {
    before: &'a Model,
    after: &'a Model,
    options: &'a Options,
}

impl Sides<'_> {
    /// Compares two graphs; `prefix` names the nodes around them, each followed by `/`.
    fn graphs(
        &self,
        difference: &mut Difference,
        before: &Graph,
        after: &Graph,
        prefix: &str,
        outer: Option<Outer<'_>>,
    ) {
        values(&mut difference.interface, &format!("{prefix}input"), &before.inputs, &after.inputs);
        values(&mut difference.interface, &format!("{prefix}output"), &before.outputs, &after.outputs);
        let weights = weights::compare(self, difference, &before.weights, &after.weights, prefix);
        nodes::compare(self, difference, before, after, &weights, prefix, outer);
    }
}

/// Inputs or outputs: by name, and their order.
fn values(changes: &mut Vec<Change>, what: &str, before: &[Value], after: &[Value]) {
    let types = |values: &[Value]| -> BTreeMap<String, String> {
        values.iter().map(|value| (value.name.clone(), shape_text(value.declared.as_ref()))).collect()
    };
    let count = changes.len();
    maps(changes, what, &types(before), &types(after));
    let names = |values: &[Value]| values.iter().map(|value| value.name.as_str()).collect::<Vec<_>>().join(", ");
    if changes[count..].iter().all(|change| change.kind == ChangeKind::Changed) {
        changes.extend(Change::of(|| format!("order of {what}s"), Some(names(before)), Some(names(after))));
    }
}
