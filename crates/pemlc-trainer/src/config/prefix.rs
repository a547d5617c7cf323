//! `[prefix]`: prefix rows, their encoder and its search.

use pemlc_artifact::prompt::{Generators, Insertion, LARGEST_KERNEL, LARGEST_WIDTH, MOST_NODES, Operation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Prefix rows and their encoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PrefixConfig {
    /// Key and value rows a layer.
    pub length: usize,
    /// Whether each task has its own.
    pub sharing: PrefixSharing,
    /// Whether an additive constant on the rows' attention logits is learned, so that fresh rows disturb little.
    pub log_gate: bool,
    /// Where that constant starts. Default: -6 cold, 0 warm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_gate_init: Option<f64>,
    /// What the rows start from.
    pub init: PrefixInit,
    /// The text of a warm start. Default: each task's template without its fields or, if nothing is left, its first training prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Lengths to choose from during the search, the largest being `length`; none: `length` it is.
    pub lengths: Vec<usize>,
    /// Whether the search chooses the layers that get rows.
    pub search_layers: bool,
    /// How many generators (a seed and the cell's weights) there are.
    pub generators: Generators,
    /// What the encoder's heads give: `rows` are keys and values; `hidden` are hidden states, which go through the layer's own key and
    /// value projections, their low-rank deltas included.
    pub insertion: Insertion,
    /// Width of the encoder's seed, and of the input of `prefix-mlp`'s MLP.
    pub width: usize,
    /// Width of the hidden layer of `prefix-mlp`'s MLP.
    pub hidden: usize,
    /// Nodes of the encoder's cell, after the seed.
    pub nodes: usize,
    /// Candidates on each edge of the cell.
    pub operations: Vec<Operation>,
    /// `architecture.json` of another run: its cell is trained from fresh weights, without a search.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// Whether the cell is drawn at random from `operations`, without a search: the control of a search.
    pub random_architecture: bool,
    /// How candidates are mixed during the search.
    pub relaxation: Relaxation,
    /// Steps of the search before the mixture's logits are stepped: operations learn first.
    pub search_warmup_steps: u64,
    /// Skips that the cell may have when the search ends: an edge beyond takes its next best operation.
    pub max_skips: usize,
    /// Steps with mixed operations; then each edge keeps its best one. Default: 40 % of the steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search_steps: Option<u64>,
    /// Learning rate of the mixture's logits.
    pub architecture_learning_rate: f64,
    /// On which examples the mixture's logits are stepped.
    pub update: Update,
    /// `bilevel`: share of each task's training examples that only the mixture's logits learn from during the search.
    pub architecture_share: f64,
    /// `bilevel`: steps of the weights for each step of the mixture's logits.
    pub architecture_every: u64,
    /// Weight of the mixtures' entropy, in nats summed over edges, in the loss: it rises from 0 over the second half of the search.
    pub entropy_weight: f64,
    /// Weight of the expected cost in the loss: the mixtures' expected share of the largest cell's parameters and, where lengths or layers
    /// are searched, the expected share of rows.
    pub cost_weight: f64,
    /// How the cell is trained once it is found.
    pub after_search: AfterSearch,
    /// Whether the mixture, the discretised cell and the tuned one are scored when their time is over.
    pub score_stages: bool,
}

impl Default for PrefixConfig {
    fn default() -> Self {
        Self {
            length: 8,
            sharing: PrefixSharing::PerTask,
            log_gate: true,
            log_gate_init: None,
            init: PrefixInit::Warm,
            text: None,
            lengths: vec![],
            search_layers: false,
            generators: Generators::Shared,
            insertion: Insertion::Rows,
            width: 64,
            hidden: 512,
            nodes: 2,
            operations: vec![
                Operation::Skip,
                Operation::Linear,
                Operation::MlpTanh { width: 64 },
                Operation::Attention { heads: 4 },
            ],
            architecture: None,
            random_architecture: false,
            relaxation: Relaxation::Softmax,
            search_warmup_steps: 0,
            max_skips: 2,
            search_steps: None,
            architecture_learning_rate: 3e-3,
            update: Update::SingleLevel,
            architecture_share: 0.2,
            architecture_every: 1,
            entropy_weight: 0.0,
            cost_weight: 0.0,
            after_search: AfterSearch::Tune,
            score_stages: true,
        }
    }
}

/// How the candidates on an edge are mixed during the search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Relaxation {
    /// The softmax of the logits.
    Softmax,
    /// The same over a temperature that falls from 5 to 0.2.
    Annealed,
    /// The softmax of logits and Gumbel noise over a temperature that falls from 5 to 0.1.
    Gumbel,
    /// The likeliest of these alone, with the gradient of its weight: one operation an edge is evaluated.
    StraightThrough,
}

/// Whether each task has prefix rows of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PrefixSharing {
    /// One set for all tasks.
    Shared,
    /// One set for each task.
    PerTask,
}

