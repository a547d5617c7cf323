//! Adaptation methods. A method is one file behind one trait: it owns parameters, turns them into an [`Adaptation`] for each batch, and
//! leaves its part of the run directory. What a run file calls a method is a list of these (`peml` is LoRA and an encoder).

mod catalogue;
mod cell;
mod discretise;
mod dora;
mod encoder;
#[cfg(test)]
mod golden_tests;
mod lora;
mod low_rank;
mod lstm;
mod mix_lora;
mod mpt;
mod p_tuning;
mod prefix_files;
mod prefix_mlp;
mod prompt_tuning;
mod relaxation;
mod soft_prompt;
mod table;
mod warm_start;

pub use catalogue::{Entry, catalogue};
pub(crate) use soft_prompt::export as export_prompt;

use crate::adaptation::Adaptation;
use crate::backbone::Backbone;
use crate::config::{LoraConfig, MethodName, PrefixConfig, PrefixSharing, PromptInit, RunConfig};
use crate::error::TrainError;
use crate::optimizer::GradientMap;
use crate::parameters::{Leaves, ParameterSet};
use burn::tensor::Tensor;
use pemlc_artifact::ModelConfig;
use pemlc_artifact::prompt::Architecture;
use pemlc_artifact::run::{LoraRecord, PrefixRecord, RoutingRecord, RunPaths};
use pemlc_data::{TaskSet, Tokenizer};

/// An adaptation method.
pub trait Method {
    /// Adds the method's parameters with first values that need no model.
    fn initialize_cold(&self, seed: u64, set: &mut ParameterSet);

    /// Gives parameters that start from the frozen model or from texts their first values, after
    /// [`initialize_cold`](Self::initialize_cold).
    fn warm(&self, _start: &Start<'_>, _set: &mut ParameterSet) -> Result<(), TrainError> {
        Ok(())
    }

    /// What the method adds to the model at `moment`.
    fn adaptation(&self, parameters: &Leaves, moment: &Moment) -> Adaptation;

    /// A term of the loss that depends on the parameters alone, `[1]`.
    fn penalty(&self, _parameters: &Leaves, _moment: &Moment) -> Option<Tensor<1>> {
        None
    }

    /// Shares of what is being chosen from, while it is.
    fn mixture(&self, _set: &ParameterSet) -> Option<serde_json::Value> {
        None
    }

    /// The cell that it has, once it has one.
    fn architecture(&self) -> Option<Architecture> {
        None
    }

    /// Called after each step with the number of steps done and the gradients that it took, clipped. What a method remembers of them
    /// belongs into the set, so that checkpoints hold it.
    fn observe(&self, _done: u64, _gradients: &GradientMap, _set: &mut ParameterSet) {}

    /// Called before each step, and after the last one, with the number of steps done. A method whose form changes during a run changes
    /// it here, and says so in words. Must depend on its arguments alone, or a resumed run would differ.
    fn advance(&mut self, _done: u64, _set: &mut ParameterSet) -> Option<String> {
        None
    }

    /// The phase that it is in.
    fn phase(&self) -> &'static str {
        "tune"
    }

    /// What a checkpoint stores beside the parameters.
    fn state(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    /// Restores what [`state`](Self::state) gave. The error is a reason.
    fn restore(&mut self, _state: serde_json::Value) -> Result<(), String> {
        Ok(())
    }

    /// Writes the method's files into the run directory.
    fn export(&self, set: &ParameterSet, to: &Destination<'_>) -> Result<Record, TrainError>;
}

/// What a warm start may depend on.
pub struct Start<'a> {
    /// The frozen model.
    pub backbone: &'a Backbone,
    /// The tasks, in `task_id` order.
    pub tasks: &'a TaskSet,
    /// The model's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Seed of the run.
    pub seed: u64,
}

/// When an adaptation is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// For batch `batch` of the run: what is random is a function of the two.
    Training {
        /// Seed of the run.
        seed: u64,
        /// Batches before it.
        batch: u64,
    },
    /// Nothing is random.
    Evaluation,
}

