//! AdaLoRA (arXiv 2303.10512): `dW = alpha / (r + 1e-5) B diag(E) A`, a singular value decomposition whose values E are pruned while it
//! trains, the least important over all projections first. One for all tasks.

use super::rank_allocation::{Allocation, KEPT};
use super::{Factors, Site};
use crate::config::AdaLoraConfig;
use crate::method::Moment;
use crate::optimizer::GradientMap;
use crate::parameters::{Group, Leaves, ParameterSet};
use burn::tensor::Tensor;

pub(super) struct AdaLora {
    pub(super) config: AdaLoraConfig,
    pub(super) alpha: f64,
    /// Optimiser steps of the run.
    pub(super) steps: u64,
}

/// Right singular vectors, `[rank, in]`.
pub(super) const A: &str = "a";
/// Singular values, `[rank, 1]`.
pub(super) const E: &str = "e";
/// Left singular vectors, `[out, rank]`.
pub(super) const B: &str = "b";
/// Deviation of fresh vectors.
const DEVIATION: f32 = 0.02;
/// What PEFT adds to the rank that alpha is divided by.
const EPSILON: f64 = 1e-5;

impl AdaLora {
    fn allocation(&self) -> Allocation {
        Allocation::new(&self.config, self.steps)
    }
}

impl Factors for AdaLora {
    /// E is zero: the start is the base model.
    fn initialize(&self, site: &Site, seed: u64, set: &mut ParameterSet) {
        let rank = self.config.initial_rank;
        site.normal(A, &[rank, site.inputs], DEVIATION, seed, set);
        site.fill(E, &[rank, 1], 0.0, set);
        site.normal(B, &[site.outputs, rank], DEVIATION, seed, set);
        set.insert(site.name(KEPT), Group::Constant, &[rank], vec![1.0; rank]);
    }

    fn factors(&self, site: &Site, parameters: &Leaves, _moment: &Moment) -> Vec<[Tensor<3>; 2]> {
        let a = parameters.get::<2>(&site.name(A)) * parameters.get::<2>(&site.name(E));
        vec![[a.unsqueeze(), parameters.get(&site.name(B))]]
    }

    /// PEFT divides by the rank at the start, whatever is left of it.
    fn scale(&self) -> f64 {
        self.alpha / (self.config.initial_rank as f64 + EPSILON)
    }

    fn is_shared(&self) -> bool {
        true
    }

    /// How far the vectors are from orthonormal: the mean of `||A A^T - I||` and `||B^T B - I||` over all projections.
    fn penalty(&self, sites: &[Site], parameters: &Leaves) -> Option<Tensor<1>> {
        let weight = self.config.orthogonality / (2 * sites.len()) as f64;
        let terms: Vec<Tensor<1>> = sites.iter().flat_map(|site| distances(site, parameters)).collect();
        (weight > 0.0).then(|| Tensor::cat(terms, 0).sum() * weight as f32)
    }

    fn observe(&self, sites: &[Site], done: u64, gradients: &GradientMap, set: &mut ParameterSet) {
        self.allocation().observe(sites, done, gradients, set);
    }
}

/// `||A A^T - I||` and `||B^T B - I||`.
fn distances(site: &Site, parameters: &Leaves) -> [Tensor<1>; 2] {
    let distance = |gram: Tensor<2>| -> Tensor<1> {
        let identity = Tensor::<2>::eye(gram.dims()[0], &gram.device());
        (gram - identity).square().sum().sqrt()
    };
    let (a, b) = (parameters.get::<2>(&site.name(A)), parameters.get::<2>(&site.name(B)));
    [distance(a.clone().matmul(a.transpose())), distance(b.clone().transpose().matmul(b))]
}
