//! Which singular values AdaLoRA keeps. A triplet is one of them with its two vectors; its importance is that of its entries, sensitivity
//! times uncertainty, smoothed over steps. The budget of triplets falls along a cube, and the least important of all projections go.
//!
//! What it remembers lies in the parameter set as constants, so a checkpoint holds it.

use super::Site;
use super::ada_lora::{A, B, E};
use crate::config::AdaLoraConfig;
use crate::optimizer::GradientMap;
use crate::parameters::{Group, ParameterSet, host};
use burn::tensor::Tensor;

/// 1 for triplets that the last allocation kept, 0 for the others, `[rank]`.
pub(super) const KEPT: &str = "kept";

/// The schedule, in steps.
pub(super) struct Allocation {
    initial_rank: usize,
    target_rank: usize,
    /// Steps before the budget falls.
    start: u64,
    /// Steps after which what is kept stays.
    settled: u64,
    interval: u64,
    betas: (f32, f32),
}

impl Allocation {
    /// For a run of so many steps.
    pub(super) fn new(config: &AdaLoraConfig, steps: u64) -> Self {
        let share = |fraction: f64| (fraction * steps as f64).round() as u64;
        Self {
            initial_rank: config.initial_rank,
            target_rank: config.target_rank,
            start: share(config.initial_fraction),
            settled: steps - share(config.final_fraction).min(steps),
            interval: config.interval,
            betas: (config.beta1 as f32, config.beta2 as f32),
        }
    }

    /// Takes in step `done`, and lets go of triplets when it is time.
    pub(super) fn observe(&self, sites: &[Site], done: u64, gradients: &GradientMap, set: &mut ParameterSet) {
        if done < self.settled {
            sites.iter().for_each(|site| self.remember(site, gradients, set));
        }
        let (budget, due) = self.budget(done, sites.len());
        if done == self.settled || due && done < self.settled {
            keep_best(sites, self.initial_rank, budget, set);
        }
        if done >= self.settled || due {
            sites.iter().for_each(|site| silence(site, set));
        }
    }

    /// How many triplets of `sites` projections may stay after `done` steps, and whether it is time to choose them.
    pub(super) fn budget(&self, done: u64, sites: usize) -> (usize, bool) {
        let (initial, target) = (self.initial_rank * sites, self.target_rank * sites);
        if done <= self.start {
            return (initial, false);
        }
        if done > self.settled {
            return (target, true);
        }
        let left = 1.0 - (done - self.start) as f64 / (self.settled - self.start) as f64;
        let budget = (initial - target) as f64 * left.powi(3) + target as f64;
        (budget as usize, done.is_multiple_of(self.interval))
    }

    /// Smooths the sensitivity `|p dL/dp|` of every entry, and how far it strays.
    fn remember(&self, site: &Site, gradients: &GradientMap, set: &mut ParameterSet) {
        let (beta1, beta2) = self.betas;
        for part in [A, E, B] {
            let name = site.name(part);
            let (Some(value), Some(gradient)) = (set.vector(&name), gradients.get(&name)) else { continue };
            let now = (value * gradient.clone()).abs();
            let old = |kind: &str| set.vector(&memory(site, kind, part)).unwrap_or_else(|| now.zeros_like());
            let sensitivity = old(SENSITIVITY) * beta1 + now.clone() * (1.0 - beta1);
            let uncertainty = old(UNCERTAINTY) * beta2 + (now - sensitivity.clone()).abs() * (1.0 - beta2);
            set.put(memory(site, SENSITIVITY, part), Group::Constant, sensitivity);
            set.put(memory(site, UNCERTAINTY, part), Group::Constant, uncertainty);
        }
    }
}

const SENSITIVITY: &str = "sensitivity";
const UNCERTAINTY: &str = "uncertainty";

fn memory(site: &Site, kind: &str, part: &str) -> String {
    site.name(&format!("{kind}.{part}"))
}

/// Importance of each of `rank` triplets: that of its singular value plus the means over its vectors.
fn importance(site: &Site, rank: usize, set: &ParameterSet) -> Vec<f32> {
    let entries = |part: &str, shape: [usize; 2]| -> Option<Tensor<2>> {
        let [sensitivity, uncertainty] = [SENSITIVITY, UNCERTAINTY].map(|kind| set.vector(&memory(site, kind, part)));
        Some((sensitivity? * uncertainty?).reshape(shape))
    };
    let (a, b) = (entries(A, [rank, site.inputs]), entries(B, [site.outputs, rank]));
    match (a, entries(E, [rank, 1]), b) {
        (Some(a), Some(e), Some(b)) => host(e + a.mean_dim(1) + b.mean_dim(0).transpose()),
        // Nothing was seen yet.
        _ => vec![0.0; rank],
    }
}

/// Marks the `budget` most important triplets of all projections together.
fn keep_best(sites: &[Site], rank: usize, budget: usize, set: &mut ParameterSet) {
    let scores: Vec<f32> = sites.iter().flat_map(|site| importance(site, rank, set)).collect();
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|left, right| scores[*right].total_cmp(&scores[*left]));
    let mut kept = vec![0.0; scores.len()];
    order.into_iter().take(budget).for_each(|place| kept[place] = 1.0);
    for (site, kept) in sites.iter().zip(kept.chunks(rank)) {
        set.insert(site.name(KEPT), Group::Constant, &[rank], kept.to_vec());
    }
}

/// Zeroes the singular values that are not kept.
fn silence(site: &Site, set: &mut ParameterSet) {
    let kept = set.vector(&site.name(KEPT));
    if let (Some(parameter), Some(kept)) = (set.parameters.get_mut(&site.name(E)), kept) {
        parameter.value = parameter.value.clone() * kept;
    }
}
