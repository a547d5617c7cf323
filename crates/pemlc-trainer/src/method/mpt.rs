//! Multitask prompt tuning (Wang et al. 2023, arXiv 2303.02861): task k's prompt is `P * (U_k V_k)`, elementwise, of one prompt P
//! `[length, width]` for all tasks and a factor of low rank for each, U `[length, rank]` and V `[rank, width]`.

use super::soft_prompt::PromptShape;
use super::{Destination, Method, Moment, Record, Start};
use crate::adaptation::Adaptation;
use crate::config::FactorInit;
use crate::error::TrainError;
use crate::parameters::{Group, Leaves, ParameterSet};
use crate::random::Stream;
use burn::tensor::Tensor;

const SHARED: &str = "mpt.shared";
const U: &str = "mpt.u";
const V: &str = "mpt.v";
/// Deviation of fresh factors, around 0 (PEFT) or around ones.
const FACTOR_DEVIATION: f32 = 0.02;

pub(super) struct Mpt(PromptShape);

impl Mpt {
    pub(super) fn new(shape: PromptShape) -> Self {
        Self(shape)
    }

    /// `[tasks, length, width]`.
    fn prompts(&self, parameters: &Leaves) -> Tensor<3> {
        let factors = parameters.get::<3>(U).matmul(parameters.get::<3>(V));
        parameters.get::<3>(SHARED) * factors
    }
}

impl Method for Mpt {
    fn initialize_cold(&self, seed: u64, set: &mut ParameterSet) {
        self.0.insert_random(SHARED, 1, seed, set);
        let (tasks, rank) = (self.0.tasks, self.0.config.rank);
        // The product sums over the rank, and is to be near 1.
        let center = match self.0.config.factor_init {
            FactorInit::Ones => (rank as f32).sqrt().recip(),
            FactorInit::Small => 0.0,
        };
        for (name, shape) in [(U, [tasks, self.0.config.length, rank]), (V, [tasks, rank, self.0.width])] {
            let noise = Stream::new(seed, name, 0).normal(shape.iter().product(), FACTOR_DEVIATION);
            set.insert(name, Group::Prefix, &shape, noise.into_iter().map(|noise| center + noise).collect());
        }
    }

    fn warm(&self, start: &Start<'_>, set: &mut ParameterSet) -> Result<(), TrainError> {
        self.0.warm(SHARED, 1, start, set)
    }

    fn adaptation(&self, parameters: &Leaves, _moment: &Moment) -> Adaptation {
        Adaptation { prompt: Some(self.prompts(parameters)), ..Adaptation::default() }
    }

    fn export(&self, _set: &ParameterSet, _to: &Destination<'_>) -> Result<Record, TrainError> {
        Ok(Record::default())
    }
}
