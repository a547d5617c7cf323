//! All tasks' second factors as further rows of the weight: `x W + (h * m_t) [B_1; ..; B_T]` is `[x, h * m_t] [W; B_1; ..; B_T]`, with
//! `h = x [A_1 .. A_T]`. As [`masked`](super::masked), but the delta is never a value of its own: it costs no sum.

use super::masked::{Columns, own_columns};
use crate::ir::{Binary, Expression, Graph, IrError, Node, Op, ValueId};
use crate::passes::rewriter::Rewriter;
use std::collections::BTreeMap;

/// The sum that a delta ends in: `sum = x weight + delta`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sum {
    /// What makes `x weight`.
    pub(super) base: ValueId,
    /// The matrix, which nothing else reads.
    weight: ValueId,
    /// The sum.
    pub(super) sum: ValueId,
}

/// The sums of `graph` that a delta's product can become part of, by the delta.
pub(super) fn sums(graph: &Graph) -> BTreeMap<ValueId, Sum> {
    let uses = graph.use_counts();
    let makers: BTreeMap<ValueId, &Node> = graph.nodes().iter().map(|node| (node.output(), node)).collect();
    let of_sum = |node: &Node| {
        let [base, delta] = node.inputs[..] else { return None };
        let (product, change) = (makers.get(&base)?, makers.get(&delta)?);
        let [x, weight] = product.inputs[..] else { return None };
        let fits = node.op == Op::Binary(Binary::Add)
            && product.op == Op::MatMul
            && change.op == Op::TaskLowRank
            && change.inputs.first() == Some(&x)
            && graph.initialisers.contains_key(&weight)
            && graph.value(weight).value_type.rank() == 2
            && [base, delta, weight].iter().all(|id| uses[id.0] == 1);
        fits.then(|| (delta, Sum { base, weight, sum: node.output() }))
    };
    graph.nodes().iter().filter_map(of_sum).collect()
}

/// Puts the lowering in place of the product, the delta and their sum.
pub(super) fn lower(
    rewriter: &mut Rewriter<'_>,
    site: &str,
    (x, index): (ValueId, ValueId),
    columns: Columns,
    sum: Sum,
) -> Result<(), IrError> {
    let hidden = own_columns(rewriter, site, (x, index), (columns.down, columns.mask))?;
    let axis = rewriter.graph().value(x).value_type.rank() - 1;
    let wide = rewriter.node(format!("{site}.with_hidden"), Op::Concat { axis }, &[x, hidden])?;
    let beside = |expression| Expression::Transpose(Box::new(expression));
    let up = beside(Expression::constant(columns.up));
    let weight = rewriter.take_initialiser(sum.weight).map(|weight| match weight {
        Expression::Transpose(inner) => *inner,
        other => beside(other),
    });
    let Some(weight) = weight else { return Ok(()) };
    // Rows below rows, as columns beside columns of what is transposed.
    rewriter.put_initialiser(sum.weight, beside(Expression::ConcatColumns(vec![weight, up])))?;
    rewriter.replace(sum.sum, Op::MatMul, &[wide, sum.weight]);
    Ok(())
}
