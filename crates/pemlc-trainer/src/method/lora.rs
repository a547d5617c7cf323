//! LoRA: `y += (alpha / rank) drop(x) A^T B^T`, one delta for all tasks, one for each, or both.

use super::{Destination, Method, Moment, Record};
use crate::adaptation::{Adaptation, Dropout, LowRank};
use crate::config::LoraConfig;
use crate::error::TrainError;
use crate::parameters::{Group, Leaves, ParameterSet};
use crate::random::Stream;
use pemlc_artifact::peft::{LoraAdapter, LoraWeights};
use pemlc_artifact::run::LoraRecord;
use pemlc_artifact::{ModelConfig, Projection};
use std::collections::BTreeMap;

pub(super) struct Lora {
    config: LoraConfig,
    pub(super) model: ModelConfig,
    tasks: usize,
}

pub(super) const SHARED: &str = "shared";
const PRIVATE: &str = "private";

impl Lora {
    pub(super) fn new(config: LoraConfig, model: ModelConfig, tasks: usize) -> Self {
        Self { config, model, tasks }
    }

    /// rsLoRA (arXiv 2312.03732): the scale is alpha / sqrt(rank), so that it does not shrink what a larger rank learns.
    pub(super) fn rank_stabilized(config: LoraConfig, model: ModelConfig, tasks: usize) -> Self {
        let alpha = config.alpha * (config.rank as f64).sqrt();
        Self::new(LoraConfig { alpha, ..config }, model, tasks)
    }

    pub(super) fn places(&self) -> impl Iterator<Item = (usize, Projection)> {
        (0..self.model.num_hidden_layers)
            .flat_map(|layer| self.config.targets.iter().map(move |projection| (layer, *projection)))
    }

    /// The kinds of deltas, with the number of sets of each.
    fn kinds(&self) -> Vec<(&'static str, usize)> {
        let shared = self.config.sharing.has_shared().then_some((SHARED, 1));
        shared.into_iter().chain(self.config.sharing.has_private().then_some((PRIVATE, self.tasks))).collect()
    }

    pub(super) fn record(&self) -> LoraRecord {
        LoraRecord {
            rank: self.config.rank,
            alpha: self.config.alpha,
            targets: self.config.targets.clone(),
            shared: self.config.sharing.has_shared(),
            per_task: self.config.sharing.has_private(),
            mixed: false,
        }
    }

    pub(super) fn adapter(&self, set: &ParameterSet, kind: &str, index: usize, base_model: &str) -> LoraAdapter {
        let rank = self.config.rank;
        let weights = self.places().map(|(layer, projection)| {
            let (inputs, outputs) = projection.features(&self.model);
            let [a, b] = names(kind, layer, projection);
            let part = |name: &str, size: usize| -> Vec<f32> {
                set.values(name).into_iter().skip(index * size).take(size).collect()
            };
            (
                (layer, projection),
                LoraWeights { a: part(&a, rank * inputs), b: part(&b, outputs * rank), magnitude: None },
            )
        });
        LoraAdapter {
            rank,
            alpha: self.config.alpha,
            own: BTreeMap::new(),
            dropout: self.config.dropout,
            base_model: base_model.to_owned(),
            weights: weights.collect(),
        }
    }
}

impl Method for Lora {
    /// A is uniform in ±1/sqrt(in), B is zero: the first step is the base model's.
    fn initialize_cold(&self, seed: u64, set: &mut ParameterSet) {
        let rank = self.config.rank;
        for (kind, sets) in self.kinds() {
            for (layer, projection) in self.places() {
                let (inputs, outputs) = projection.features(&self.model);
                let [a, b] = names(kind, layer, projection);
                let values = Stream::new(seed, &a, 0).uniform(sets * rank * inputs, (inputs as f32).sqrt().recip());
                set.insert(a, Group::Lora, &[sets, rank, inputs], values);
                set.insert(b, Group::Lora, &[sets, outputs, rank], vec![0.0; sets * outputs * rank]);
            }
        }
    }

    fn adaptation(&self, parameters: &Leaves, moment: &Moment) -> Adaptation {
        let mut adaptation = Adaptation::default();
        for (kind, _) in self.kinds() {
            for (layer, projection) in self.places() {
                let [a, b] = names(kind, layer, projection);
                let dropout = dropout(&self.config, kind, layer, projection, moment);
                let delta = LowRank {
                    a: parameters.get(&a),
                    b: parameters.get(&b),
                    scale: (self.config.alpha / self.config.rank as f64) as f32,
                    dropout,
                };
                adaptation.deltas.entry((layer, projection)).or_default().push(delta);
            }
        }
        adaptation
    }

    fn export(&self, set: &ParameterSet, to: &Destination<'_>) -> Result<Record, TrainError> {
        let sharing = self.config.sharing;
        if sharing.has_shared() {
            self.adapter(set, SHARED, 0, to.base_model).write(&to.paths.shared_lora(), to.model)?;
        }
        if sharing.has_private() {
            for (index, task) in to.tasks.iter().enumerate() {
                self.adapter(set, PRIVATE, index, to.base_model).write(&to.paths.task_lora(task), to.model)?;
            }
        }
        Ok(Record { lora: Some(self.record()), ..Record::default() })
    }
}

/// Which inputs of the delta `kind` of a projection are zeroed at `moment`.
pub(super) fn dropout(
    config: &LoraConfig,
    kind: &str,
    layer: usize,
    projection: Projection,
    moment: &Moment,
) -> Option<Dropout> {
    match *moment {
        Moment::Training { seed, batch } if config.dropout > 0.0 => {
            let name = format!("dropout.{kind}.{layer}.{}", projection.name());
            Some(Dropout { rate: config.dropout as f32, seed, step: batch, name })
        }
        _ => None,
    }
}

fn names(kind: &str, layer: usize, projection: Projection) -> [String; 2] {
    ["a", "b"].map(|factor| format!("lora.{kind}.{layer}.{}.{factor}", projection.name()))
}
