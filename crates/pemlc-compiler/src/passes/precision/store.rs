//! Weights held in a narrow type and widened in the graph.

use super::{SMALL, cast, round_initialiser, widen_rows};
use crate::ir::{DType, Expression, Graph, IrError, Node, Op, ValueId};
use crate::passes::Outcome;
use crate::passes::rewriter::Rewriter;
use std::collections::{BTreeMap, BTreeSet};

/// What comes to a product unchanged but for its place: as a weight, or as rows that are gathered and joined with others.
fn factors(graph: &Graph) -> BTreeSet<ValueId> {
    let mut found = BTreeSet::new();
    for node in graph.nodes().iter().rev() {
        let moved = match node.op {
            Op::MatMul => true,
            // Its mask is added.
            Op::Attention { .. } => {
                found.extend(node.inputs.iter().take(3).copied());
                false
            }
            Op::Concat { .. }
            | Op::Gather { .. }
            | Op::Reshape { .. }
            | Op::Slice { .. }
            | Op::Squeeze { .. }
            | Op::Transpose { .. }
            | Op::Unsqueeze { .. } => node.outputs.iter().any(|id| found.contains(id)),
            _ => false,
        };
        if moved {
            found.extend(node.inputs.iter().copied());
        }
    }
    found
}

/// Holds large weights in `dtype` and widens them in the graph.
pub(super) fn store(graph: &mut Graph, dtype: DType) -> Result<Outcome, IrError> {
    let mut outcome = Outcome::default();
    let factors = factors(graph);
    let large = |graph: &Graph, id: ValueId, expression: &Expression| {
        let value_type = &graph.value(id).value_type;
        let count = value_type.fixed_shape().map_or(0, |shape| shape.iter().product::<usize>());
        let read = factors.contains(&id) || !expression.checkpoint_names().is_empty();
        value_type.dtype == DType::F32 && value_type.rank() >= 2 && count >= SMALL && read && !graph.is_overridable(id)
    };
    let weights = graph.initialisers().filter(|(id, expression)| large(graph, *id, expression));
    let weights: BTreeSet<ValueId> = weights.map(|(id, _)| id).collect();
    for id in &weights {
        round_initialiser(graph, *id, dtype);
        outcome.changed.push(format!("weight `{}` is stored in {dtype}", graph.value(*id).name));
    }
    let (mut rewriter, nodes) = Rewriter::new(graph);
    let mut casts = BTreeMap::new();
    for node in nodes {
        // A gathered row is widened rather than the table.
        if let (Op::Gather { .. }, Some(data)) = (&node.op, node.inputs.first())
            && weights.contains(data)
        {
            widen_rows(&mut rewriter, &node, dtype)?;
            continue;
        }
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for id in &node.inputs {
            inputs.push(if weights.contains(id) { cast(&mut rewriter, &mut casts, *id, DType::F32)? } else { *id });
        }
        rewriter.keep(Node { op: node.op, inputs, outputs: node.outputs });
    }
    rewriter.finish();
    Ok(outcome)
}
