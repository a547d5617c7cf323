//! Norms that belong to one task (DoRA). The weight is all tasks', so what a task's norms come to scales its outputs:
//! `m_t / ||W + s B_t A_t|| * (W + s B_t A_t) x`. The factor is a constant of the base model and the adapter, and is computed here.

use crate::ir::Tensor;
use crate::normal_form::Site;
use pemlc_artifact::peft::LoraAdapter;
use pemlc_artifact::{Checkpoint, CheckpointError};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Rows of the weight that are in memory at a time.
const BLOCK_ROWS: usize = 64;

/// Factors of every site where a task has norms, `[tasks, out]`: 1 where a task has none.
pub(crate) fn private_scales(
    tasks: &[LoraAdapter],
    checkpoint: &Checkpoint,
) -> Result<BTreeMap<Site, Arc<Tensor>>, CheckpointError> {
    let with_norms = |adapter: &LoraAdapter| {
        let sites = adapter.weights.iter().filter(|(_, weights)| weights.magnitude.is_some());
        sites.map(|(site, _)| *site).collect::<Vec<Site>>()
    };
    let sites: BTreeSet<Site> = tasks.iter().flat_map(with_norms).collect();
    sites.into_iter().map(|site| Ok((site, Arc::new(of_site(tasks, checkpoint, site)?)))).collect()
}

fn of_site(tasks: &[LoraAdapter], checkpoint: &Checkpoint, site: Site) -> Result<Tensor, CheckpointError> {
    let weight = checkpoint.tensor(&format!("{}.weight", site.1.module(site.0)))?;
    let (inputs, outputs) = site.1.features(checkpoint.config());
    let mut factors = vec![1f32; tasks.len() * outputs];
    for start in (0..outputs).step_by(BLOCK_ROWS) {
        let end = (start + BLOCK_ROWS).min(outputs);
        let block = weight.rows_f32(start..end);
        for (row, values) in block.chunks_exact(inputs).enumerate() {
            let output = start + row;
            for (task, adapter) in tasks.iter().enumerate() {
                if let Some(factor) = factor(adapter, site, output, values) {
                    factors[task * outputs + output] = factor;
                }
            }
        }
    }
    Ok(Tensor::f32_from_fn(vec![tasks.len(), outputs], |place| factors[place]))
}

/// The factor of row `output` of the weight, `row` `[in]`. A row of zeros stays one.
fn factor(adapter: &LoraAdapter, site: Site, output: usize, row: &[f32]) -> Option<f32> {
    let weights = adapter.weights.get(&site)?;
    let magnitude = *weights.magnitude.as_ref()?.get(output)?;
    let (rank, scale) = (adapter.rank_of(site), adapter.factor_of(site));
    let mut sum: Vec<f64> = row.iter().map(|value| f64::from(*value)).collect();
    let b = weights.b.get(output * rank..(output + 1) * rank)?;
    for (b, a) in b.iter().zip(weights.a.chunks_exact(row.len())) {
        let b = scale * f64::from(*b);
        sum.iter_mut().zip(a).for_each(|(sum, a)| *sum += b * f64::from(*a));
    }
    let norm = sum.iter().map(|value| value * value).sum::<f64>().sqrt();
    Some(if norm == 0.0 { 0.0 } else { (f64::from(magnitude) / norm) as f32 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use pemlc_artifact::Projection;
    use pemlc_artifact::peft::LoraWeights;

    #[test]
    fn the_factor_brings_a_row_to_its_norm() {
        let site = (0, Projection::QProj);
        // Row 1: [1 2] + 2 (3 [1 0] + 1 [0 1]) = [7 4], of norm sqrt(65).
        let weights =
            LoraWeights { a: vec![1.0, 0.0, 0.0, 1.0], b: vec![9.0, 9.0, 3.0, 1.0], magnitude: Some(vec![5.0, 13.0]) };
        let adapter = LoraAdapter {
            rank: 2,
            alpha: 4.0,
            own: BTreeMap::new(),
            dropout: 0.0,
            base_model: String::new(),
            weights: BTreeMap::from([(site, weights)]),
        };
        let found = factor(&adapter, site, 1, &[1.0, 2.0]).unwrap();
        assert!((f64::from(found) - 13.0 / 65f64.sqrt()).abs() < 1e-6, "{found}");
        assert_eq!(factor(&adapter, (1, Projection::QProj), 1, &[1.0, 2.0]), None);
        assert_eq!(factor(&adapter, site, 1, &[-6.0, -2.0]), Some(0.0));
    }
}
