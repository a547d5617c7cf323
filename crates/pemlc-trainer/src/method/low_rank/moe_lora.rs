//! MOELoRA (arXiv 2310.18339): the rank is split over experts, which a gate weighs by task, `dW_t = (alpha / r) sum_i g_ti B_i A_i` with
//! `g_t = softmax(G e_t)` of a task embedding e_t; embedding and gate are each projection's own.

use super::{Factors, Site, bound};
use crate::config::MoeLoraConfig;
use crate::method::Moment;
use crate::parameters::{Leaves, ParameterSet};
use burn::tensor::{Tensor, activation::softmax};

pub(super) struct MoeLora {
    pub(super) config: MoeLoraConfig,
    /// Of all experts together.
    pub(super) rank: usize,
    pub(super) alpha: f64,
    pub(super) tasks: usize,
}

const A: &str = "a";
const B: &str = "b";
const EMBEDDING: &str = "task_embedding";
const GATE: &str = "gate";
/// Deviation of a fresh A.
const DEVIATION: f32 = 0.01;

impl MoeLora {
    /// Weights of the experts by task, `[tasks, experts]`.
    pub(super) fn gates(&self, site: &Site, parameters: &Leaves) -> Tensor<2> {
        let gate = parameters.get::<2>(&site.name(GATE)).transpose();
        softmax(parameters.get::<2>(&site.name(EMBEDDING)).matmul(gate), 1)
    }
}

impl Factors for MoeLora {
    fn initialize(&self, site: &Site, seed: u64, set: &mut ParameterSet) {
        let (experts, embedding) = (self.config.experts, self.config.embedding);
        let rank = self.rank / experts;
        site.normal(A, &[experts, rank, site.inputs], DEVIATION, seed, set);
        site.fill(B, &[experts, site.outputs, rank], 0.0, set);
        site.normal(EMBEDDING, &[self.tasks, embedding], 1.0, seed, set);
        site.uniform(GATE, &[experts, embedding], bound(embedding), seed, set);
    }

    fn factors(&self, site: &Site, parameters: &Leaves, _moment: &Moment) -> Vec<[Tensor<3>; 2]> {
        let (experts, tasks) = (self.config.experts, self.tasks);
        let a = parameters.get::<3>(&site.name(A)).reshape([1, self.rank, site.inputs]);
        let b = parameters.get::<3>(&site.name(B)).swap_dims(0, 1).unsqueeze::<4>();
        let gates = self.gates(site, parameters).reshape([tasks, 1, experts, 1]);
        vec![[a, (b * gates).reshape([tasks, site.outputs, self.rank])]]
    }

    fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }
}
