//! `--include-base`: the frozen model, without any delta or prefix, as one task more.
//!
//! Deltas that all tasks share are part of the weights, so this task takes them off again, as a delta of its own. Where the weights were
//! brought to norms, `W' = c (W + A B)` column by column, `x W` is `(x W' - x A (c B)) / c`.

use crate::ir::{Data, Tensor};
use crate::linear_algebra::Matrix;
use crate::lower::projection_path;
use crate::normal_form::{LowRank, NormalForm, Prefix, PrefixLayer, Site};
use pemlc_artifact::BASE_TASK;
use pemlc_artifact::prompt::SHUT;
use pemlc_artifact::run::TaskRecord;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Why the base model cannot be a task.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BaseTaskError {
    /// A norm of zero wipes out what the base model computes there.
    #[error(
        "--include-base: output {output} of `{site}` has a trained magnitude of zero, so the base model's weight cannot be had back \
         from the adapted one: leave out --include-base"
    )]
    Zero {
        /// The projection.
        site: String,
        /// Its output.
        output: usize,
    },
    /// A defect of the compiler.
    #[error("--include-base: the factors of `{site}` do not fit together")]
    Factors {
        /// The projection.
        site: String,
    },
}

/// Adds the base model as the last task. `factors` `[1, out]` are what the columns of merged weights were multiplied by, where they have norms.
pub(crate) fn add_base_task(
    normal_form: &mut NormalForm,
    factors: &BTreeMap<Site, Arc<Tensor>>,
) -> Result<(), BaseTaskError> {
    let tasks = normal_form.tasks;
    let sites: BTreeSet<Site> = normal_form.private.keys().chain(normal_form.shared.keys()).copied().collect();
    for site in sites {
        let path = || projection_path(site.0, site.1);
        let shared = normal_form.shared.get(&site);
        let scale = factors.get(&site).and_then(|scale| scale.as_f32());
        let taken_off = shared.map(|delta| taken_off(delta, scale));
        let misfit = || BaseTaskError::Factors { site: path() };
        if taken_off == Some(None) {
            return Err(misfit());
        }
        let own = normal_form.private.get(&site);
        let extended = extended(own, taken_off.flatten(), tasks).ok_or_else(misfit)?;
        normal_form.private.insert(site, extended);
        if let Some(scale) = scale {
            let mut scales = vec![1.0; tasks * scale.len()];
            for (output, value) in scale.iter().enumerate() {
                if *value == 0.0 {
                    return Err(BaseTaskError::Zero { site: path(), output });
                }
                scales.push(value.recip());
            }
            let scales = Tensor::new(vec![tasks + 1, scale.len()], Data::F32(scales)).ok_or_else(misfit)?;
            normal_form.private_scale.insert(site, Arc::new(scales));
        }
    }
    // The others' norms, also of sites that have no delta (any more).
    for (site, scales) in &mut normal_form.private_scale {
        let [rows, outputs] = *scales.shape() else { continue };
        if rows == tasks {
            let values = scales.as_f32().unwrap_or_default().iter().copied();
            let values = values.chain(std::iter::repeat_n(1.0, outputs)).collect();
            let misfit = || BaseTaskError::Factors { site: projection_path(site.0, site.1) };
            *scales = Arc::new(Tensor::new(vec![tasks + 1, outputs], Data::F32(values)).ok_or_else(misfit)?);
        }
    }
    if let Some(prefix) = &mut normal_form.prefix {
        without_rows(prefix);
    }
    normal_form.tasks += 1;
    Ok(())
}

/// The task table's entry.
pub(crate) fn base_task_record() -> TaskRecord {
    TaskRecord {
        name: BASE_TASK.to_owned(),
        metric: "none".to_owned(),
        train_examples: 0,
        validation_examples: 0,
        base_score: None,
        score: None,
        standard_error: None,
        template: "{text}".to_owned(),
        verbalizers: Vec::new(),
        separator: None,
        normalize: None,
    }
}

