//! A basis that all tasks share: where the deltas of a site have few directions together (tasks with one `A`, mixtures of few experts),
//! `x A_t B_t` is `((x U) M_t) V` with `U` and `V` of all tasks and a small core `M_t` of each. Two dense products by constants, and a gather of
//! little. `V` is left out, and `M_t V` gathered, where that is cheaper.
//!
//! `U` and `V` span the columns and rows of all deltas: exactly, up to the rounding of f32, or with a tolerance the directions that hold most
//! of them (the truncated higher-order singular value decomposition: De Lathauwer, De Moor, Vandewalle 2000).

use crate::ir::{Data, IrError, Op, Tensor, ValueId};
use crate::linear_algebra::Matrix;
use crate::passes::rewriter::Rewriter;
use crate::rank_reduction::task_matrix;

/// What counts as exact: relative Frobenius error of a task's delta. f32 holds its factors to 6e-8.
const EXACT: f64 = 1e-6;
/// More columns than this, of all tasks together, are not searched for an approximate basis: that takes time with their third power.
const MOST_COLUMNS: usize = 256;

/// Directions over the rank of a task, beyond which a basis costs more than a gather: both products by it are of every token.
const MOST_RANKS: usize = 4;

/// A site's deltas in a shared basis.
#[derive(Debug, PartialEq)]
pub(super) struct Basis {
    /// `[in, directions]`.
    pub(super) input: Tensor,
    /// `[tasks, directions, output directions]`, or `[tasks, directions, out]`.
    pub(super) core: Tensor,
    /// `[output directions, out]`, where the outputs have a basis too.
    pub(super) output: Option<Tensor>,
    /// Largest relative Frobenius error of a task's delta.
    pub(super) error: f64,
}

impl Basis {
    /// A basis of the deltas in `down` `[tasks, in, rank]` and `up` `[tasks, rank, out]`, where one is smaller than all ranks together.
    /// `tolerance` bounds the relative Frobenius error of each task's delta; 0 asks for an exact one.
    pub(super) fn new(down: &Tensor, up: &Tensor, tolerance: f64) -> Option<Self> {
        let (&[tasks, inputs, rank], &[_, _, outputs]) = (down.shape(), up.shape()) else { return None };
        let exact = tolerance <= EXACT;
        let tolerance = tolerance.max(EXACT);
        let columns = tasks * rank;
        if tasks < 2 || !exact && columns > MOST_COLUMNS {
            return None;
        }
        // Half of all columns is where a basis stops to pay beside masks; an approximate one is cut later.
        let most = if exact { (columns / 2).min(MOST_RANKS * rank) } else { columns };
        let parts: Vec<(Matrix, Matrix)> =
            (0..tasks).map(|task| task_matrix(down, task).zip(task_matrix(up, task))).collect::<Option<_>>()?;
        let space = |rows: usize, at: &dyn Fn(usize, usize) -> f64| {
            let of = |tasks: usize| Matrix::from_fn(rows, tasks * rank, at).column_space(EXACT, most.min(rows));
            // Where tasks are unrelated, a few show it: all of many would take minutes.
            let few = most / rank.max(1) + 2;
            if few < tasks && of(few).is_none() { None } else { of(tasks) }
        };
        let input = space(inputs, &|row, column| parts[column / rank].0.at(row, column % rank))?;
        // All rows of all `up`s may well be independent: then the outputs have no basis.
        let output = space(outputs, &|row, column| parts[column / rank].1.at(column % rank, row));
        let inner: Vec<Matrix> = parts.iter().map(|(down, _)| input.transposed().times(down)).collect();
        let outer = parts.iter().map(|(_, up)| match &output {
            Some(output) => up.times(output),
            None => up.clone(),
        });
        let cores: Vec<Matrix> = inner.iter().zip(outer).map(|(inner, outer)| inner.times(&outer)).collect();
        let found = if exact { Some((input, cores.clone(), output)) } else { cut(input, &cores, output, tolerance) };
        let (input, small, output) = found?;
        let errors: Vec<f64> = parts
            .iter()
            .zip(&small)
            .map(|((down, up), core)| {
                let found = input.times(core);
                let found = output.as_ref().map_or_else(|| found.clone(), |output| found.times(&output.transposed()));
                relative(&down.times(up), &found)
            })
            .collect();
        // Written so that NaN is refused. Rounding to f32 comes on top of it, as it does for the factors themselves.
        if !errors.iter().all(|error| *error <= tolerance) || input.columns == 0 {
            return None;
        }
        let error = errors.into_iter().fold(0.0, f64::max);
        Self::stacked(&input, &small, output.as_ref(), error)
    }