/// What the prefix rows start from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PrefixInit {
    /// Zero values and small random keys, all but shut out by the log-gate: the start is the base model, and the way from it is long.
    Cold,
    /// The frozen model's own keys and values of a text.
    Warm,
}

/// On which examples the mixture's logits are stepped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Update {
    /// On those of the weights, in the same backward pass (SNAS, arXiv 1812.09926).
    SingleLevel,
    /// On held-out training examples, in a pass of their own (first order, DARTS, arXiv 1806.09055).
    Bilevel,
}

/// How the cell is trained once it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AfterSearch {
    /// On from the search's weights, up to `training.steps`.
    Tune,
    /// From fresh weights, for `training.steps`, as `pemlc train --architecture` would.
    Retrain,
    /// First the one, then the other, whose weights are kept.
    Both,
}

impl PrefixConfig {
    /// The first value outside its range: its key, what it is, what is expected.
    pub(super) fn fault(&self) -> Option<(String, String, String)> {
        let fault = |key: &str, value: String, expected: &str| Some((key.to_owned(), value, expected.to_owned()));
        for (key, value) in [
            ("prefix.length", self.length),
            ("prefix.width", self.width),
            ("prefix.hidden", self.hidden),
            ("prefix.nodes", self.nodes),
            ("prefix.architecture_every", self.architecture_every as usize),
        ] {
            if value == 0 {
                return fault(key, "0".to_owned(), "at least 1");
            }
        }
        for (key, value, most) in
            [("prefix.width", self.width, LARGEST_WIDTH), ("prefix.nodes", self.nodes, MOST_NODES)]
        {
            if value > most {
                return fault(key, value.to_string(), &format!("at most {most}"));
            }
        }
        for (key, value) in [
            ("prefix.architecture_learning_rate", self.architecture_learning_rate),
            ("prefix.entropy_weight", self.entropy_weight),
            ("prefix.cost_weight", self.cost_weight),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                return fault(key, value.to_string(), "a number, at least 0");
            }
        }
        if !(self.architecture_share > 0.0 && self.architecture_share < 1.0) {
            return fault("prefix.architecture_share", self.architecture_share.to_string(), "above 0 and below 1");
        }
        if let Some(value) = self.log_gate_init.filter(|value| !value.is_finite()) {
            return fault("prefix.log_gate_init", value.to_string(), "a finite number");
        }
        if let (Some(file), true) = (&self.architecture, self.random_architecture) {
            let expected = "nothing, because prefix.random_architecture is set";
            return fault("prefix.architecture", format!("{file:?}"), expected);
        }
        if self.lengths.contains(&0) || !self.lengths.is_sorted_by(|left, right| left < right) {
            return fault("prefix.lengths", format!("{:?}", self.lengths), "positive numbers in ascending order");
        }
        if self.lengths.last().is_some_and(|longest| *longest != self.length) {
            let expected = format!("numbers up to prefix.length = {}", self.length);
            return Some(("prefix.lengths".to_owned(), format!("{:?}", self.lengths), expected));
        }
        self.operations_fault()
    }

    fn operations_fault(&self) -> Option<(String, String, String)> {
        if self.operations.iter().all(|operation| *operation == Operation::None) {
            let expected = "at least one operation other than none".to_owned();
            return Some(("prefix.operations".to_owned(), "empty".to_owned(), expected));
        }
        for (index, operation) in self.operations.iter().enumerate() {
            let key = format!("prefix.operations.{index}");
            match *operation {
                Operation::DepthwiseConvolution { kernel } if kernel % 2 == 0 => {
                    let value = format!("a convolution of {kernel} positions");
                    return Some((key, value, "an odd number of positions".to_owned()));
                }
                Operation::DepthwiseConvolution { kernel } if kernel > LARGEST_KERNEL => {
                    let value = format!("a convolution of {kernel} positions");
                    return Some((key, value, format!("at most {LARGEST_KERNEL}")));
                }
                Operation::MlpTanh { width } | Operation::MlpGelu { width } if width > LARGEST_WIDTH => {
                    return Some((key, format!("an MLP of width {width}"), format!("at most {LARGEST_WIDTH}")));
                }
                Operation::MlpTanh { width: 0 } | Operation::MlpGelu { width: 0 } => {
                    return Some((key, "an MLP of width 0".to_owned(), "width at least 1".to_owned()));
                }
                Operation::Attention { heads } if heads == 0 || !self.width.is_multiple_of(heads) => {
                    let expected = format!("heads that divide prefix.width = {}", self.width);
                    return Some((key, format!("attention with {heads} heads"), expected));
                }
                _ => {}
            }
            if self.operations[..index].contains(operation) {
                return Some((key, "a repetition".to_owned(), "each operation once".to_owned()));
            }
        }
        None
    }
}
