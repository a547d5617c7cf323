//! One task a run: its factors are cut out once, and all rows pass through two plain products.

use crate::ir::{IrError, Op, ValueId};
use crate::passes::rewriter::Rewriter;

/// Puts the lowering; `index` is `[1]`.
pub(super) fn lower(
    rewriter: &mut Rewriter<'_>,
    site: &str,
    (x, index): (ValueId, ValueId),
    (down, up): (ValueId, ValueId),
    output: ValueId,
) -> Result<(), IrError> {
    let down = of_run(rewriter, format!("{site}.task_a"), down, index)?;
    let up = of_run(rewriter, format!("{site}.task_b"), up, index)?;
    let hidden = rewriter.node(format!("{site}.task_hidden"), Op::MatMul, &[x, down])?;
    rewriter.replace(output, Op::MatMul, &[hidden, up]);
    Ok(())
}

/// The matrix of the run's task out of a stack.
fn of_run(rewriter: &mut Rewriter<'_>, name: String, stack: ValueId, index: ValueId) -> Result<ValueId, IrError> {
    let own = rewriter.node(format!("{name}.of_run"), Op::Gather { axis: 0 }, &[stack, index])?;
    let shape = rewriter.graph().value(own).value_type.shape.iter().skip(1).map(crate::ir::Dim::fixed).collect();
    rewriter.node(name, Op::Reshape { shape }, &[own])
}
