//! All tasks' factors side by side, and a mask: `((x [A_1 .. A_T]) * m_t) [B_1; ..; B_T]`, where `m_t` is 1 in task t's columns and 0 in the
//! others'. Two plain products by constants. It computes every task's part for every row, so it pays while tasks times rank is small, or
//! when few tokens pass through much weight: decoding.

use crate::ir::{Binary, Data, IrError, Op, Tensor, ValueId};
use crate::passes::rewriter::Rewriter;

/// Factors `[tasks, in, rank]` and `[tasks, rank, out]` without the ranks that are zero: what filled smaller ones up.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Columns {
    /// `[in, columns]`.
    pub(super) down: Tensor,
    /// `[columns, out]`.
    pub(super) up: Tensor,
    /// `[tasks, 1, columns]`: 1 in a task's own columns.
    pub(super) mask: Tensor,
    /// How many columns there are.
    pub(super) count: usize,
}

impl Columns {
    /// `None` when the factors are no f32 stacks.
    pub(super) fn new(down: &Tensor, up: &Tensor) -> Option<Self> {
        let ([tasks, inputs, rank], [_, _, outputs]) = (down.shape(), up.shape()) else { return None };
        let (tasks, inputs, rank, outputs) = (*tasks, *inputs, *rank, *outputs);
        let (a, b) = (down.as_f32()?, up.as_f32()?);
        let a_of = |task: usize, input: usize, own: usize| a[(task * inputs + input) * rank + own];
        let b_row = |task: usize, own: usize| &b[(task * rank + own) * outputs..][..outputs];
        let used = |task: usize, own: usize| {
            b_row(task, own).iter().any(|value| *value != 0.0) && (0..inputs).any(|input| a_of(task, input, own) != 0.0)
        };
        let mut columns: Vec<(usize, usize)> =
            (0..tasks).flat_map(|task| (0..rank).map(move |own| (task, own))).filter(|(t, r)| used(*t, *r)).collect();
        if columns.is_empty() {
            columns.push((0, 0));
        }
        let count = columns.len();
        let side = (0..inputs).flat_map(|input| columns.iter().map(move |(task, own)| (input, *task, *own)));
        let side: Vec<f32> = side.map(|(input, task, own)| a_of(task, input, own)).collect();
        let below: Vec<f32> = columns.iter().flat_map(|(task, own)| b_row(*task, *own)).copied().collect();
        let mask = Tensor::f32_from_fn(vec![tasks, 1, count], |place| {
            f32::from(u8::from(columns[place % count].0 == place / count))
        });
        Some(Self {
            down: Tensor::new(vec![inputs, count], Data::F32(side))?,
            up: Tensor::new(vec![count, outputs], Data::F32(below))?,
            mask,
            count,
        })
    }
}

/// Puts the lowering; `site` names its values, `output` is the value that it makes.
pub(super) fn lower(
    rewriter: &mut Rewriter<'_>,
    site: &str,
    (x, index): (ValueId, ValueId),
    columns: Columns,
    output: ValueId,
) -> Result<(), IrError> {
    let hidden = own_columns(rewriter, site, (x, index), (columns.down, columns.mask))?;
    let up = rewriter.constant(format!("{site}.lora_b.below"), columns.up)?;
    rewriter.replace(output, Op::MatMul, &[hidden, up]);
    Ok(())
}

/// `(x down) * mask`: hidden states of all tasks, the others' zero.
pub(super) fn own_columns(
    rewriter: &mut Rewriter<'_>,
    site: &str,
    (x, index): (ValueId, ValueId),
    (down, mask): (Tensor, Tensor),
) -> Result<ValueId, IrError> {
    let down = rewriter.constant(format!("{site}.lora_a.beside"), down)?;
    // Equal for all sites of equal ranks: de-duplicated afterwards.
    let mask = rewriter.constant(format!("{site}.task_columns"), mask)?;
    let mask = rewriter.node(format!("{site}.task_mask"), Op::Gather { axis: 0 }, &[mask, index])?;
    let hidden = rewriter.node(format!("{site}.task_hidden.all"), Op::MatMul, &[x, down])?;
    rewriter.node(format!("{site}.task_hidden"), Op::Binary(Binary::Mul), &[hidden, mask])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_of_zeros_have_no_column() {
        // Two tasks of rank 2, the second one's filled up from rank 1.
        let down = Tensor::new(vec![2, 2, 2], Data::F32(vec![1.0, 2.0, 3.0, 4.0, 5.0, 0.0, 6.0, 0.0])).unwrap();
        let up = Tensor::new(vec![2, 2, 1], Data::F32(vec![7.0, 8.0, 9.0, 0.0])).unwrap();
        let columns = Columns::new(&down, &up).unwrap();
        assert_eq!(columns.count, 3);
        assert_eq!(columns.down.as_f32().unwrap(), [1.0, 2.0, 5.0, 3.0, 4.0, 6.0]);
        assert_eq!(columns.up.as_f32().unwrap(), [7.0, 8.0, 9.0]);
        assert_eq!(columns.mask.as_f32().unwrap(), [1.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
    }
}
