//! The verifier, run after every pass.

use super::graph::{Graph, IrError, ValueId};
use super::infer::infer;
use super::value::ValueType;
use std::collections::{BTreeMap, BTreeSet};

/// Checks that every value read is made before, once, under a name of its own, and that every type is what inference says.
pub fn verify(graph: &Graph) -> Result<(), IrError> {
    let broken = |reason: String| IrError::Graph { graph: graph.name.clone(), reason };
    let mut made: BTreeSet<ValueId> = BTreeSet::new();
    let mut names: BTreeMap<String, &str> = BTreeMap::new();
    let mut make = |id: ValueId| {
        let name = graph.value(id).name.as_str();
        match names.insert(words(name), name) {
            None if made.insert(id) => Ok(()),
            Some(other) if other != name => {
                Err(broken(format!("`{other}` and `{name}` differ in punctuation alone: importers take them for one")))
            }
            _ => Err(broken(format!("`{name}` is made twice"))),
        }
    };
    for id in graph.inputs() {
        make(*id)?;
    }
    for (id, expression) in graph.initialisers() {
        make(id)?;
        let name = &graph.value(id).name;
        let value_type =
            expression.value_type().map_err(|reason| IrError::Initialiser { name: name.clone(), reason })?;
        if value_type != graph.value(id).value_type {
            return Err(broken(format!("`{name}` is declared {} and is {value_type}", graph.value(id).value_type)));
        }
    }
    let mut available: BTreeSet<ValueId> = graph.inputs().iter().copied().collect();
    available.extend(graph.initialisers().map(|(id, _)| id));
    for node in graph.nodes() {
        let Some(output) = node.outputs.first().map(|id| graph.value(*id)) else {
            return Err(broken(format!("a node of {} makes nothing", node.op.name())));
        };
        if let Some(missing) = node.inputs.iter().find(|id| !available.contains(id)) {
            return Err(broken(format!("`{}` reads `{}` before it is made", output.name, graph.value(*missing).name)));
        }
        let types: Vec<&ValueType> = node.inputs.iter().map(|id| &graph.value(*id).value_type).collect();
        let fail = |reason| IrError::Node { node: output.name.clone(), op: node.op.name(), reason };
        let inferred = infer(&node.op, &types).map_err(fail)?;
        if inferred.len() != node.outputs.len() {
            return Err(fail(format!("makes {} values, has {}", inferred.len(), node.outputs.len())));
        }
        for (id, value_type) in node.outputs.iter().zip(inferred) {
            let value = graph.value(*id);
            if value_type != value.value_type {
                return Err(broken(format!("`{}` is declared {} and is {value_type}", value.name, value.value_type)));
            }
            make(*id)?;
        }
        available.extend(&node.outputs);
    }
    match graph.outputs().iter().find(|id| !available.contains(id)) {
        Some(id) => Err(broken(format!("output `{}` is never made", graph.value(*id).name))),
        None => Ok(()),
    }
}

/// What is left of a name for an importer that makes identifiers of names.
fn words(name: &str) -> String {
    let words = name.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Binary, DType, Op, Symbol, Unary};

    fn chain() -> Graph {
        let mut graph = Graph::new("chain");
        let x = graph.input("x", ValueType::new(DType::F32, [Symbol::Batch]));
        let squared = graph.node("squared", Op::Binary(Binary::Mul), &[x, x]).unwrap();
        let root = graph.node("root", Op::Unary(Unary::Sqrt), &[squared]).unwrap();
        graph.output(root);
        graph
    }

    #[test]
    fn a_graph_built_in_order_passes() {
        assert_eq!(verify(&chain()), Ok(()));
    }

    #[test]
    fn broken_graphs_are_named() {
        let mut reordered = chain();
        reordered.nodes.swap(0, 1);
        assert_eq!(
            verify(&reordered).unwrap_err().to_string(),
            "graph `chain`: `root` reads `squared` before it is made"
        );

        let mut renamed = chain();
        renamed.values[2].name = "x".to_owned();
        assert_eq!(verify(&renamed).unwrap_err().to_string(), "graph `chain`: `x` is made twice");

        let mut dropped = chain();
        dropped.nodes.pop();
        assert_eq!(verify(&dropped).unwrap_err().to_string(), "graph `chain`: output `root` is never made");

        let mut mistyped = chain();
        mistyped.values[1].value_type.dtype = DType::I64;
        assert_eq!(
            verify(&mistyped).unwrap_err().to_string(),
            "graph `chain`: `squared` is declared i64[batch_size] and is f32[batch_size]"
        );
    }

    #[test]
    fn names_that_importers_confuse_are_refused() {
        let mut graph = chain();
        let x = graph.inputs()[0];
        graph.node("Root.1", Op::Unary(Unary::Sqrt), &[x]).unwrap();
        graph.node("Root.-1", Op::Unary(Unary::Sqrt), &[x]).unwrap();
        assert_eq!(
            verify(&graph).unwrap_err().to_string(),
            "graph `chain`: `Root.1` and `Root.-1` differ in punctuation alone: importers take them for one"
        );
    }
}
