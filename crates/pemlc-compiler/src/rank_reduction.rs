//! `--rank-tolerance`: leaves out directions of tasks' own deltas that hardly count.
//!
//! For each task, the deltas of all sites are one block-diagonal matrix. Its smallest singular values go, wherever they are, as long as the
//! Frobenius norm of what goes is at most `tolerance` times that of the whole: the best approximation of its rank there is. A site where
//! nothing is left of any task goes as a whole. Deltas that all tasks share cost nothing and stay.

use crate::ir::{Data, Tensor};
use crate::linear_algebra::{Matrix, Svd};
use crate::lower::projection_path;
use crate::normal_form::{LowRank, NormalForm, Site};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What was left out of one task's deltas.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskReduction {
    /// Sum of the ranks of all sites before.
    pub ranks: usize,
    /// And after.
    pub kept: usize,
    /// Sites with a delta of this task before that have none after.
    pub sites_dropped: usize,
    /// Frobenius norm of what was left out over that of the task's deltas, all sites together.
    pub relative_error: f64,
}

/// What was left out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RankReduction {
    /// For each task.
    pub tasks: Vec<TaskReduction>,
    /// Paths of the sites where no task has a delta any more.
    pub sites_dropped: Vec<String>,
}

/// `q_down (u s v) q_up^T`: one task's delta at one site.
struct Decomposed {
    q_down: Matrix,
    q_up: Matrix,
    middle: Svd,
}

/// Leaves out of `normal_form` what `tolerance`, between 0 and 1, allows.
pub(crate) fn reduce_ranks(normal_form: &mut NormalForm, tolerance: f64) -> RankReduction {
    let tasks = normal_form.tasks;
    let factors = normal_form.private.values().flat_map(|delta| [&delta.down, &delta.up]);
    if !factors.filter_map(|tensor| tensor.as_f32()).flatten().all(|value| value.is_finite()) {
        // Nothing is left out of what is broken: reading a run refuses it, and says where.
        return RankReduction::default();
    }
    let mut parts: BTreeMap<(usize, Site), Decomposed> = BTreeMap::new();
    for (site, delta) in &normal_form.private {
        for task in 0..tasks {
            if let Some((down, up)) = of_task(delta, task) {
                parts.insert((task, *site), decompose(&down, &up));
            }
        }
    }
    let mut kept: BTreeMap<(usize, Site), usize> = BTreeMap::new();
    let mut reduction = RankReduction::default();
    for task in 0..tasks {
        let own = || parts.iter().filter(|((owner, _), _)| *owner == task);
        let mut values: Vec<(f64, Site)> = Vec::new();
        for ((_, site), part) in own() {
            values.extend(part.middle.s.iter().take(part.middle.rank()).map(|value| (*value, *site)));
            kept.insert((task, *site), part.middle.rank());
        }
        values.sort_by(|left, right| left.0.total_cmp(&right.0).then(left.1.cmp(&right.1)));
        let total: f64 = values.iter().map(|(value, _)| value * value).sum();
        let ranks = values.len();
        let (mut dropped, mut dropped_count) = (0.0, 0);
        for (value, site) in values {
            if dropped + value * value > tolerance * tolerance * total {
                break;
            }
            dropped += value * value;
            dropped_count += 1;
            if let Some(count) = kept.get_mut(&(task, site)) {
                *count -= 1;
            }
        }
        let had = own().filter(|(_, part)| part.middle.rank() > 0).map(|((_, site), _)| *site);
        reduction.tasks.push(TaskReduction {
            ranks,
            kept: ranks - dropped_count,
            sites_dropped: had.filter(|site| kept.get(&(task, *site)) == Some(&0)).count(),
            relative_error: if total > 0.0 { (dropped / total).sqrt() } else { 0.0 },
        });
    }
    let sites: Vec<Site> = normal_form.private.keys().copied().collect();
    for site in sites {
        let rank = (0..tasks).filter_map(|task| kept.get(&(task, site))).copied().max().unwrap_or_default();
        if rank == 0 {
            normal_form.private.remove(&site);
            reduction.sites_dropped.push(projection_path(site.0, site.1));
            continue;
        }
        let Some(delta) = normal_form.private.get(&site) else { continue };
        let whole = |task: usize| {
            parts.get(&(task, site)).is_none_or(|part| kept.get(&(task, site)) == Some(&part.middle.rank()))
        };
        if (0..tasks).all(whole) {
            continue;
        }
        if let Some(smaller) =
            restack(delta, tasks, rank, |task| Some(truncated(parts.get(&(task, site))?, *kept.get(&(task, site))?)))
        {
            normal_form.private.insert(site, smaller);
        }
    }
    reduction
}

/// Factors of one task, `[in, rank]` and `[rank, out]`; `None` when one is no f32 stack.
pub(crate) fn of_task(delta: &LowRank, task: usize) -> Option<(Matrix, Matrix)> {
    task_matrix(&delta.down, task).zip(task_matrix(&delta.up, task))
}

/// Part `task` of a stack of matrices.
pub(crate) fn task_matrix(stack: &Tensor, task: usize) -> Option<Matrix> {
    let [_, rows, columns] = *stack.shape() else { return None };
    let values = stack.as_f32()?.get(task * rows * columns..(task + 1) * rows * columns)?;
    Some(Matrix::from_f32(rows, columns, values))
}

