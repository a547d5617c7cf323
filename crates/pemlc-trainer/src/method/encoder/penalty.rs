//! Terms of the loss that only the search has: the mixtures' entropy, and what the cell is expected to cost.

use super::super::cell;
use super::{ALPHA, Encoder};
use crate::method::Moment;
use crate::parameters::Leaves;
use burn::tensor::{
    DType, Tensor, TensorData,
    activation::{log_softmax, softmax},
};

impl Encoder {
    /// Entropy and cost by their weights, `[1]`; `None` when they have none, or nothing is searched now.
    pub(super) fn search_penalty(&self, parameters: &Leaves, moment: &Moment) -> Option<Tensor<1>> {
        let config = &self.shape.config;
        if self.cell.is_some() || *moment == Moment::Evaluation {
            return None;
        }
        let progress = self.progress(moment)?;
        // A mixture must be free to change before it is asked to make up its mind.
        let entropy_weight = config.entropy_weight * (2.0 * progress - 1.0).clamp(0.0, 1.0);
        let mut terms = Vec::new();
        let logits = parameters.get::<2>(ALPHA);
        if entropy_weight > 0.0 {
            let entropy = (softmax(logits.clone(), 1) * log_softmax(logits.clone(), 1)).sum().neg();
            terms.push(entropy * entropy_weight as f32);
        }
        if config.cost_weight > 0.0 {
            let sizes = self.sizes();
            let largest = sizes.iter().fold(0.0, |largest: f32, size| largest.max(*size)) * self.places().len() as f32;
            let sizes = TensorData::new(sizes, [1, self.candidates().len()]);
            let sizes = Tensor::<2>::from_data(sizes, (&logits.device(), DType::F32));
            let mut cost = (softmax(logits, 1) * sizes).sum() / largest.max(1.0);
            let rows = self.positions;
            if let Some(share) = self.choice().expected_share(parameters, self.gate_temperature(moment), rows) {
                cost = cost + share;
            }
            terms.push(cost * config.cost_weight as f32);
        }
        terms.into_iter().reduce(|sum, term| sum + term)
    }

    /// Parameters of each candidate.
    fn sizes(&self) -> Vec<f32> {
        let width = self.shape.config.width;
        let size = |operation| -> usize {
            cell::weights(operation, width).iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
        };
        self.candidates().iter().map(|operation| size(*operation) as f32).collect()
    }
}
