//! DoRA (arXiv 2402.09353): LoRA gives the weight's rows their directions, and a learned vector their lengths, `W' = m / ||V|| V` with
//! `V = W + (alpha / r) B A`. One for all tasks.

use super::lora::{Lora, SHARED};
use super::{Destination, Method, Moment, Record, Start};
use crate::adaptation::{Adaptation, Magnitude};
use crate::config::DoraConfig;
use crate::error::TrainError;
use crate::parameters::{Group, Leaves, ParameterSet};
use pemlc_artifact::Projection;

pub(super) struct Dora {
    pub(super) config: DoraConfig,
    /// Of one set for all tasks.
    pub(super) lora: Lora,
}

impl Method for Dora {
    fn initialize_cold(&self, seed: u64, set: &mut ParameterSet) {
        self.lora.initialize_cold(seed, set);
        for (layer, projection) in self.lora.places() {
            let outputs = projection.features(&self.lora.model).1;
            set.insert(name(layer, projection), Group::Lora, &[outputs], vec![1.0; outputs]);
        }
    }

    /// Magnitudes start as the lengths of the frozen rows: the first step is the base model's.
    fn warm(&self, start: &Start<'_>, set: &mut ParameterSet) -> Result<(), TrainError> {
        for (layer, projection) in self.lora.places() {
            let norms = start.backbone.row_norms(layer, projection);
            set.insert(name(layer, projection), Group::Lora, &[norms.len()], norms);
        }
        Ok(())
    }

    fn adaptation(&self, parameters: &Leaves, moment: &Moment) -> Adaptation {
        let full_gradient = self.config.full_gradient;
        let magnitude = |(layer, projection)| {
            let value = parameters.get(&name(layer, projection));
            ((layer, projection), Magnitude { value, full_gradient })
        };
        Adaptation {
            magnitudes: self.lora.places().map(magnitude).collect(),
            ..self.lora.adaptation(parameters, moment)
        }
    }

    fn export(&self, set: &ParameterSet, to: &Destination<'_>) -> Result<Record, TrainError> {
        let mut adapter = self.lora.adapter(set, SHARED, 0, to.base_model);
        for ((layer, projection), weights) in &mut adapter.weights {
            weights.magnitude = Some(set.values(&name(*layer, *projection)));
        }
        adapter.write(&to.paths.shared_lora(), to.model)?;
        Ok(Record { lora: Some(self.lora.record()), ..Record::default() })
    }
}

fn name(layer: usize, projection: Projection) -> String {
    format!("lora.{SHARED}.{layer}.{}.magnitude", projection.name())
}