    fn stacked(input: &Matrix, cores: &[Matrix], output: Option<&Matrix>, error: f64) -> Option<Self> {
        let (rows, columns) = (input.columns, cores.first()?.columns);
        let values: Vec<f32> = cores.iter().flat_map(Matrix::to_f32).collect();
        Some(Self {
            input: input.to_tensor()?,
            core: Tensor::new(vec![cores.len(), rows, columns], Data::F32(values))?,
            output: match output {
                Some(output) => Some(output.transposed().to_tensor()?),
                None => None,
            },
            error,
        })
    }

    /// The same with `M_t V` in place of both.
    pub(super) fn without_output(&self) -> Option<Self> {
        let output = self.output.as_ref()?;
        let [tasks, _, directions] = *self.core.shape() else { return None };
        let output = Matrix::from_f32(directions, *output.shape().get(1)?, output.as_f32()?);
        let cores: Vec<Matrix> =
            (0..tasks).map(|task| Some(task_matrix(&self.core, task)?.times(&output))).collect::<Option<_>>()?;
        let [inputs, directions] = *self.input.shape() else { return None };
        Self::stacked(&Matrix::from_f32(inputs, directions, self.input.as_f32()?), &cores, None, self.error)
    }
}

/// Leaves out directions of the inputs, then of the outputs, each with half of the tolerance.
fn cut(
    input: Matrix,
    cores: &[Matrix],
    output: Option<Matrix>,
    tolerance: f64,
) -> Option<(Matrix, Vec<Matrix>, Option<Matrix>)> {
    let turn = leading(cores, tolerance / 2.0)?;
    let cores: Vec<Matrix> = cores.iter().map(|core| turn.transposed().times(core)).collect();
    let input = input.times(&turn);
    let Some(output) = output else { return Some((input, cores, None)) };
    let turned: Vec<Matrix> = cores.iter().map(Matrix::transposed).collect();
    let turn = leading(&turned, tolerance / 2.0)?;
    let cores = cores.iter().map(|core| core.times(&turn)).collect();
    Some((input, cores, Some(output.times(&turn))))
}

/// Directions `[rows, count]`, as few as leave out of no core more than `tolerance` of its norm.
fn leading(cores: &[Matrix], tolerance: f64) -> Option<Matrix> {
    let rows = cores.first()?.rows;
    // Every task counts the same, whatever its delta's length.
    let mut gram = Matrix::from_fn(rows, rows, |_, _| 0.0);
    for core in cores {
        let length = core.square_sum();
        if length > 0.0 {
            let own = core.times(&core.transposed());
            gram = Matrix::from_fn(rows, rows, |row, column| gram.at(row, column) + own.at(row, column) / length);
        }
    }
    let directions = gram.svd().u;
    // What each task has along each direction.
    let shares: Vec<(f64, Vec<f64>)> = cores
        .iter()
        .map(|core| {
            let turned = directions.transposed().times(core);
            let along = (0..rows).map(|row| (0..turned.columns).map(|column| turned.at(row, column).powi(2)).sum());
            (core.square_sum(), along.collect())
        })
        .collect();
    let enough = |count: usize| {
        shares.iter().all(|(whole, along)| {
            along.get(count..).unwrap_or_default().iter().sum::<f64>() <= tolerance * tolerance * whole
        })
    };
    let count = (0..=rows).find(|count| enough(*count)).unwrap_or(rows);
    Some(directions.first_columns(count.max(1)))
}

fn relative(expected: &Matrix, found: &Matrix) -> f64 {
    let (length, distance) = (expected.square_sum(), expected.distance(found));
    if length > 0.0 { (distance / length).sqrt() } else { distance.sqrt() }
}

