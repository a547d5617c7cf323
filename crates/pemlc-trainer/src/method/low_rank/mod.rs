//! Multi-task low-rank methods. Whatever its parameters, such a method comes to pairs of factors at each projection, A `[sets, rank, in]`
//! and B `[sets, out, rank]`, where a set is a task, or one set serves all: the normal form that the backbone trains and export writes.

mod ada_lora;
#[cfg(test)]
mod ada_lora_tests;
mod c_poly;
#[cfg(test)]
mod export_tests;
#[cfg(test)]
mod golden_tests;
mod moe_lora;
mod mtl_lora;
mod multi_lora;
mod poly;
mod rank_allocation;

use ada_lora::AdaLora;
use c_poly::CPoly;
use moe_lora::MoeLora;
use mtl_lora::MtlLora;
use multi_lora::MultiLora;
use poly::Poly;

use super::{Destination, Method, Moment, Record, lora};
use crate::adaptation::{Adaptation, LowRank};
use crate::config::{LoraConfig, PolyConfig, RunConfig};
use crate::error::TrainError;
use crate::optimizer::GradientMap;
use crate::parameters::{Group, Leaves, ParameterSet, host};
use crate::random::Stream;
use burn::tensor::Tensor;
use pemlc_artifact::peft::{LoraAdapter, LoraWeights};
use pemlc_artifact::run::LoraRecord;
use pemlc_artifact::{ModelConfig, Projection};
use std::collections::BTreeMap;

/// What such a method is made of.
trait Factors {
    /// Adds the parameters of one projection.
    fn initialize(&self, site: &Site, seed: u64, set: &mut ParameterSet);

    /// Pairs of A `[sets, rank, in]` and B `[sets, out, rank]`, which add up.
    fn factors(&self, site: &Site, parameters: &Leaves, moment: &Moment) -> Vec<[Tensor<3>; 2]>;

    /// What the products are multiplied by.
    fn scale(&self) -> f64;

    /// Whether one set serves all tasks.
    fn is_shared(&self) -> bool {
        false
    }

    /// See [`Method::penalty`].
    fn penalty(&self, _sites: &[Site], _parameters: &Leaves) -> Option<Tensor<1>> {
        None
    }

    /// See [`Method::observe`].
    fn observe(&self, _sites: &[Site], _done: u64, _gradients: &GradientMap, _set: &mut ParameterSet) {}
}

/// AdaLoRA.
pub(super) fn ada_lora(config: &RunConfig, model: &ModelConfig) -> Box<dyn Method> {
    let method = AdaLora { config: config.adalora.clone(), alpha: config.lora.alpha, steps: config.training.steps };
    boxed(method, config, model)
}

/// MTL-LoRA.
pub(super) fn mtl_lora(config: &RunConfig, model: &ModelConfig) -> Box<dyn Method> {
    let (&LoraConfig { rank, alpha, .. }, tasks) = (&config.lora, config.tasks.len());
    boxed(MtlLora { config: config.mtl_lora.clone(), rank, alpha, tasks }, config, model)
}

/// MultiLoRA.
pub(super) fn multi_lora(config: &RunConfig, model: &ModelConfig) -> Box<dyn Method> {
    let &LoraConfig { rank, alpha, .. } = &config.lora;
    boxed(MultiLora { config: config.multi_lora.clone(), rank, alpha }, config, model)
}

/// MOELoRA.
pub(super) fn moe_lora(config: &RunConfig, model: &ModelConfig) -> Box<dyn Method> {
    let (&LoraConfig { rank, alpha, .. }, tasks) = (&config.lora, config.tasks.len());
    boxed(MoeLora { config: config.moe_lora.clone(), rank, alpha, tasks }, config, model)
}

/// Poly.
pub(super) fn poly(config: &RunConfig, model: &ModelConfig) -> Box<dyn Method> {
    let (&LoraConfig { rank, alpha, .. }, tasks) = (&config.lora, config.tasks.len());
    boxed(Poly { config: config.poly.clone(), rank, alpha, tasks }, config, model)
}

/// C-Poly.
pub(super) fn c_poly(config: &RunConfig, model: &ModelConfig) -> Box<dyn Method> {
    let (&LoraConfig { rank, alpha, .. }, tasks) = (&config.lora, config.tasks.len());
    let skills = PolyConfig { skills: config.c_poly.common, splits: 1, noise: config.c_poly.noise };
    boxed(CPoly { config: config.c_poly.clone(), common: Poly { config: skills, rank, alpha, tasks } }, config, model)
}

fn boxed(factors: impl Factors + 'static, config: &RunConfig, model: &ModelConfig) -> Box<dyn Method> {
    Box::new(LowRankMethod { factors, config: config.lora.clone(), model: model.clone() })
}

/// A projection of a layer.
struct Site {
    layer: usize,
    projection: Projection,
    inputs: usize,
    outputs: usize,
}

impl Site {
    /// Name of the parameter `part`.
    fn name(&self, part: &str) -> String {
        format!("lora.{}.{}.{part}", self.layer, self.projection.name())
    }

    /// Adds the parameter `part`, uniform in ±`bound`.
    fn uniform(&self, part: &str, shape: &[usize], bound: f32, seed: u64, set: &mut ParameterSet) {
        let name = self.name(part);
        let values = Stream::new(seed, &name, 0).uniform(shape.iter().product(), bound);
        set.insert(name, Group::Lora, shape, values);
    }

