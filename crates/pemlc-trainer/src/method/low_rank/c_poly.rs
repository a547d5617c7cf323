//! C-Poly (arXiv 2312.03248): skills that all tasks share, mixed as in Poly, and skills that belong to one task each but may be lent:
//! `dW_t = (alpha / r) (B_t A_t + sum_j v_tj B'_j A'_j)`, v starting at 1 for the task's own skills and 0 for others'.

use super::{Factors, Poly, Site, bound};
use crate::config::CPolyConfig;
use crate::method::Moment;
use crate::parameters::{Group, Leaves, ParameterSet};
use burn::tensor::Tensor;

pub(super) struct CPoly {
    pub(super) config: CPolyConfig,
    /// The common skills.
    pub(super) common: Poly,
}

const A: &str = "own.a";
const B: &str = "own.b";
const LOANS: &str = "own.weights";

impl Factors for CPoly {
    fn initialize(&self, site: &Site, seed: u64, set: &mut ParameterSet) {
        self.common.initialize(site, seed, set);
        let (tasks, rank) = (self.common.tasks, self.common.rank);
        let own = tasks * self.config.own;
        site.uniform(A, &[own, rank, site.inputs], bound(site.inputs), seed, set);
        site.fill(B, &[own, site.outputs, rank], 0.0, set);
        let mine = |place: usize| if place / own == place % own / self.config.own { 1.0 } else { 0.0 };
        set.insert(site.name(LOANS), Group::Lora, &[tasks, own], (0..tasks * own).map(mine).collect());
    }

    fn factors(&self, site: &Site, parameters: &Leaves, moment: &Moment) -> Vec<[Tensor<3>; 2]> {
        let (tasks, rank) = (self.common.tasks, self.common.rank);
        let own = tasks * self.config.own;
        let a = parameters.get::<3>(&site.name(A)).reshape([1, own * rank, site.inputs]);
        let b = parameters.get::<3>(&site.name(B)).swap_dims(0, 1).unsqueeze::<4>();
        let weights = parameters.get::<2>(&site.name(LOANS)).reshape([tasks, 1, own, 1]);
        let b = (b * weights).reshape([tasks, site.outputs, own * rank]);
        let mut pairs = self.common.factors(site, parameters, moment);
        pairs.push([a, b]);
        pairs
    }

    fn scale(&self) -> f64 {
        self.common.scale()
    }
}
