//! MixLoRA (arXiv 2404.15159): experts of the feed-forward part, each with LoRA on its projections, chosen for each token by a router; plain
//! LoRA on attention. One for all tasks. The weight depends on the token, so nothing of it can be merged.

use super::lora::{Lora, SHARED};
use super::{Destination, Method, Moment, Record};
use crate::adaptation::{Adaptation, LowRank, Routing};
use crate::config::{LoraConfig, LoraSharing, MixLoraConfig, RunConfig};
use crate::error::TrainError;
use crate::parameters::{Group, Leaves, ParameterSet};
use crate::random::Stream;
use pemlc_artifact::run::RoutingRecord;
use pemlc_artifact::tensors::{self, NamedTensor, TensorMap};
use pemlc_artifact::{ModelConfig, Projection};

pub(super) struct MixLora {
    config: MixLoraConfig,
    lora: LoraConfig,
    model: ModelConfig,
    /// Of the attention projections.
    attention: Lora,
    /// Batches a step: each adds its share of the loss of unbalanced choices.
    accumulation: usize,
}

const ROUTERS: &str = "lora.routers";
/// Deviation of fresh routers.
const DEVIATION: f32 = 0.02;

impl MixLora {
    pub(super) fn new(config: &RunConfig, model: &ModelConfig) -> Self {
        let targets = config.lora.targets.iter().copied().filter(|projection| !projection.is_feed_forward()).collect();
        let attention = LoraConfig { targets, sharing: LoraSharing::Shared, ..config.lora.clone() };
        Self {
            config: config.mixlora.clone(),
            lora: config.lora.clone(),
            model: model.clone(),
            attention: Lora::new(attention, model.clone(), config.tasks.len()),
            accumulation: config.training.gradient_accumulation,
        }
    }

    /// Where experts have deltas.
    fn places(&self) -> impl Iterator<Item = (usize, Projection)> {
        let projections = || self.lora.targets.iter().copied().filter(|projection| projection.is_feed_forward());
        (0..self.model.num_hidden_layers)
            .flat_map(move |layer| projections().map(move |projection| (layer, projection)))
    }

    fn expert(&self, index: usize, parameters: &Leaves) -> Adaptation {
        let delta = |(layer, projection)| {
            let [a, b] = names(layer, projection).map(|name| parameters.get::<3>(&name).narrow(0, index, 1));
            let scale = (self.lora.alpha / self.lora.rank as f64) as f32;
            ((layer, projection), vec![LowRank { a, b, scale, dropout: None }])
        };
        Adaptation { deltas: self.places().map(delta).collect(), ..Adaptation::default() }
    }

    /// The weights under the names of the published code.
    fn tensors(&self, set: &ParameterSet, base_model: &str) -> TensorMap {
        let (experts, rank) = (self.config.experts, self.lora.rank);
        let mut map = TensorMap::new();
        let mut insert = |name: String, shape: [usize; 2], values: Vec<f32>| {
            map.insert(format!("mixlora.{name}.weight"), NamedTensor::f32(shape, values));
        };
        for ((layer, projection), weights) in self.attention.adapter(set, SHARED, 0, base_model).weights {
            let (inputs, outputs) = projection.features(&self.model);
            let name = format!("layers.{layer}.self_attn.{}", projection.name());
            insert(format!("{name}.lora_A"), [rank, inputs], weights.a);
            insert(format!("{name}.lora_B"), [outputs, rank], weights.b);
        }
        for (layer, projection) in self.places() {
            let (inputs, outputs) = projection.features(&self.model);
            let [a, b] = names(layer, projection).map(|name| set.values(&name));
            for index in 0..experts {
                let name = format!("layers.{layer}.mlp.{}.experts.{index}", projection.name());
                let part = |all: &[f32]| all[index * all.len() / experts..(index + 1) * all.len() / experts].to_vec();
                insert(format!("{name}.lora_A"), [rank, inputs], part(&a));
                insert(format!("{name}.lora_B"), [outputs, rank], part(&b));
            }
        }
        let hidden = self.model.hidden_size;
        for (layer, router) in set.values(ROUTERS).chunks(experts * hidden).enumerate() {
            insert(format!("layers.{layer}.mlp.moe_gate"), [experts, hidden], router.to_vec());
        }
        map
    }
}

impl Method for MixLora {
    /// Every B is zero: the start is the base model, whichever experts are chosen.
    fn initialize_cold(&self, seed: u64, set: &mut ParameterSet) {
        self.attention.initialize_cold(seed, set);
        let (experts, rank) = (self.config.experts, self.lora.rank);
        for (layer, projection) in self.places() {
            let (inputs, outputs) = projection.features(&self.model);
            let [a, b] = names(layer, projection);
            let values = Stream::new(seed, &a, 0).uniform(experts * rank * inputs, (inputs as f32).sqrt().recip());
            set.insert(a, Group::Lora, &[experts, rank, inputs], values);
            set.insert(b, Group::Lora, &[experts, outputs, rank], vec![0.0; experts * outputs * rank]);
        }
        let shape = [self.model.num_hidden_layers, experts, self.model.hidden_size];
        let values = Stream::new(seed, ROUTERS, 0).normal(shape.iter().product(), DEVIATION);
        set.insert(ROUTERS, Group::Lora, &shape, values);
    }

    fn adaptation(&self, parameters: &Leaves, moment: &Moment) -> Adaptation {
        let balance = self.config.balance / (self.model.num_hidden_layers * self.accumulation) as f64;
        let routing = Routing {
            routers: parameters.get(ROUTERS),
            top: self.config.top,
            balance: balance as f32,
            experts: (0..self.config.experts).map(|index| self.expert(index, parameters)).collect(),
        };
        Adaptation { routing: Some(routing), ..self.attention.adaptation(parameters, moment) }
    }

    fn export(&self, set: &ParameterSet, to: &Destination<'_>) -> Result<Record, TrainError> {
        tensors::write(&to.paths.experts(), &self.tensors(set, to.base_model))?;
        let routing = RoutingRecord { experts: self.config.experts, top: self.config.top };
        Ok(Record { routing: Some(routing), ..Record::default() })
    }
}

fn names(layer: usize, projection: Projection) -> [String; 2] {
    ["a", "b"].map(|factor| format!("lora.experts.{layer}.{}.{factor}", projection.name()))
}
