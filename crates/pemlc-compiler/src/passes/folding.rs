//! How a pass evaluates nodes: those that it has values for become constants.

use crate::ir::{Expression, Graph, Node, Op, Tensor, ValueId};
use std::collections::BTreeSet;

/// The value of a node, if the pass evaluates it; an error says in words what went wrong.
pub(super) type Evaluate<'a> = dyn FnMut(&Graph, &Node) -> Result<Option<Tensor>, String> + 'a;

/// Walks the nodes in order; one that `evaluate` has a value for becomes a constant, the others stay. Constants go as soon as their last
/// reader is evaluated, so that memory stays small.
pub(super) fn fold(graph: &mut Graph, evaluate: &mut Evaluate<'_>) -> Result<(), String> {
    let mut remaining = Vec::with_capacity(graph.nodes.len());
    let mut uses = graph.use_counts();
    for node in std::mem::take(&mut graph.nodes) {
        let Some(value) = evaluate(graph, &node)? else {
            remaining.push(node);
            continue;
        };
        graph.initialisers.insert(node.output(), Expression::constant(value));
        for id in &node.inputs {
            uses[id.0] -= 1;
            if uses[id.0] == 0 {
                graph.initialisers.remove(id);
            }
        }
    }
    graph.nodes = remaining;
    Ok(())
}

/// The constants that `node` reads; `None` when it reads anything else.
pub(super) fn constants<'a>(graph: &'a Graph, node: &Node) -> Option<Vec<&'a Tensor>> {
    node.inputs.iter().map(|id| graph.constant_of(*id).map(|tensor| &**tensor)).collect()
}

/// Values that depend on a [`Op::SoftPrompt`], its own included.
pub(super) fn behind_soft_prompts(graph: &Graph) -> BTreeSet<ValueId> {
    let mut behind = BTreeSet::new();
    for node in &graph.nodes {
        if node.op == Op::SoftPrompt || node.inputs.iter().any(|id| behind.contains(id)) {
            behind.extend(&node.outputs);
        }
    }
    behind
}

/// Values that `roots` are computed from, `roots` included.
pub(super) fn ancestors(graph: &Graph, roots: impl IntoIterator<Item = ValueId>) -> BTreeSet<ValueId> {
    let mut needed: BTreeSet<ValueId> = roots.into_iter().collect();
    for node in graph.nodes.iter().rev() {
        if node.outputs.iter().any(|id| needed.contains(id)) {
            needed.extend(&node.inputs);
        }
    }
    needed
}