fn decompose(down: &Matrix, up: &Matrix) -> Decomposed {
    let ((q_down, r_down), (q_up, r_up)) = (down.qr(), up.transposed().qr());
    let mut middle = r_down.times(&r_up.transposed()).svd();
    // What is left of zeros by rounding is no rank.
    let least = middle.s.first().copied().unwrap_or_default() * 1e-13;
    middle.s.iter_mut().filter(|value| **value <= least).for_each(|value| *value = 0.0);
    Decomposed { q_down, q_up, middle }
}

/// The factors of the first `rank` singular values, which go into the second factor.
fn truncated(part: &Decomposed, rank: usize) -> (Matrix, Matrix) {
    let Svd { u, s, v } = &part.middle;
    let down = part.q_down.times(&u.first_columns(rank));
    let scaled = Matrix::from_fn(rank, v.columns, |row, column| s[row] * v.at(row, column));
    (down, scaled.times(&part.q_up.transposed()))
}

/// Stacks the factors of all tasks at `rank`, zeros where one has fewer or none.
fn restack(
    delta: &LowRank,
    tasks: usize,
    rank: usize,
    factors: impl Fn(usize) -> Option<(Matrix, Matrix)>,
) -> Option<LowRank> {
    let (inputs, outputs) = (*delta.down.shape().get(1)?, *delta.up.shape().get(2)?);
    let mut down = vec![0f32; tasks * inputs * rank];
    let mut up = vec![0f32; tasks * rank * outputs];
    for task in 0..tasks {
        let Some((own_down, own_up)) = factors(task) else { continue };
        for input in 0..inputs {
            for column in 0..own_down.columns {
                down[(task * inputs + input) * rank + column] = own_down.at(input, column) as f32;
            }
        }
        let own = own_up.to_f32();
        up[task * rank * outputs..][..own.len()].copy_from_slice(&own);
    }
    let tensor = |shape: Vec<usize>, values| Tensor::new(shape, Data::F32(values)).map(Arc::new);
    Some(LowRank { down: tensor(vec![tasks, inputs, rank], down)?, up: tensor(vec![tasks, rank, outputs], up)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use pemlc_artifact::Projection;

    /// Task 0: singular values 8 and 1 at the first site and 0.5 at the second; task 1: 4 at the first site alone.
    fn normal_form() -> NormalForm {
        let tensor = |shape: &[usize], values: &[f32]| {
            Arc::new(Tensor::new(shape.to_vec(), Data::F32(values.to_vec())).unwrap())
        };
        let first = LowRank {
            down: tensor(&[2, 2, 2], &[2.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0]),
            up: tensor(&[2, 2, 3], &[4.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 4.0, 0.0, 0.0, 0.0]),
        };
        let second = LowRank { down: tensor(&[2, 1, 1], &[0.5, 0.0]), up: tensor(&[2, 1, 1], &[1.0, 0.0]) };
        let private = BTreeMap::from([((0, Projection::QProj), first), ((0, Projection::UpProj), second)]);
        NormalForm { tasks: 2, private, ..NormalForm::default() }
    }

    fn product(delta: &LowRank, task: usize) -> Vec<f32> {
        let (down, up) = of_task(delta, task).unwrap();
        down.times(&up).to_f32()
    }

    #[test]
    fn the_smallest_singular_values_of_a_task_go_first() {
        let mut form = normal_form();
        // Of 64 + 1 + 0.25: 0.25 goes, 1.25 would be more than 0.1 squared of it.
        let reduction = reduce_ranks(&mut form, 0.1);
        assert_eq!(reduction.sites_dropped, ["layers.0.mlp.up_proj"]);
        let error = (0.25f64 / 65.25).sqrt();
        let [first, second] = &reduction.tasks[..] else { panic!() };
        assert_eq!((first.ranks, first.kept, first.sites_dropped), (3, 2, 1));
        assert!((first.relative_error - error).abs() < 1e-12, "{first:?}");
        assert_eq!((second.ranks, second.kept, second.relative_error), (1, 1, 0.0));
        assert!(!form.private.contains_key(&(0, Projection::UpProj)));
    }

    #[test]
    fn ranks_shrink_where_all_tasks_allow() {
        let mut form = normal_form();
        reduce_ranks(&mut form, 0.2);
        let delta = &form.private[&(0, Projection::QProj)];
        assert_eq!((delta.down.shape(), delta.up.shape()), (&[2, 2, 1][..], &[2, 1, 3][..]));
        assert_eq!(product(delta, 0), [8.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(product(delta, 1), [0.0, 0.0, 0.0, 0.0, 0.0, 4.0]);
    }

    #[test]
    fn what_is_broken_is_left_for_the_writer_to_find() {
        let mut form = normal_form();
        let site = (0, Projection::QProj);
        let nan = Arc::new(Tensor::f32_from_fn(vec![2, 2, 2], |place| if place == 3 { f32::NAN } else { 1.0 }));
        form.private.get_mut(&site).unwrap().down = Arc::clone(&nan);
        reduce_ranks(&mut form, 0.5);
        assert!(Arc::ptr_eq(&form.private[&site].down, &nan));
    }

    #[test]
    fn nothing_goes_without_a_tolerance() {
        let (mut form, before) = (normal_form(), normal_form());
        let reduction = reduce_ranks(&mut form, 0.0);
        assert_eq!(form.private[&(0, Projection::UpProj)], before.private[&(0, Projection::UpProj)]);
        for task in 0..2 {
            let site = (0, Projection::QProj);
            assert_eq!(product(&form.private[&site], task), product(&before.private[&site], task));
        }
        assert!(reduction.tasks.iter().all(|task| task.relative_error == 0.0 && task.ranks == task.kept));
    }
}
