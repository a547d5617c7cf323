//! What one run of a graph costs, counted from its shapes: multiply-adds, other operations, bytes of weights and of activations.
//!
//! These are counts of the graph as it is written, not of what a runtime makes of it: fused operators keep activations out of memory,
//! constants are folded, caches are shared.

mod layer;
mod operators;
mod sizes;
mod text;

use super::InspectError;
use super::model::Model;
use super::shapes::walk::{Visit, walk};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

pub use layer::Layer;
pub use sizes::Sizes;

/// Sums over nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// Nodes, those inside functions and graphs of nodes too.
    pub nodes: u64,
    /// Multiplications each followed by an addition, of matrix products, convolutions and attention.
    pub multiply_adds: u64,
    /// All other arithmetic: one an element of the output (of the input, for reductions), four for softmax and norms.
    pub operations: u64,
    /// Bytes of initialisers and constants read; of a gathered table only the rows taken.
    pub weight_bytes: u64,
    /// Bytes of other values read and written; none for nodes that only change a shape.
    pub activation_bytes: u64,
}

/// Nodes whose cost is not known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unknown {
    /// The operator.
    pub operator: String,
    /// Why: its shapes or the operator itself.
    pub reason: &'static str,
    /// How many.
    pub nodes: u64,
    /// The first of them.
    pub example: String,
}

/// The cost of one run.
#[derive(Debug, Serialize)]
pub struct CostReport {
    /// What the symbols of the graph were taken for.
    pub sizes: Sizes,
    /// Everything.
    pub total: Cost,
    /// By class: `matrix product`, `attention`, `elementwise` and so on.
    pub classes: BTreeMap<&'static str, Cost>,
    /// By operator, with its domain where that is not the standard one.
    pub operators: BTreeMap<String, Cost>,
    /// By layer, as the names of nodes tell; the empty name is all that is in none.
    pub layers: BTreeMap<Layer, Cost>,
    /// What the sums lack.
    pub unknown: Vec<Unknown>,
    /// Symbols that have no size.
    pub missing_symbols: BTreeSet<String>,
    /// Nodes with graphs inside: every branch of an `If` and one round of a loop are counted.
    pub branching_nodes: u64,
    /// Whether there were too many nodes to look at all.
    pub truncated: bool,
}

/// Counts the cost of the ONNX file `path` where its symbols have these sizes.
pub fn cost(path: &Path, sizes: &Sizes) -> Result<CostReport, InspectError> {
    let model = Model::read(path)?;
    let mut report = CostReport {
        sizes: sizes.clone(),
        total: Cost::default(),
        classes: BTreeMap::new(),
        operators: BTreeMap::new(),
        layers: BTreeMap::new(),
        unknown: Vec::new(),
        missing_symbols: BTreeSet::new(),
        branching_nodes: 0,
        truncated: false,
    };
    let mut unknown = BTreeMap::new();
    report.truncated = walk(&model, &mut |visit| report.visit(visit, &mut unknown));
    report.unknown = unknown
        .into_iter()
        .map(|((operator, reason), (nodes, example))| Unknown { operator, reason, nodes, example })
        .collect();
    Ok(report)
}

/// How many symbols without a size are told.
const MAX_SYMBOLS: usize = 100;

impl CostReport {
    fn visit(&mut self, visit: &Visit<'_, '_>, unknown: &mut BTreeMap<(String, &'static str), (u64, String)>) {
        let operator = visit.call.node.full_operator();
        if visit.is_compound {
            self.branching_nodes += u64::from(visit.call.node.graphs().next().is_some());
            return;
        }
        let (class, found) = {
            let missing = &mut self.missing_symbols;
            let mut note = |symbol: &str| {
                if missing.len() < MAX_SYMBOLS {
                    missing.insert(symbol.to_owned());
                }
            };
            operators::cost(visit, &self.sizes, &mut note)
        };
        let label = format!("{}{}", visit.prefix, visit.call.node.label());
        let cost = match found {
            Ok(cost) => Cost { nodes: 1, ..cost },
            Err(reason) => {
                let entry = unknown.entry((operator.clone(), reason)).or_insert_with(|| (0, label.clone()));
                entry.0 += 1;
                Cost { nodes: 1, ..Cost::default() }
            }
        };
        self.total.add(cost);
        self.classes.entry(class).or_default().add(cost);
        self.operators.entry(operator).or_default().add(cost);
        self.layers.entry(Layer::of(&label)).or_default().add(cost);
    }
}

impl Cost {
    fn add(&mut self, other: Self) {
        let sums = [
            (&mut self.nodes, other.nodes),
            (&mut self.multiply_adds, other.multiply_adds),
            (&mut self.operations, other.operations),
            (&mut self.weight_bytes, other.weight_bytes),
            (&mut self.activation_bytes, other.activation_bytes),
        ];
        for (sum, value) in sums {
            *sum = sum.saturating_add(value);
        }
    }
}
