//! Products and the cache in a narrow type.

use super::width::{Width, widths};
use super::{cast, reads_table, round_initialiser, widen_rows};
use crate::ir::{DType, Graph, IrError, Node, Op, ValueId};
use crate::passes::Outcome;
use crate::passes::rewriter::Rewriter;
use std::collections::{BTreeMap, BTreeSet};

/// Makes narrow what [`widths`] says.
pub(super) fn narrow(graph: &mut Graph, dtype: DType) -> Result<Outcome, IrError> {
    let widths = widths(graph);
    let is_narrow = |id: &ValueId| widths.get(id) == Some(&Width::Narrow);
    let mut outcome = Outcome::default();
    let outputs: BTreeSet<ValueId> = graph.outputs().iter().copied().collect();
    let inputs: Vec<ValueId> = graph.inputs().to_vec();
    for id in inputs.iter().filter(|id| is_narrow(id)) {
        graph.values[id.0].value_type.dtype = dtype;
        outcome.changed.push(format!("input `{}` is {dtype}", graph.value(*id).name));
    }
    let weights: Vec<ValueId> = graph.initialisers().map(|(id, _)| id).filter(is_narrow).collect();
    for id in weights {
        round_initialiser(graph, id, dtype);
        outcome.changed.push(format!("weight `{}` is rounded to {dtype}", graph.value(id).name));
    }
    let tables: BTreeSet<ValueId> =
        graph.nodes().iter().filter(|node| reads_table(graph, node)).map(Node::output).collect();
    let (mut rewriter, nodes) = Rewriter::new(graph);
    // Values in the other width than their own, made once.
    let mut casts: BTreeMap<(ValueId, DType), ValueId> = BTreeMap::new();
    for node in nodes {
        let output = node.output();
        if tables.contains(&output) {
            widen_rows(&mut rewriter, &node, dtype)?;
            continue;
        }
        if !widths.contains_key(&output) && !node.inputs.iter().any(|id| widths.contains_key(id)) {
            rewriter.keep(node);
            continue;
        }
        let wanted = if is_narrow(&output) { dtype } else { DType::F32 };
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for id in &node.inputs {
            inputs.push(if widths.contains_key(id) { cast(&mut rewriter, &mut casts, *id, wanted)? } else { *id });
        }
        if is_narrow(&output) {
            outcome.changed.push(format!("`{}` is {dtype}", rewriter.name(output)));
            // Logits stay f32 for their readers; the cache is narrow, as serving stacks expect.
            if outputs.contains(&output) && !matches!(node.op, Op::Concat { .. }) {
                let name = format!("{}.{dtype}", rewriter.name(output));
                let made = rewriter.node(name, node.op, &inputs)?;
                rewriter.replace(output, Op::Cast { to: DType::F32 }, &[made]);
                continue;
            }
            rewriter.set_dtype(output, dtype);
        }
        rewriter.keep(Node { op: node.op, inputs, outputs: node.outputs });
    }
    rewriter.finish();
    Ok(outcome)
}
