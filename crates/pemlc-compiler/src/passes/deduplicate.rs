//! Merges equal initialisers, then nodes that apply one operator to the same values.

use super::{Outcome, Pass};
use crate::ir::{Graph, Op, ValueId};
use std::collections::{BTreeMap, HashMap};

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct Deduplicate;

impl Pass for Deduplicate {
    fn name(&self) -> &'static str {
        "deduplicate"
    }

    fn run(&self, graph: &mut Graph) -> Result<Outcome, String> {
        let mut replacements: BTreeMap<ValueId, ValueId> = BTreeMap::new();
        let mut by_digest: HashMap<u64, Vec<ValueId>> = HashMap::new();
        for (id, expression) in graph.initialisers().filter(|(id, _)| !graph.is_overridable(*id)) {
            let candidates = by_digest.entry(expression.digest()).or_default();
            // Equality decides; the digest only finds candidates. A tensor that holds NaN equals nothing.
            match candidates.iter().find(|other| graph.initialisers.get(other) == Some(expression)) {
                Some(other) => {
                    replacements.insert(id, *other);
                }
                None => candidates.push(id),
            }
        }
        replacements.retain(|id, _| !graph.outputs.contains(id));
        graph.replace_uses(&replacements);

        let mut seen: HashMap<(Op, Vec<ValueId>), Vec<ValueId>> = HashMap::new();
        let mut merged: BTreeMap<ValueId, ValueId> = BTreeMap::new();
        for node in &graph.nodes {
            let inputs: Vec<ValueId> = node.inputs.iter().map(|id| merged.get(id).copied().unwrap_or(*id)).collect();
            match seen.get(&(node.op.clone(), inputs.clone())) {
                Some(others) if !node.outputs.iter().any(|id| graph.outputs.contains(id)) => {
                    merged.extend(node.outputs.iter().copied().zip(others.iter().copied()));
                }
                _ => {
                    seen.insert((node.op.clone(), inputs), node.outputs.clone());
                }
            }
        }
        graph.replace_uses(&merged);
        replacements.extend(merged);
        graph.initialisers.retain(|id, _| !replacements.contains_key(id));
        graph.nodes.retain(|node| !replacements.contains_key(&node.output()));
        let name = |id: &ValueId| &graph.value(*id).name;
        let changed = replacements.iter().map(|(id, other)| format!("`{}` is `{}`", name(id), name(other))).collect();
        Ok(Outcome { changed, ..Outcome::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Binary, DType, Symbol, Tensor, ValueType};

    #[test]
    fn equal_constants_and_equal_nodes_become_one() {
        let mut graph = Graph::new("g");
        let x = graph.input("x", ValueType::new(DType::F32, [Symbol::Batch]));
        let one = graph.constant("one", Tensor::scalar_f32(1.0)).unwrap();
        let same = graph.constant("same", Tensor::scalar_f32(1.0)).unwrap();
        let first = graph.node("first", Op::Binary(Binary::Add), &[x, one]).unwrap();
        let second = graph.node("second", Op::Binary(Binary::Add), &[x, same]).unwrap();
        let sum = graph.node("sum", Op::Binary(Binary::Add), &[first, second]).unwrap();
        graph.output(sum);
        let outcome = Deduplicate.run(&mut graph).unwrap();
        assert_eq!(outcome.changed, ["`same` is `one`", "`second` is `first`"]);
    }

    #[test]
    fn an_output_keeps_its_name() {
        let mut graph = Graph::new("g");
        let x = graph.input("x", ValueType::new(DType::F32, [Symbol::Batch]));
        for name in ["a", "b"] {
            let node = graph.node(name, Op::Binary(Binary::Add), &[x, x]).unwrap();
            graph.output(node);
        }
        assert!(Deduplicate.run(&mut graph).unwrap().changed.is_empty());
        assert_eq!(graph.nodes().len(), 2);
    }
}
