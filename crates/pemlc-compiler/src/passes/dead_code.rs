//! Removes what no output needs. Graph inputs stay: they are a contract.

use super::{Outcome, Pass};
use crate::ir::{Graph, Node, ValueId};
use std::collections::BTreeSet;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct DeadCode;

impl Pass for DeadCode {
    fn name(&self) -> &'static str {
        "dead_code"
    }

    fn run(&self, graph: &mut Graph) -> Result<Outcome, String> {
        let mut live: BTreeSet<ValueId> = graph.outputs.iter().copied().collect();
        for node in graph.nodes.iter().rev() {
            if node.outputs.iter().any(|id| live.contains(id)) {
                live.extend(&node.inputs);
            }
        }
        let dead = |node: &&Node| !node.outputs.iter().any(|id| live.contains(id));
        let dead_nodes = graph.nodes.iter().filter(dead).map(Node::output);
        let dead_initialisers = graph.initialisers.keys().copied().filter(|id| !live.contains(id));
        let changed =
            dead_nodes.chain(dead_initialisers).map(|id| format!("removed `{}`", graph.value(id).name)).collect();
        graph.nodes.retain(|node| node.outputs.iter().any(|id| live.contains(id)));
        graph.initialisers.retain(|id, _| live.contains(id));
        Ok(Outcome { changed, ..Outcome::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{DType, Op, Symbol, Tensor, Unary, ValueType};

    #[test]
    fn what_no_output_needs_goes_and_inputs_stay() {
        let mut graph = Graph::new("g");
        let x = graph.input("x", ValueType::new(DType::F32, [Symbol::Batch]));
        graph.input("unread", ValueType::new(DType::F32, [Symbol::Batch]));
        graph.constant("dead_constant", Tensor::scalar_f32(1.0)).unwrap();
        let kept = graph.node("kept", Op::Unary(Unary::Sqrt), &[x]).unwrap();
        let dead = graph.node("dead", Op::Unary(Unary::Tanh), &[kept]).unwrap();
        graph.node("dead_too", Op::Unary(Unary::Tanh), &[dead]).unwrap();
        graph.output(kept);
        let outcome = DeadCode.run(&mut graph).unwrap();
        assert_eq!(outcome.changed, ["removed `dead`", "removed `dead_too`", "removed `dead_constant`"]);
        assert_eq!((graph.nodes().len(), graph.inputs().len(), graph.initialisers().count()), (1, 2, 0));
    }
}