/// Where a method's files go.
pub struct Destination<'a> {
    /// The run directory.
    pub paths: &'a RunPaths,
    /// Shape of the base model.
    pub model: &'a ModelConfig,
    /// Name or path of the base model, for PEFT.
    pub base_model: &'a str,
    /// Task names, in `task_id` order.
    pub tasks: &'a [String],
}

/// What a method left, for `run.json`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Record {
    /// LoRA folders.
    pub lora: Option<LoraRecord>,
    /// Prefix files.
    pub prefix: Option<PrefixRecord>,
    /// Experts chosen by token.
    pub routing: Option<RoutingRecord>,
}

/// The methods of a run.
pub struct Methods(Vec<Box<dyn Method>>);

impl Methods {
    /// The methods that `config` names, for a model of shape `model`. `architecture` is the cell that `prefix.architecture` names.
    pub fn new(config: &RunConfig, model: &ModelConfig, architecture: Option<&Architecture>) -> Self {
        let tasks = config.tasks.len();
        let lora = || Box::new(lora::Lora::new(config.lora.clone(), model.clone(), tasks)) as Box<dyn Method>;
        let shape = PrefixShape::new(config, model);
        let prompt = |init| soft_prompt::PromptShape::new(config, model, init);
        let prompt_tuning = || Box::new(prompt_tuning::PromptTuning::new(prompt(PromptInit::Text)));
        Self(match config.method {
            MethodName::Lora => vec![lora()],
            MethodName::RsLora => {
                vec![Box::new(lora::Lora::rank_stabilized(config.lora.clone(), model.clone(), tasks))]
            }
            MethodName::Dora => {
                let lora = lora::Lora::new(config.lora.clone(), model.clone(), tasks);
                vec![Box::new(dora::Dora { config: config.dora.clone(), lora })]
            }
            MethodName::AdaLora => vec![low_rank::ada_lora(config, model)],
            MethodName::MtlLora => vec![low_rank::mtl_lora(config, model)],
            MethodName::MultiLora => vec![low_rank::multi_lora(config, model)],
            MethodName::MoeLora => vec![low_rank::moe_lora(config, model)],
            MethodName::MixLora => vec![Box::new(mix_lora::MixLora::new(config, model))],
            MethodName::Poly => vec![low_rank::poly(config, model)],
            MethodName::CPoly => vec![low_rank::c_poly(config, model)],
            MethodName::Prefix => vec![Box::new(table::Table::new(shape))],
            MethodName::LoraPrefix => vec![lora(), Box::new(table::Table::new(shape))],
            MethodName::PrefixMlp => vec![Box::new(prefix_mlp::PrefixMlp::new(shape))],
            MethodName::LoraPrefixMlp => vec![lora(), Box::new(prefix_mlp::PrefixMlp::new(shape))],
            MethodName::Prompt => vec![prompt_tuning()],
            MethodName::LoraPrompt => vec![lora(), prompt_tuning()],
            MethodName::PTuning => vec![Box::new(p_tuning::PTuning::new(prompt(PromptInit::Random)))],
            MethodName::Mpt => vec![Box::new(mpt::Mpt::new(prompt(PromptInit::Text)))],
            MethodName::Peml => vec![lora(), Box::new(encoder(config, shape, architecture))],
        })
    }

    /// Plain LoRA with the settings of `config`.
    pub(crate) fn lora(config: &RunConfig, model: &ModelConfig) -> Self {
        Self(vec![Box::new(lora::Lora::new(config.lora.clone(), model.clone(), config.tasks.len()))])
    }

    /// LoRA on `lora.targets` and, if `prefix` is not 0, so many directly learned rows, for one task: for benchmarks.
    pub fn for_benchmark(lora: LoraConfig, prefix: usize, model: &ModelConfig) -> Self {
        let mut methods: Vec<Box<dyn Method>> = vec![Box::new(lora::Lora::new(lora, model.clone(), 1))];
        if prefix > 0 {
            let config = PrefixConfig { length: prefix, sharing: PrefixSharing::Shared, ..PrefixConfig::default() };
            let shape = PrefixShape { config, log_gate: -6.0, sets: 1, model: model.clone() };
            methods.push(Box::new(table::Table::new(shape)));
        }
        Self(methods)
    }

