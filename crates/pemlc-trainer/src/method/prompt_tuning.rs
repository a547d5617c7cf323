//! Prompt tuning (Lester et al. 2021, arXiv 2104.08691): vectors in front of the token embeddings, learned directly.

use super::soft_prompt::PromptShape;
use super::{Destination, Method, Moment, Record, Start};
use crate::adaptation::Adaptation;
use crate::error::TrainError;
use crate::parameters::{Leaves, ParameterSet};

const EMBEDDING: &str = "prompt.embedding";

pub(super) struct PromptTuning(PromptShape);

impl PromptTuning {
    pub(super) fn new(shape: PromptShape) -> Self {
        Self(shape)
    }
}

impl Method for PromptTuning {
    fn initialize_cold(&self, seed: u64, set: &mut ParameterSet) {
        self.0.insert_random(EMBEDDING, self.0.sets(), seed, set);
    }

    fn warm(&self, start: &Start<'_>, set: &mut ParameterSet) -> Result<(), TrainError> {
        self.0.warm(EMBEDDING, self.0.sets(), start, set)
    }

    fn adaptation(&self, parameters: &Leaves, _moment: &Moment) -> Adaptation {
        Adaptation { prompt: Some(parameters.get(EMBEDDING)), ..Adaptation::default() }
    }

    fn export(&self, _set: &ParameterSet, _to: &Destination<'_>) -> Result<Record, TrainError> {
        Ok(Record::default())
    }
}
