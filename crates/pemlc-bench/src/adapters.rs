//! What is trained here: LoRA on every projection and prefix rows in every layer, one set for all rows, stepped by Adam.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use burn::tensor::{DType, Device, Tensor, TensorData};
use pemlc_artifact::{ModelConfig, Projection};
use pemlc_trainer::adaptation::{Adaptation, AdaptationGradient, LowRank, PrefixRows};

use crate::operations::numbers;

const LEARNING_RATE: f64 = 5e-4;

/// Adapters and the state of their optimiser, f32.
pub(crate) struct Adapters {
    deltas: BTreeMap<(usize, Projection), (Trained<3>, Trained<3>)>,
    prefix: Option<(Trained<5>, Trained<5>, Trained<3>)>,
}

impl Adapters {
    /// A uniform up to `1 / sqrt(in)`; B uniform up to `b`, which is 0 at the start of training; prefix rows small and random.
    pub(crate) fn new(model: &ModelConfig, rank: usize, prefix: usize, b: f32, device: &Device) -> Self {
        let mut seed = 0;
        let mut draw = |count: usize, bound: f32| -> Vec<f32> {
            seed += 1;
            numbers(count, seed).into_iter().map(|number| number * bound).collect()
        };
        let mut deltas = BTreeMap::new();
        for layer in 0..model.num_hidden_layers {
            for projection in Projection::ALL {
                let (inputs, outputs) = projection.features(model);
                let down = draw(rank * inputs, (inputs as f32).sqrt().recip());
                let up = draw(outputs * rank, b);
                let pair =
                    (Trained::new(down, [1, rank, inputs], device), Trained::new(up, [1, outputs, rank], device));
                deltas.insert((layer, projection), pair);
            }
        }
        let (layers, heads, width) = (model.num_hidden_layers, model.num_key_value_heads, model.head_dim);
        let mut rows =
            || Trained::new(draw(layers * heads * prefix * width, 0.05), [1, layers, heads, prefix, width], device);
        let prefix = (prefix > 0).then(|| {
            let gate = Trained::new(vec![0.0; layers * prefix], [1, layers, prefix], device);
            (rows(), rows(), gate)
        });
        Self { deltas, prefix }
    }

    /// How many numbers are trained.
    pub(crate) fn count(&self) -> usize {
        let deltas: usize = self.deltas.values().map(|(a, b)| a.count() + b.count()).sum();
        deltas + self.prefix.as_ref().map_or(0, |(key, value, gate)| key.count() + value.count() + gate.count())
    }

    /// As the backbone takes them; alpha is twice the rank.
    pub(crate) fn adaptation(&self) -> Adaptation {
        let delta = |(a, b): &(Trained<3>, Trained<3>)| {
            vec![LowRank { a: a.value.clone(), b: b.value.clone(), scale: 2.0, dropout: None }]
        };
        Adaptation {
            deltas: self.deltas.iter().map(|(place, pair)| (*place, delta(pair))).collect(),
            prefix: self.prefix.as_ref().map(|(key, value, gate)| PrefixRows {
                key: key.value.clone(),
                value: value.value.clone(),
                log_gate: gate.value.clone(),
            }),
        }
    }

    /// One step of Adam, the first being step 1.
    pub(crate) fn step(&mut self, mut gradient: AdaptationGradient, step: usize) -> Result<()> {
        for (place, (a, b)) in &mut self.deltas {
            let gradients = gradient.deltas.remove(place).and_then(|of_deltas| of_deltas.into_iter().next());
            let (into_a, into_b) =
                gradients.with_context(|| format!("layer {}, {}: no gradient", place.0, place.1.name()))?;
            a.step(into_a, step);
            b.step(into_b, step);
        }
        if let Some((key, value, gate)) = &mut self.prefix {
            let (into_key, into_value, into_gate) = gradient.prefix.context("prefix: no gradient")?;
            key.step(into_key, step);
            value.step(into_value, step);
            gate.step(into_gate, step);
        }
        Ok(())
    }
}

/// A tensor and Adam's moments of it.
struct Trained<const D: usize> {
    value: Tensor<D>,
    first: Tensor<D>,
    second: Tensor<D>,
}

impl<const D: usize> Trained<D> {
    fn new(values: Vec<f32>, shape: [usize; D], device: &Device) -> Self {
        let value = Tensor::from_data(TensorData::new(values, shape), (device, DType::F32));
        Self { first: value.zeros_like(), second: value.zeros_like(), value }
    }

    fn count(&self) -> usize {
        self.value.shape().num_elements()
    }

    fn step(&mut self, gradient: Tensor<D>, step: usize) {
        let (first, second) = (0.9_f64, 0.999_f64);
        self.first = self.first.clone() * first + gradient.clone() * (1.0 - first);
        self.second = self.second.clone() * second + gradient.square() * (1.0 - second);
        let step = step as f64;
        let root = (self.second.clone() / (1.0 - second.powf(step))).sqrt() + 1e-8;
        let rate = LEARNING_RATE / (1.0 - first.powf(step));
        self.value = self.value.clone() - self.first.clone() / root * rate;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Batch;
    use crate::width::Width;
    use pemlc_trainer::backbone::Backbone;
    use pemlc_trainer::config::BaseDtype;

    #[test]
    fn twenty_steps_on_one_batch_lower_its_loss() {
        let (model, device) = (Width::Tiny.config(), Device::flex());
        let backbone = Backbone::random(&model, 17, &device, BaseDtype::F32);
        let mut adapters = Adapters::new(&model, 4, 2, 0.0, &device);
        let batch = Batch::new(2, 12, model.vocab_size);
        let scale = 1.0 / batch.queries.len() as f32;
        let losses: Vec<f64> = (1..=20)
            .map(|step| {
                let (loss, gradient) = backbone.gradient(&batch.input(), &batch.queries, &adapters.adaptation(), scale);
                adapters.step(gradient, step).unwrap();
                loss
            })
            .collect();
        assert!(losses[19] < 0.95 * losses[0], "{losses:?}");
    }
}
