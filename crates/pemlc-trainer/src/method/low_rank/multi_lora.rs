//! MultiLoRA (arXiv 2311.11501): parallel deltas, each with a learned vector of output scales, `dW = (alpha / r) sum_i diag(c_i) B_i A_i`.
//! One for all tasks.

use super::{Factors, Site, bound};
use crate::config::MultiLoraConfig;
use crate::method::Moment;
use crate::parameters::{Leaves, ParameterSet};
use burn::tensor::Tensor;

pub(super) struct MultiLora {
    pub(super) config: MultiLoraConfig,
    pub(super) rank: usize,
    pub(super) alpha: f64,
}

const A: &str = "a";
const B: &str = "b";
const SCALES: &str = "scales";

impl Factors for MultiLora {
    /// The scales are zero, so the start is the base model, and they alone have a gradient on the first step.
    fn initialize(&self, site: &Site, seed: u64, set: &mut ParameterSet) {
        let (rank, parallel) = (self.rank, self.config.parallel);
        site.uniform(A, &[parallel, rank, site.inputs], bound(site.inputs), seed, set);
        site.uniform(B, &[parallel, site.outputs, rank], bound(rank), seed, set);
        site.fill(SCALES, &[parallel, site.outputs], 0.0, set);
    }

    fn factors(&self, site: &Site, parameters: &Leaves, _moment: &Moment) -> Vec<[Tensor<3>; 2]> {
        let all = self.config.parallel * self.rank;
        let a = parameters.get::<3>(&site.name(A)).reshape([1, all, site.inputs]);
        let scales = parameters.get::<2>(&site.name(SCALES)).unsqueeze_dim::<3>(2);
        let b = (parameters.get::<3>(&site.name(B)) * scales).swap_dims(0, 1);
        vec![[a, b.reshape([1, site.outputs, all])]]
    }

    fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }

    fn is_shared(&self) -> bool {
        true
    }
}
