//! Every value of a graph with its type, in execution order; what the file leaves out is inferred where that is simple.

mod arithmetic;
pub(crate) mod dim;
pub(crate) mod fact;
mod layout;
mod operators;
mod products;
pub(crate) mod walk;
mod windows;

use super::columns::Columns;
use super::model::{Graph, Model};
use super::{InspectError, name};
use dim::Dim;
use fact::Fact;
use serde::Serialize;
use serde_json::Value;
use std::fmt::Write as _;
use std::path::Path;

pub use fact::Source;

/// The values of one file.
#[derive(Debug, Serialize)]
pub struct ShapeTable {
    /// Inputs, initialisers, then outputs of nodes, each before what uses it.
    pub values: Vec<ValueRow>,
    /// Whether there were too many nodes to look at all.
    pub truncated: bool,
}

/// One value.
#[derive(Debug, Serialize)]
pub struct ValueRow {
    /// Its name, after those of the nodes around it.
    pub name: String,
    /// `input`, `initialiser`, or the operator that makes it.
    pub made_by: String,
    /// Number type, if known.
    pub dtype: Option<String>,
    /// Dimensions: numbers, symbols and sums of them, null for those not known. Absent when not even their number is known.
    pub shape: Option<Vec<Value>>,
    /// Where that is from.
    pub source: Source,
}

/// The types of all values of the ONNX file `path`.
pub fn shapes(path: &Path) -> Result<ShapeTable, InspectError> {
    let model = Model::read(path)?;
    let Graph { inputs, weights, .. } = &model.graph;
    let is_weight: std::collections::HashSet<&str> = weights.iter().map(|weight| weight.name.as_str()).collect();
    let mut values = Vec::new();
    for input in inputs.iter().filter(|input| !is_weight.contains(input.name.as_str())) {
        let fact = input.declared.as_ref().map(Fact::of_type).unwrap_or_default();
        values.push(row(String::new(), &input.name, "input".to_owned(), &fact));
    }
    values.extend(
        weights
            .iter()
            .map(|weight| row(String::new(), &weight.name, "initialiser".to_owned(), &Fact::of_weight(weight))),
    );
    let truncated = walk::walk(&model, &mut |visit| {
        if !visit.in_function {
            let node = visit.call.node;
            for (output, fact) in node.outputs.iter().zip(visit.outputs).filter(|(output, _)| !output.is_empty()) {
                values.push(row(visit.prefix.to_owned(), output, node.full_operator(), fact));
            }
        }
    });
    Ok(ShapeTable { values, truncated })
}

/// A shape whose symbols take more text than this shows them as unknown.
const MAX_SYMBOLS: usize = 512;

fn row(prefix: String, name: &str, made_by: String, fact: &Fact) -> ValueRow {
    let mut room = MAX_SYMBOLS;
    let mut dimension = |dim: &Dim| match dim {
        Dim::Unknown => Value::Null,
        Dim::Fixed(size) => Value::from(*size),
        Dim::Sum(_) => {
            let text = dim.to_string();
            let left = room.checked_sub(text.len());
            room = left.unwrap_or(room);
            left.map_or(Value::Null, |_| Value::from(text))
        }
    };
    ValueRow {
        name: prefix + name,
        made_by,
        dtype: (fact.dtype.0 != 0).then(|| fact.dtype.to_string()),
        shape: fact.shape.as_ref().map(|shape| shape.iter().map(&mut dimension).collect()),
        source: fact.source,
    }
}

impl ShapeTable {
    /// A readable table, and how many types come from where.
    pub fn to_text(&self) -> String {
        let mut table = Columns::new(&["value", "type", "made by", "from"]);
        let mut counts = [0usize; 4];
        for value in &self.values {
            let (place, source) = match value.source {
                Source::Declared => (0, "declared"),
                Source::Completed => (1, "completed"),
                Source::Inferred => (2, "inferred"),
                Source::Unknown => (3, "unknown"),
            };
            counts[place] += 1;
            table.row([name(&value.name), value.type_text(), name(&value.made_by), source.to_owned()]);
        }
        let mut text = table.render();
        let [declared, completed, inferred, unknown] = counts;
        let _ = writeln!(
            text,
            "\n{} values: {declared} declared in the file, {completed} completed, {inferred} inferred, {unknown} unknown",
            self.values.len()
        );
        if self.truncated {
            text.push_str("the graph has too many nodes: the rest is left out\n");
        }
        text
    }
}

impl ValueRow {
    fn type_text(&self) -> String {
        let dims = match &self.shape {
            None => "?".to_owned(),
            Some(shape) => {
                let dim = |dim: &Value| match dim {
                    Value::Null => "?".to_owned(),
                    Value::String(text) => name(text),
                    number => number.to_string(),
                };
                shape.iter().map(dim).collect::<Vec<_>>().join(", ")
            }
        };
        format!("{}[{dims}]", self.dtype.as_deref().unwrap_or("?"))
    }
}