    /// Adds the parameter `part`, normal.
    fn normal(&self, part: &str, shape: &[usize], deviation: f32, seed: u64, set: &mut ParameterSet) {
        let name = self.name(part);
        let values = Stream::new(seed, &name, 0).normal(shape.iter().product(), deviation);
        set.insert(name, Group::Lora, shape, values);
    }

    /// Adds the parameter `part`, the same number everywhere.
    fn fill(&self, part: &str, shape: &[usize], value: f32, set: &mut ParameterSet) {
        set.insert(self.name(part), Group::Lora, shape, vec![value; shape.iter().product()]);
    }
}

/// Bound of the uniform start of a matrix with so many inputs.
fn bound(inputs: usize) -> f32 {
    (inputs as f32).sqrt().recip()
}

/// A method made of [`Factors`].
struct LowRankMethod<F> {
    factors: F,
    config: LoraConfig,
    model: ModelConfig,
}

impl<F: Factors> LowRankMethod<F> {
    fn sites(&self) -> impl Iterator<Item = Site> {
        (0..self.model.num_hidden_layers).flat_map(move |layer| {
            self.config.targets.iter().map(move |&projection| {
                let (inputs, outputs) = projection.features(&self.model);
                Site { layer, projection, inputs, outputs }
            })
        })
    }

    /// The one product of set `index` at every projection, for PEFT.
    fn adapter(&self, products: &[(Site, [Tensor<3>; 2])], index: usize, base_model: &str) -> LoraAdapter {
        let of_set = |factor: &Tensor<3>| {
            let last = factor.dims()[0] - 1;
            host(factor.clone().narrow(0, index.min(last), 1))
        };
        let weights = products.iter().map(|(site, [a, b])| {
            ((site.layer, site.projection), LoraWeights { a: of_set(a), b: of_set(b), magnitude: None })
        });
        let rank = rank(products);
        LoraAdapter {
            rank,
            alpha: self.factors.scale() * rank as f64,
            own: BTreeMap::new(),
            dropout: self.config.dropout,
            base_model: base_model.to_owned(),
            weights: weights.collect(),
        }
    }
}

fn rank(products: &[(Site, [Tensor<3>; 2])]) -> usize {
    products.first().map_or(0, |(_, [a, _])| a.dims()[1])
}

impl<F: Factors> Method for LowRankMethod<F> {
    fn initialize_cold(&self, seed: u64, set: &mut ParameterSet) {
        self.sites().for_each(|site| self.factors.initialize(&site, seed, set));
    }

    fn adaptation(&self, parameters: &Leaves, moment: &Moment) -> Adaptation {
        let mut adaptation = Adaptation::default();
        for site in self.sites() {
            let deltas = self.factors.factors(&site, parameters, moment).into_iter().enumerate();
            let delta = |(index, [a, b]): (usize, [Tensor<3>; 2])| LowRank {
                a,
                b,
                scale: self.factors.scale() as f32,
                dropout: lora::dropout(&self.config, &index.to_string(), site.layer, site.projection, moment),
            };
            adaptation.deltas.insert((site.layer, site.projection), deltas.map(delta).collect());
        }
        adaptation
    }

    fn penalty(&self, parameters: &Leaves, _moment: &Moment) -> Option<Tensor<1>> {
        self.factors.penalty(&self.sites().collect::<Vec<_>>(), parameters)
    }

    fn observe(&self, done: u64, gradients: &GradientMap, set: &mut ParameterSet) {
        self.factors.observe(&self.sites().collect::<Vec<_>>(), done, gradients, set);
    }

    fn export(&self, set: &ParameterSet, to: &Destination<'_>) -> Result<Record, TrainError> {
        let constants = set.constants();
        let products: Vec<(Site, [Tensor<3>; 2])> = self
            .sites()
            .map(|site| {
                let pairs = self.factors.factors(&site, &constants, &Moment::Evaluation);
                (site, one_product(pairs))
            })
            .collect();
        if self.factors.is_shared() {
            self.adapter(&products, 0, to.base_model).write(&to.paths.shared_lora(), to.model)?;
        } else {
            for (index, task) in to.tasks.iter().enumerate() {
                self.adapter(&products, index, to.base_model).write(&to.paths.task_lora(task), to.model)?;
            }
        }
        let rank = rank(&products);
        let lora = LoraRecord {
            rank,
            alpha: self.factors.scale() * rank as f64,
            targets: self.config.targets.clone(),
            shared: self.factors.is_shared(),
            per_task: !self.factors.is_shared(),
            mixed: false,
        };
        Ok(Record { lora: Some(lora), ..Record::default() })
    }
}

/// Products that add up, as one of the sum of their ranks.
fn one_product(pairs: Vec<[Tensor<3>; 2]>) -> [Tensor<3>; 2] {
    let sets = pairs.iter().flatten().map(|factor| factor.dims()[0]).max().unwrap_or(1);
    let spread = |factor: Tensor<3>| {
        let [_, rows, columns] = factor.dims();
        factor.expand([sets, rows, columns])
    };
    let (a, b) = pairs.into_iter().map(|[a, b]| (spread(a), spread(b))).unzip();
    [Tensor::cat(a, 1), Tensor::cat(b, 2)]
}