/// `-A` and `c B` of a shared delta.
fn taken_off(delta: &LowRank, scale: Option<&[f32]>) -> Option<(Matrix, Matrix)> {
    let matrix = |tensor: &Tensor| match *tensor.shape() {
        [rows, columns] => Some(Matrix::from_f32(rows, columns, tensor.as_f32()?)),
        _ => None,
    };
    let (down, up) = (matrix(&delta.down)?, matrix(&delta.up)?);
    let factor = |column: usize| scale.and_then(|scale| scale.get(column)).map_or(1.0, |value| f64::from(*value));
    Some((
        Matrix::from_fn(down.rows, down.columns, |row, column| -down.at(row, column)),
        Matrix::from_fn(up.rows, up.columns, |row, column| factor(column) * up.at(row, column)),
    ))
}

/// The stacks of `own`, or zeros, with one task more, filled up to the larger rank.
fn extended(own: Option<&LowRank>, last: Option<(Matrix, Matrix)>, tasks: usize) -> Option<LowRank> {
    let (inputs, outputs) = match (own, &last) {
        (Some(own), _) => (*own.down.shape().get(1)?, *own.up.shape().get(2)?),
        (None, Some((down, up))) => (down.rows, up.columns),
        (None, None) => return None,
    };
    let own_rank = own.map_or(0, |own| own.down.shape().last().copied().unwrap_or_default());
    let last_rank = last.as_ref().map_or(0, |(down, _)| down.columns);
    let rank = own_rank.max(last_rank);
    let mut down = vec![0f32; (tasks + 1) * inputs * rank];
    let mut up = vec![0f32; (tasks + 1) * rank * outputs];
    if let Some(own) = own {
        let (from_down, from_up) = (own.down.as_f32()?, own.up.as_f32()?);
        for (row, values) in from_down.chunks(own_rank.max(1)).enumerate() {
            down[row * rank..][..values.len()].copy_from_slice(values);
        }
        for (task, values) in from_up.chunks((own_rank * outputs).max(1)).enumerate() {
            up[task * rank * outputs..][..values.len()].copy_from_slice(values);
        }
    }
    if let Some((last_down, last_up)) = last {
        for (row, values) in last_down.to_f32().chunks(last_rank.max(1)).enumerate() {
            down[(tasks * inputs + row) * rank..][..values.len()].copy_from_slice(values);
        }
        let values = last_up.to_f32();
        up[tasks * rank * outputs..][..values.len()].copy_from_slice(&values);
    }
    let tensor = |shape: Vec<usize>, values| Tensor::new(shape, Data::F32(values)).map(Arc::new);
    Some(LowRank {
        down: tensor(vec![tasks + 1, inputs, rank], down)?,
        up: tensor(vec![tasks + 1, rank, outputs], up)?,
    })
}

