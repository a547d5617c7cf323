//! P-Tuning (Liu et al. 2021, arXiv 2103.10385): a soft prompt through an encoder, an MLP or a bidirectional LSTM with an MLP behind it.
//! The encoder serves all tasks; each prompt has an input `[length, width]` of its own.

use super::prefix_mlp::output_scale;
use super::soft_prompt::PromptShape;
use super::{Destination, Method, Moment, Record, Start, lstm};
use crate::adaptation::Adaptation;
use crate::config::PromptEncoder;
use crate::error::TrainError;
use crate::parameters::{Group, Leaves, ParameterSet};
use crate::random::Stream;
use burn::tensor::{Tensor, activation::relu};

const EMBEDDING: &str = "p_tuning.embedding";
const LSTM: &str = "p_tuning.lstm";
const MLP: &str = "p_tuning.mlp";

pub(super) struct PTuning(PromptShape);

impl PTuning {
    pub(super) fn new(shape: PromptShape) -> Self {
        Self(shape)
    }

    fn hidden(&self) -> usize {
        self.0.config.hidden.unwrap_or(self.0.width)
    }

    /// Outputs and inputs of the linear layers, between which there are ReLUs.
    fn linears(&self) -> Vec<(usize, usize)> {
        let (width, hidden) = (self.0.width, self.hidden());
        match self.0.config.encoder {
            PromptEncoder::Mlp => vec![(hidden, width), (hidden, hidden), (width, hidden)],
            PromptEncoder::Lstm => vec![(2 * hidden, 2 * hidden), (width, 2 * hidden)],
        }
    }

    /// What the parameters of linear layer `index` are multiplied by.
    fn scale(&self, index: usize) -> f32 {
        let linears = self.linears();
        if index + 1 == linears.len() { output_scale(linears[index].1) } else { 1.0 }
    }

    /// `[sets, length, width]`.
    fn prompts(&self, parameters: &Leaves) -> Tensor<3> {
        let mut x = parameters.get::<3>(EMBEDDING);
        if self.0.config.encoder == PromptEncoder::Lstm {
            x = lstm::apply(LSTM, x, self.0.config.lstm_layers, parameters);
        }
        for index in 0..self.linears().len() {
            let x_in = if index == 0 { x } else { relu(x) };
            let weight = parameters.get::<3>(&weight(index)).swap_dims(1, 2);
            x = x_in.matmul(weight) * self.scale(index) + parameters.get::<3>(&bias(index));
        }
        x
    }
}

impl Method for PTuning {
    /// As torch has it: linear layers uniform in ±1/sqrt(in).
    fn initialize_cold(&self, seed: u64, set: &mut ParameterSet) {
        self.0.insert_random(EMBEDDING, self.0.sets(), seed, set);
        if self.0.config.encoder == PromptEncoder::Lstm {
            lstm::initialize(LSTM, self.0.width, self.hidden(), self.0.config.lstm_layers, seed, set);
        }
        for (index, (outputs, inputs)) in self.linears().into_iter().enumerate() {
            let bound = (inputs as f32).sqrt().recip();
            let (weight, bias) = (weight(index), bias(index));
            let values = Stream::new(seed, &weight, 0).uniform(outputs * inputs, bound / self.scale(index));
            set.insert(weight, Group::Prefix, &[outputs, inputs], values);
            let values = Stream::new(seed, &bias, 0).uniform(outputs, bound);
            set.insert(bias, Group::Prefix, &[outputs], values);
        }
    }

    fn warm(&self, start: &Start<'_>, set: &mut ParameterSet) -> Result<(), TrainError> {
        self.0.warm(EMBEDDING, self.0.sets(), start, set)
    }

    fn adaptation(&self, parameters: &Leaves, _moment: &Moment) -> Adaptation {
        Adaptation { prompt: Some(self.prompts(parameters)), ..Adaptation::default() }
    }

    fn export(&self, _set: &ParameterSet, _to: &Destination<'_>) -> Result<Record, TrainError> {
        Ok(Record::default())
    }
}

fn weight(index: usize) -> String {
    format!("{MLP}.{index}.weight")
}

fn bias(index: usize) -> String {
    format!("{MLP}.{index}.bias")
}
