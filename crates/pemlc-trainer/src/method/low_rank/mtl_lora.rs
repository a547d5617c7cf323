//! MTL-LoRA (arXiv 2410.09437): `dW_t = (alpha / r) (sum_i softmax(w_t / temperature)_i B_i) Lambda_t A`, with A and every B_i shared by
//! all tasks, Lambda_t `[r, r]` or diagonal, and mixing logits w_t.

use super::{Factors, Site, bound};
use crate::config::MtlLoraConfig;
use crate::method::Moment;
use crate::parameters::{Group, Leaves, ParameterSet};
use burn::tensor::{Tensor, activation::softmax};

pub(super) struct MtlLora {
    pub(super) config: MtlLoraConfig,
    pub(super) rank: usize,
    pub(super) alpha: f64,
    pub(super) tasks: usize,
}

const A: &str = "a";
const B: &str = "b";
const LAMBDA: &str = "lambda";
const MIX: &str = "mix";

impl Factors for MtlLora {
    /// Lambda is the identity and every B zero: the start is the base model.
    fn initialize(&self, site: &Site, seed: u64, set: &mut ParameterSet) {
        let (rank, tasks, experts) = (self.rank, self.tasks, self.config.experts);
        site.uniform(A, &[rank, site.inputs], bound(site.inputs), seed, set);
        if self.config.diagonal {
            site.fill(LAMBDA, &[tasks, rank], 1.0, set);
        } else {
            let identity = (0..rank * rank).map(|place| if place % (rank + 1) == 0 { 1.0 } else { 0.0 });
            let identity: Vec<f32> = identity.collect();
            set.insert(site.name(LAMBDA), Group::Lora, &[tasks, rank, rank], identity.repeat(tasks));
        }
        site.fill(B, &[experts, site.outputs, rank], 0.0, set);
        site.uniform(MIX, &[tasks, experts], bound(experts), seed, set);
    }

    fn factors(&self, site: &Site, parameters: &Leaves, _moment: &Moment) -> Vec<[Tensor<3>; 2]> {
        let (rank, tasks, experts) = (self.rank, self.tasks, self.config.experts);
        let a = parameters.get::<2>(&site.name(A));
        let a = if self.config.diagonal {
            parameters.get::<2>(&site.name(LAMBDA)).unsqueeze_dim::<3>(2) * a.unsqueeze::<3>()
        } else {
            let lambda = parameters.get::<3>(&site.name(LAMBDA)).reshape([tasks * rank, rank]);
            lambda.matmul(a).reshape([tasks, rank, site.inputs])
        };
        let mix = softmax(parameters.get::<2>(&site.name(MIX)) / self.config.temperature as f32, 1);
        let b = parameters.get::<3>(&site.name(B)).reshape([experts, site.outputs * rank]);
        vec![[a, mix.matmul(b).reshape([tasks, site.outputs, rank])]]
    }

    fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }
}
