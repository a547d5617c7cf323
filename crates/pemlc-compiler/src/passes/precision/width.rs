//! Which floats are narrow, by what makes and what reads them.

use super::reads_table;
use crate::ir::{Binary, DType, Graph, Op, Unary, ValueId};
use std::collections::BTreeMap;

/// Whether an operator's float result is narrow.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    Narrow,
    Wide,
    /// Whatever its readers want: constants, and what moves them.
    Free,
}

/// Widths of all f32 values, by the rules of the module.
pub(super) fn widths(graph: &Graph) -> BTreeMap<ValueId, Width> {
    let mut widths: BTreeMap<ValueId, Width> = BTreeMap::new();
    let is_float = |id: &ValueId| graph.value(*id).value_type.dtype == DType::F32;
    for id in graph.inputs().iter().filter(|id| is_float(id)) {
        widths.insert(*id, Width::Narrow);
    }
    for (id, _) in graph.initialisers().filter(|(id, _)| is_float(id)) {
        // What a caller may override has the type that the caller was promised.
        widths.insert(id, if graph.is_overridable(id) { Width::Wide } else { Width::Free });
    }
    for node in graph.nodes() {
        if !is_float(&node.output()) {
            continue;
        }
        let of = |id: &ValueId| widths.get(id).copied().unwrap_or(Width::Wide);
        let inputs: Vec<Width> = node.inputs.iter().filter(|id| is_float(id)).map(of).collect();
        let any = |width| inputs.contains(&width);
        let width = match &node.op {
            Op::MatMul => Width::Narrow,
            _ if reads_table(graph, node) => Width::Wide,
            Op::Gather { .. }
            | Op::GatherElements { .. }
            | Op::Reshape { .. }
            | Op::Slice { .. }
            | Op::Squeeze { .. }
            | Op::Transpose { .. }
            | Op::Unsqueeze { .. } => inputs.first().copied().unwrap_or(Width::Wide),
            Op::Concat { .. } if any(Width::Narrow) => Width::Narrow,
            Op::Concat { .. } | Op::Binary(Binary::Add | Binary::Mul | Binary::Sub) => {
                match (any(Width::Wide), any(Width::Narrow)) {
                    (true, _) => Width::Wide,
                    (false, true) => Width::Narrow,
                    (false, false) => Width::Free,
                }
            }
            Op::Unary(Unary::QuickGelu | Unary::Sigmoid | Unary::Swish | Unary::Tanh | Unary::Erf) => {
                inputs.first().copied().unwrap_or(Width::Wide)
            }
            _ => Width::Wide,
        };
        widths.extend(node.outputs.iter().map(|id| (*id, width)));
    }
    // From the last reader back: free values are narrow when every reader takes them so.
    let mut narrow_readers: BTreeMap<ValueId, (usize, usize)> = BTreeMap::new();
    for node in graph.nodes().iter().rev() {
        let own = node.outputs.first().and_then(|id| {
            let width = widths.get(id).copied()?;
            if width != Width::Free {
                return Some(width);
            }
            let (narrow, all) = narrow_readers.get(id).copied().unwrap_or_default();
            let settled = if all > 0 && narrow == all { Width::Narrow } else { Width::Wide };
            widths.insert(*id, settled);
            Some(settled)
        });
        // Rows of a table are widened, not the table.
        let narrow = own == Some(Width::Narrow) || reads_table(graph, node);
        for id in node.inputs.iter().filter(|id| is_float(id)) {
            let entry = narrow_readers.entry(*id).or_default();
            entry.0 += usize::from(narrow);
            entry.1 += 1;
        }
    }
    let constants: Vec<ValueId> =
        graph.initialisers().map(|(id, _)| id).filter(|id| widths.get(id) == Some(&Width::Free)).collect();
    for id in constants {
        let (narrow, all) = narrow_readers.get(&id).copied().unwrap_or_default();
        widths.insert(id, if all > 0 && narrow == all { Width::Narrow } else { Width::Wide });
    }
    widths
}