/// A set of rows that are shut, for one task more.
fn without_rows(prefix: &mut Prefix) {
    let with_set = |tensor: &Tensor, value: f32| {
        let (sets, size) = (tensor.shape()[0], tensor.shape()[1..].iter().product::<usize>());
        let values = tensor.as_f32().unwrap_or_default();
        let shape = [&[sets + 1], &tensor.shape()[1..]].concat();
        Arc::new(Tensor::f32_from_fn(shape, |place| if place < sets * size { values[place] } else { value }))
    };
    let sets = prefix.layers.first().map_or(0, |layer| layer.key.shape()[0]);
    prefix.set_of_task.push(sets);
    for layer in &mut prefix.layers {
        *layer = PrefixLayer {
            key: with_set(&layer.key, 0.0),
            value: with_set(&layer.value, 0.0),
            log_gate: with_set(&layer.log_gate, SHUT),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pemlc_artifact::Projection;

    fn tensor(shape: &[usize], values: &[f32]) -> Arc<Tensor> {
        Arc::new(Tensor::new(shape.to_vec(), Data::F32(values.to_vec())).unwrap())
    }

    #[test]
    fn a_shared_delta_is_taken_off_again() {
        let site = (0, Projection::QProj);
        let shared = LowRank { down: tensor(&[2, 1], &[1.0, 2.0]), up: tensor(&[1, 2], &[3.0, 4.0]) };
        let mut form = NormalForm { tasks: 2, shared: BTreeMap::from([(site, shared)]), ..NormalForm::default() };
        add_base_task(&mut form, &BTreeMap::new()).unwrap();
        assert_eq!(form.tasks, 3);
        let own = &form.private[&site];
        assert_eq!(own.down.as_f32().unwrap(), [0.0, 0.0, 0.0, 0.0, -1.0, -2.0]);
        assert_eq!(own.up.as_f32().unwrap(), [0.0, 0.0, 0.0, 0.0, 3.0, 4.0]);
        assert!(form.private_scale.is_empty());
    }

    #[test]
    fn norms_are_taken_off_with_it() {
        let site = (0, Projection::QProj);
        let shared = LowRank { down: tensor(&[1, 1], &[1.0]), up: tensor(&[1, 2], &[3.0, 4.0]) };
        let private = LowRank { down: tensor(&[1, 1, 2], &[5.0, 6.0]), up: tensor(&[1, 2, 2], &[7.0, 8.0, 9.0, 10.0]) };
        let mut form = NormalForm {
            tasks: 1,
            shared: BTreeMap::from([(site, shared)]),
            private: BTreeMap::from([(site, private)]),
            ..NormalForm::default()
        };
        let factors = BTreeMap::from([(site, tensor(&[1, 2], &[2.0, 0.5]))]);
        add_base_task(&mut form, &factors).unwrap();
        let own = &form.private[&site];
        assert_eq!(own.down.as_f32().unwrap(), [5.0, 6.0, -1.0, 0.0]);
        assert_eq!(own.up.as_f32().unwrap(), [7.0, 8.0, 9.0, 10.0, 6.0, 2.0, 0.0, 0.0]);
        assert_eq!(form.private_scale[&site].as_f32().unwrap(), [1.0, 1.0, 0.5, 2.0]);
        let mut form = NormalForm { shared: form.shared, ..NormalForm { tasks: 1, ..NormalForm::default() } };
        let zero = BTreeMap::from([(site, tensor(&[1, 2], &[2.0, 0.0]))]);
        let error = add_base_task(&mut form, &zero).unwrap_err().to_string();
        assert!(error.contains("output 1 of `layers.0.attention.q_proj`"), "{error}");
    }

    #[test]
    fn norms_of_tasks_whose_deltas_were_left_out_get_one_more() {
        let site = (0, Projection::QProj);
        // A DoRA of task 0 whose factors hold nothing: its norms are left.
        let empty = LowRank { down: tensor(&[2, 1, 1], &[1.0, 1.0]), up: tensor(&[2, 1, 2], &[0.0; 4]) };
        let mut form = NormalForm {
            tasks: 2,
            private: BTreeMap::from([(site, empty)]),
            private_scale: BTreeMap::from([(site, tensor(&[2, 2], &[2.0, 3.0, 1.0, 1.0]))]),
            ..NormalForm::default()
        };
        crate::rank_reduction::reduce_ranks(&mut form, 0.0);
        assert!(form.private.is_empty());
        add_base_task(&mut form, &BTreeMap::new()).unwrap();
        assert_eq!(form.private_scale[&site].as_f32().unwrap(), [2.0, 3.0, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(form.pinned(2).private_scale[&site].as_f32().unwrap(), [1.0, 1.0]);
    }

    #[test]
    fn the_base_model_sees_no_row_of_a_prefix() {
        let layer = PrefixLayer {
            key: tensor(&[1, 1, 1, 2], &[1.0, 2.0]),
            value: tensor(&[1, 1, 1, 2], &[3.0, 4.0]),
            log_gate: tensor(&[1, 1], &[0.5]),
        };
        let prefix = Prefix { set_of_task: vec![0, 0], only: None, layers: vec![layer] };
        let mut form = NormalForm { tasks: 2, prefix: Some(prefix), ..NormalForm::default() };
        add_base_task(&mut form, &BTreeMap::new()).unwrap();
        let prefix = form.prefix.unwrap();
        assert_eq!(prefix.set_of_task, [0, 0, 1]);
        assert_eq!(prefix.layers[0].log_gate.as_f32().unwrap(), [0.5, SHUT]);
        assert_eq!(prefix.layers[0].key.as_f32().unwrap(), [1.0, 2.0, 0.0, 0.0]);
    }
}