    /// First values of methods that start cold, and so need no model.
    pub(crate) fn initialize_cold(&self, seed: u64, set: &mut ParameterSet) {
        self.0.iter().for_each(|method| method.initialize_cold(seed, set));
    }

    pub(crate) fn initialize(&self, start: &Start<'_>, set: &mut ParameterSet) -> Result<(), TrainError> {
        self.initialize_cold(start.seed, set);
        self.0.iter().try_for_each(|method| method.warm(start, set))
    }

    pub(crate) fn adaptation(&self, parameters: &Leaves, moment: &Moment) -> Adaptation {
        let mut adaptation = Adaptation::default();
        self.0.iter().for_each(|method| adaptation.add(method.adaptation(parameters, moment)));
        adaptation
    }

    pub(crate) fn penalty(&self, parameters: &Leaves, moment: &Moment) -> Option<Tensor<1>> {
        let terms = self.0.iter().filter_map(|method| method.penalty(parameters, moment));
        terms.reduce(|sum, term| sum + term)
    }

    pub(crate) fn mixture(&self, set: &ParameterSet) -> Option<serde_json::Value> {
        self.0.iter().find_map(|method| method.mixture(set))
    }

    pub(crate) fn architecture(&self) -> Option<Architecture> {
        self.0.iter().find_map(|method| method.architecture())
    }

    pub(crate) fn observe(&self, done: u64, gradients: &GradientMap, set: &mut ParameterSet) {
        self.0.iter().for_each(|method| method.observe(done, gradients, set));
    }

    /// What changed, in words.
    pub(crate) fn advance(&mut self, done: u64, set: &mut ParameterSet) -> Vec<String> {
        self.0.iter_mut().filter_map(|method| method.advance(done, set)).collect()
    }

    /// `search` while any method searches.
    pub(crate) fn phase(&self) -> &'static str {
        self.0.iter().map(|method| method.phase()).find(|phase| *phase != "tune").unwrap_or("tune")
    }

    pub(crate) fn state(&self) -> Vec<serde_json::Value> {
        self.0.iter().map(|method| method.state()).collect()
    }

    pub(crate) fn restore(&mut self, states: Vec<serde_json::Value>) -> Result<(), String> {
        if states.len() != self.0.len() {
            return Err(format!("it holds {} methods, the run has {}", states.len(), self.0.len()));
        }
        self.0.iter_mut().zip(states).try_for_each(|(method, state)| method.restore(state))
    }

    pub(crate) fn export(&self, set: &ParameterSet, to: &Destination<'_>) -> Result<Record, TrainError> {
        let mut record = Record::default();
        for method in &self.0 {
            let part = method.export(set, to)?;
            record.lora = part.lora.or(record.lora);
            record.prefix = part.prefix.or(record.prefix);
            record.routing = part.routing.or(record.routing);
        }
        Ok(record)
    }
}

fn encoder(config: &RunConfig, shape: PrefixShape, architecture: Option<&Architecture>) -> encoder::Encoder {
    match architecture {
        Some(architecture) => encoder::Encoder::of(shape, architecture),
        None if config.prefix.random_architecture => encoder::Encoder::random(shape, config.seed),
        None => encoder::Encoder::searched(shape, config.search_steps(), config.training.gradient_accumulation as u64),
    }
}

/// What all methods with prefix rows share.
#[derive(Debug, Clone)]
struct PrefixShape {
    config: PrefixConfig,
    /// Where the log-gate starts.
    log_gate: f64,
    /// 1, or the number of tasks.
    sets: usize,
    model: ModelConfig,
}

impl PrefixShape {
    fn new(config: &RunConfig, model: &ModelConfig) -> Self {
        let sets = match config.prefix.sharing {
            PrefixSharing::Shared => 1,
            PrefixSharing::PerTask => config.tasks.len(),
        };
        Self { config: config.prefix.clone(), log_gate: config.log_gate_init(), sets, model: model.clone() }
    }

    /// `[sets, layers, kv_heads, length, head_dim]`.
    fn rows(&self) -> [usize; 5] {
        let model = &self.model;
        [self.sets, model.num_hidden_layers, model.num_key_value_heads, self.config.length, model.head_dim]
    }
}
