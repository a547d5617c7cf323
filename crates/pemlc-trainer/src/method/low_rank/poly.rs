//! Poly (arXiv 2202.13914) and, with several splits, multi-head routing (arXiv 2211.03831): an inventory of skills whose *factors* are
//! mixed for each task, `dW_t = (alpha / r) B_t A_t` with `A_t = sum_s w_ts A_s` in each split of the inputs, and B_t likewise.

use super::{Factors, Site, bound};
use crate::config::PolyConfig;
use crate::method::Moment;
use crate::parameters::{Leaves, ParameterSet};
use crate::random::Stream;
use burn::tensor::{DType, Tensor, TensorData, activation::sigmoid};

pub(super) struct Poly {
    pub(super) config: PolyConfig,
    pub(super) rank: usize,
    pub(super) alpha: f64,
    pub(super) tasks: usize,
}

const A: &str = "skills.a";
const B: &str = "skills.b";
const LOGITS: &str = "skills.logits";
/// Bound of fresh logits.
const LOGIT_BOUND: f32 = 1e-3;
/// Of the gates in training.
const TEMPERATURE: f32 = 1.0;
/// Keeps the division by the sum of gates finite.
const EPSILON: f32 = 1e-12;

/// `logit(u)` for uniform u, one for each gate of a batch: what makes a sigmoid a relaxed Bernoulli of temperature 1.
fn noise(count: usize, seed: u64, name: &str, batch: u64) -> Vec<f32> {
    // Away from 0 and 1, where the logarithm is infinite.
    let uniform = Stream::new(seed, name, batch).uniform(count, 0.5 - 1e-6).into_iter().map(|u| f64::from(u) + 0.5);
    uniform.map(|u| (u.ln() - (1.0 - u).ln()) as f32).collect()
}

/// A sample of a relaxed Bernoulli for logistic `noise`, `sigmoid((logits + noise) / temperature)`.
pub(super) fn relaxed_bernoulli<const D: usize>(logits: Tensor<D>, noise: Tensor<D>, temperature: f32) -> Tensor<D> {
    sigmoid((logits + noise) / temperature)
}

/// Weights of the skills, `[sets, splits, skills]`, that sum to 1 over the skills, from gates in (0, 1).
pub(super) fn weights(gates: Tensor<3>) -> Tensor<3> {
    gates.clone() / (gates.sum_dim(2) + EPSILON)
}

impl Poly {
    fn weights(&self, site: &Site, parameters: &Leaves, moment: &Moment) -> Tensor<3> {
        let shape = [self.tasks, self.config.splits, self.config.skills];
        let logits = parameters.get::<2>(&site.name(LOGITS)).reshape(shape);
        weights(match *moment {
            Moment::Training { seed, batch } if self.config.noise => {
                let values = noise(shape.iter().product(), seed, &format!("{}.noise", site.name(LOGITS)), batch);
                let device = logits.device();
                let noise = Tensor::from_data(TensorData::new(values, shape), (&device, DType::F32));
                relaxed_bernoulli(logits, noise, TEMPERATURE)
            }
            _ => sigmoid(logits),
        })
    }

    /// A and B of each row of `weights` `[sets, splits, skills]`.
    pub(super) fn mix(&self, site: &Site, parameters: &Leaves, weights: Tensor<3>) -> [Tensor<3>; 2] {
        let (rank, skills, splits) = (self.rank, self.config.skills, self.config.splits);
        let [sets, ..] = weights.dims();
        let weights = weights.swap_dims(0, 1);
        let (inputs, outputs) = (site.inputs / splits, site.outputs / splits);
        let mixed = |part: &str, size: usize| {
            let all = parameters.get::<4>(&site.name(part)).reshape([splits, skills, size]);
            weights.clone().matmul(all)
        };
        let a: Tensor<4> = mixed(A, inputs * rank).reshape([splits, sets, inputs, rank]);
        let b: Tensor<4> = mixed(B, rank * outputs).reshape([splits, sets, rank, outputs]);
        [
            a.permute([1, 3, 0, 2]).reshape([sets, rank, site.inputs]),
            b.permute([1, 0, 3, 2]).reshape([sets, site.outputs, rank]),
        ]
    }
}

impl Factors for Poly {
    fn initialize(&self, site: &Site, seed: u64, set: &mut ParameterSet) {
        let (rank, skills, splits) = (self.rank, self.config.skills, self.config.splits);
        let (inputs, outputs) = (site.inputs / splits, site.outputs / splits);
        site.uniform(A, &[splits, skills, inputs, rank], bound(inputs), seed, set);
        site.fill(B, &[splits, skills, rank, outputs], 0.0, set);
        site.uniform(LOGITS, &[self.tasks, splits * skills], LOGIT_BOUND, seed, set);
    }

    fn factors(&self, site: &Site, parameters: &Leaves, moment: &Moment) -> Vec<[Tensor<3>; 2]> {
        vec![self.mix(site, parameters, self.weights(site, parameters, moment))]
    }

    fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }
}