/// Puts the lowering; `site` names its values, `output` is the value that it makes.
pub(super) fn lower(
    rewriter: &mut Rewriter<'_>,
    site: &str,
    (x, index): (ValueId, ValueId),
    basis: Basis,
    output: ValueId,
) -> Result<(), IrError> {
    let input = rewriter.constant(format!("{site}.lora_basis"), basis.input)?;
    let core = rewriter.constant(format!("{site}.lora_core"), basis.core)?;
    // Where tasks have one `A`, several projections of one value may have equal bases: de-duplicated afterwards.
    let hidden = rewriter.node(format!("{site}.task_directions"), Op::MatMul, &[x, input])?;
    let core = rewriter.node(format!("{site}.task_core"), Op::Gather { axis: 0 }, &[core, index])?;
    match basis.output {
        Some(outer) => {
            let outer = rewriter.constant(format!("{site}.lora_out_basis"), outer)?;
            let hidden = rewriter.node(format!("{site}.task_hidden"), Op::MatMul, &[hidden, core])?;
            rewriter.replace(output, Op::MatMul, &[hidden, outer]);
        }
        None => rewriter.replace(output, Op::MatMul, &[hidden, core]),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(shape: &[usize], seed: usize) -> Tensor {
        let mut state = seed as u64;
        Tensor::f32_from_fn(shape.to_vec(), |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
    }

    /// Three tasks with one `A` of rank 2.
    fn one_down() -> (Tensor, Tensor) {
        let own = tensor(&[1, 6, 2], 1);
        let down = Tensor::f32_from_fn(vec![3, 6, 2], |place| own.as_f32().unwrap()[place % 12]);
        (down, tensor(&[3, 2, 5], 2))
    }

    fn delta(basis: &Basis, task: usize) -> Matrix {
        let input = Matrix::from_f32(basis.input.shape()[0], basis.input.shape()[1], basis.input.as_f32().unwrap());
        let product = input.times(&task_matrix(&basis.core, task).unwrap());
        match &basis.output {
            Some(output) => {
                product.times(&Matrix::from_f32(output.shape()[0], output.shape()[1], output.as_f32().unwrap()))
            }
            None => product,
        }
    }

    #[test]
    fn tasks_with_one_a_have_its_columns_as_a_basis() {
        let (down, up) = one_down();
        let basis = Basis::new(&down, &up, 0.0).unwrap();
        assert_eq!(basis.input.shape(), [6, 2]);
        // Six rows of `up` have more than three directions.
        assert_eq!((basis.core.shape(), &basis.output), (&[3, 2, 5][..], &None));
        for task in 0..3 {
            let expected = task_matrix(&down, task).unwrap().times(&task_matrix(&up, task).unwrap());
            assert!(relative(&expected, &delta(&basis, task)) < 1e-6);
        }
    }

    #[test]
    fn mixtures_of_experts_have_small_cores() {
        // Six tasks, each a mixture of two experts of rank 1.
        let (a, b) = (tensor(&[2, 8], 3), tensor(&[2, 7], 4));
        let weight = |task: usize, expert: usize| (1 + task + 3 * expert * expert) as f32 / 4.0;
        let mixed = |of: &Tensor, place: usize, width: usize| -> f32 {
            let (task, at) = (place / width, place % width);
            (0..2).map(|expert| weight(task, expert) * of.as_f32().unwrap()[expert * width + at]).sum()
        };
        let down = Tensor::f32_from_fn(vec![6, 8, 1], |place| mixed(&a, place, 8));
        let up = Tensor::f32_from_fn(vec![6, 1, 7], |place| mixed(&b, place, 7));
        let basis = Basis::new(&down, &up, 0.0).unwrap();
        assert_eq!((basis.input.shape(), basis.core.shape()), (&[8, 2][..], &[6, 2, 2][..]));
        assert_eq!(basis.output.as_ref().unwrap().shape(), [2, 7]);
        let folded = basis.without_output().unwrap();
        assert_eq!(folded.core.shape(), [6, 2, 7]);
        for task in 0..6 {
            let expected = task_matrix(&down, task).unwrap().times(&task_matrix(&up, task).unwrap());
            assert!(relative(&expected, &delta(&basis, task)) < 1e-6);
            assert!(relative(&expected, &delta(&folded, task)) < 1e-6);
        }
    }

    #[test]
    fn unrelated_tasks_have_no_basis() {
        assert_eq!(Basis::new(&tensor(&[3, 9, 2], 5), &tensor(&[3, 2, 9], 6), 0.0), None);
    }

    /// A few tasks are looked at first: what they have in common all must have.
    #[test]
    fn many_tasks_have_a_basis_where_all_of_them_have_it() {
        let own = tensor(&[1, 40, 1], 1);
        let up = tensor(&[12, 1, 5], 2);
        let down = |tasks_with_it: usize| {
            let others = tensor(&[12, 40, 1], 7);
            Tensor::f32_from_fn(vec![12, 40, 1], |place| {
                let values = if place / 40 < tasks_with_it { own.as_f32() } else { others.as_f32() };
                values.unwrap()[if place / 40 < tasks_with_it { place % 40 } else { place }]
            })
        };
        assert_eq!(Basis::new(&down(12), &up, 0.0).unwrap().input.shape(), [40, 1]);
        assert_eq!(Basis::new(&down(9), &up, 0.0).unwrap().input.shape(), [40, 4]);
        assert_eq!(Basis::new(&down(7), &up, 0.0), None);
        assert_eq!(Basis::new(&down(0), &up, 0.0), None);
    }

    #[test]
    fn a_tolerance_leaves_out_what_is_small() {
        // One `A` for all, and a little of something else for each.
        let (down, up) = one_down();
        let noise = tensor(&[3, 6, 2], 9);
        let values = down.as_f32().unwrap().iter().zip(noise.as_f32().unwrap());
        let values: Vec<f32> = values.map(|(value, noise)| value + 1e-3 * noise).collect();
        let down = Tensor::new(vec![3, 6, 2], Data::F32(values)).unwrap();
        assert_eq!(Basis::new(&down, &up, 0.0), None);
        let basis = Basis::new(&down, &up, 0.05).unwrap();
        assert_eq!(basis.input.shape(), [6, 2]);
        assert!(basis.error > 1e-5 && basis.error < 0.05, "{}", basis.error);
    }
}
