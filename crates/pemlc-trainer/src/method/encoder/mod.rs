//! PrefixNAS: prefix rows from a small network whose operations are searched.
//!
//! One cell, in one generator or several, serves every task and layer; a task has a seed, a layer a code and a head (the equations are in
//! [`pemlc_artifact::prompt`]). During the search each edge mixes its candidate operations (see [`relaxation`](super::relaxation)) by
//! logits that are stepped with the weights, or on examples of their own; so are the logits of lengths and layers (see [`choice`]). Then
//! the cell is made discrete (see [`discretise`](super::discretise)), what is not in it leaves the parameter set, and the rest trains on.

mod choice;
mod files;
mod network;
mod penalty;
#[cfg(test)]
mod tests;

use super::discretise::discretise;
use super::table::{KEY_DEVIATION, insert_log_gate};
use super::{Destination, Method, Moment, PrefixShape, Record, Start, cell, prefix_files, warm_start};
use crate::adaptation::Adaptation;
use crate::config::PrefixInit;
use crate::error::TrainError;
use crate::parameters::{Group, Leaves, ParameterSet};
use crate::random::Stream;
use burn::tensor::Tensor;
use choice::{Choice, Chosen};
use pemlc_artifact::prompt::{Architecture, Edge, Generators, Insertion, Operation};
use pemlc_artifact::tensors;
use serde::{Deserialize, Serialize};
use std::ops::Range;

const LAYER_CODE: &str = "encoder.layer_code";
const HEAD_WEIGHT: &str = "encoder.head.weight";
const HEAD_BIAS: &str = "encoder.head.bias";
const ALPHA: &str = "encoder.alpha";
const WARM_KEY: &str = "encoder.warm_start.key";
const WARM_VALUE: &str = "encoder.warm_start.value";
/// Deviation of the mixture's first logits.
const ALPHA_DEVIATION: f32 = 1e-3;

pub(super) struct Encoder {
    /// Its length is that of the rows: once it is found, the length that was chosen.
    shape: PrefixShape,
    /// What the cell computes on: the longest length. The rows are the last of them.
    positions: usize,
    search: Search,
    /// The discretised cell; `None` during the search.
    cell: Option<Cell>,
}

#[derive(Debug, Clone, Copy)]
struct Search {
    steps: u64,
    batches: u64,
    /// Batches before the mixture is stepped.
    warmup_batches: u64,
}

/// What a search finds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Cell {
    edges: Vec<Edge>,
    length: usize,
    length_is_searched: bool,
    /// Those with rows; `None` when all have them.
    layers: Option<Vec<usize>>,
}

impl Encoder {
    /// A cell that was found elsewhere, trained from the start.
    pub(super) fn of(mut shape: PrefixShape, architecture: &Architecture) -> Self {
        shape.config.nodes = architecture.nodes;
        shape.config.generators = architecture.generators;
        shape.config.insertion = architecture.insertion;
        if architecture.positions.is_some() {
            shape.config.length = architecture.length;
        }
        let positions = architecture.positions.unwrap_or(shape.config.length);
        let cell = Cell {
            edges: architecture.edges.clone(),
            length: shape.config.length,
            length_is_searched: architecture.positions.is_some(),
            layers: architecture.layers.clone(),
        };
        Self { shape, positions, search: Search { steps: 0, batches: 0, warmup_batches: 0 }, cell: Some(cell) }
    }

    /// A cell drawn from the candidates by the rules that end a search.
    pub(super) fn random(shape: PrefixShape, seed: u64) -> Self {
        let mut encoder = Self::searched(shape, 0, 1);
        let count = encoder.places().len() * encoder.candidates().len();
        let logits = Stream::new(seed, "encoder.random_architecture", 0).normal(count, 1.0);
        let config = &encoder.shape.config;
        let edges = discretise(&encoder.places(), &logits, &config.operations, config.max_skips);
        encoder.settle(edges, encoder.choice().random(seed));
        encoder
    }

    /// A cell that is searched for. A step takes `batches` batches.
    pub(super) fn searched(shape: PrefixShape, steps: u64, batches: u64) -> Self {
        let search = Search {
            steps,
            batches: steps * batches,
            warmup_batches: (shape.config.search_warmup_steps * batches).min(steps * batches),
        };
        Self { positions: shape.config.length, shape, search, cell: None }
    }

    /// Makes the cell what was found.
    fn settle(&mut self, edges: Vec<Edge>, chosen: Chosen) {
        let length_is_searched = chosen.length.is_some();
        let length = chosen.length.unwrap_or(self.positions);
        self.shape.config.length = length;
        self.cell = Some(Cell { edges, length, length_is_searched, layers: chosen.layers });
    }

    /// `(from, to)` of every edge, by (to, from).
    fn places(&self) -> Vec<(usize, usize)> {
        (1..=self.shape.config.nodes).flat_map(|to| (0..to).map(move |from| (from, to))).collect()
    }

    fn candidates(&self) -> &[Operation] {
        &self.shape.config.operations
    }

    fn choice(&self) -> Choice {
        Choice::new(&self.shape.config, self.shape.model.num_hidden_layers)
    }

    /// The layers of each generator.
    fn generators(&self) -> Vec<Range<usize>> {
        self.shape.config.generators.layers(self.shape.model.num_hidden_layers)
    }

    /// In front of the names of a generator's parameters.
    fn at(&self, generator: usize) -> String {
        match self.generators().len() {
            1 => "encoder".to_owned(),
            _ => format!("encoder.generators.{generator}"),
        }
    }

    /// Numbers that a head gives for each row.
    fn outputs(&self) -> usize {
        match self.shape.config.insertion {
            Insertion::Rows => 2 * self.shape.model.kv_width(),
            Insertion::Hidden => self.shape.model.hidden_size,
        }
    }

    /// Each edge with its index among all places, which names its parameters.
    fn placed<'a>(&self, edges: &'a [Edge]) -> Vec<(usize, &'a Edge)> {
        let places = self.places();
        let place = |edge: &Edge| places.iter().position(|place| *place == (edge.from, edge.to));
        edges.iter().filter_map(|edge| Some((place(edge)?, edge))).collect()
    }

    /// First weights of the heads: keys small, values zero. Rows that start warm start as they are, so both are zero there.
    fn initialize_heads(&self, run_seed: u64, set: &mut ParameterSet) {
        let (layers, width, outputs) = (self.shape.model.num_hidden_layers, self.shape.config.width, self.outputs());
        let warm = self.shape.config.init == PrefixInit::Warm;
        let deviation = if warm { 0.0 } else { KEY_DEVIATION / head_scale(width) };
        let mut heads = Stream::new(run_seed, HEAD_WEIGHT, 0).normal(layers * outputs * width, deviation);
        if self.shape.config.insertion == Insertion::Rows {
            for layer in heads.chunks_mut(outputs * width) {
                layer[outputs * width / 2..].fill(0.0);
            }
        }
        set.insert(HEAD_WEIGHT, Group::Prefix, &[layers, outputs, width], heads);
        set.insert(HEAD_BIAS, Group::Prefix, &[layers, outputs], vec![0.0; layers * outputs]);
    }
}

impl Method for Encoder {
    fn initialize_cold(&self, run_seed: u64, set: &mut ParameterSet) {
        let [sets, layers, ..] = self.shape.rows();
        let width = self.shape.config.width;
        let deviation = (width as f32).sqrt().recip();
        let normal = |name: &str, count, deviation| Stream::new(run_seed, name, 0).normal(count, deviation);
        if self.shape.config.generators != Generators::PerLayer {
            set.insert(LAYER_CODE, Group::Prefix, &[layers, width], normal(LAYER_CODE, layers * width, deviation));
        }
        for generator in 0..self.generators().len() {
            let at = self.at(generator);
            let seed = format!("{at}.seed");
            let values = normal(&seed, sets * self.positions * width, deviation);
            set.insert(seed, Group::Prefix, &[sets, self.positions, width], values);
            let initialize = |place: usize, operation: Operation, set: &mut ParameterSet| {
                cell::initialize(operation, width, &edge_name(&at, place, operation), run_seed, set);
            };
            if let Some(found) = &self.cell {
                self.placed(&found.edges).into_iter().for_each(|(place, edge)| initialize(place, edge.operation, set));
                continue;
            }
            for place in 0..self.places().len() {
                self.candidates().iter().for_each(|operation| initialize(place, *operation, set));
            }
        }
        if self.cell.is_none() {
            let (places, candidates) = (self.places().len(), self.candidates().len());
            let logits = normal(ALPHA, places * candidates, ALPHA_DEVIATION);
            set.insert(ALPHA, Group::Architecture, &[places, candidates], logits);
            self.choice().initialize(run_seed, set);
        }
        self.initialize_heads(run_seed, set);
        insert_log_gate(&self.shape, set);
    }

    fn warm(&self, start: &Start<'_>, set: &mut ParameterSet) -> Result<(), TrainError> {
        if self.shape.config.init == PrefixInit::Warm {
            let mut whole = self.shape.clone();
            whole.config.length = self.positions;
            let (key, value) = warm_start::rows(start, &whole)?;
            set.insert(WARM_KEY, Group::Constant, &whole.rows(), key);
            set.insert(WARM_VALUE, Group::Constant, &whole.rows(), value);
        }
        Ok(())
    }

    fn adaptation(&self, parameters: &Leaves, moment: &Moment) -> Adaptation {
        self.rows(parameters, moment)
    }

    fn penalty(&self, parameters: &Leaves, moment: &Moment) -> Option<Tensor<1>> {
        self.search_penalty(parameters, moment)
    }

    fn mixture(&self, set: &ParameterSet) -> Option<serde_json::Value> {
        self.cell.is_none().then(|| self.shares(set))
    }

    fn advance(&mut self, done: u64, set: &mut ParameterSet) -> Option<String> {
        if self.cell.is_some() || done < self.search.steps {
            return None;
        }
        let config = &self.shape.config;
        let edges = discretise(&self.places(), &set.values(ALPHA), self.candidates(), config.max_skips);
        self.settle(edges, self.choice().discretise(set));
        let found = self.cell.as_ref()?;
        let placed = self.placed(&found.edges);
        let generators: Vec<String> = (0..self.generators().len()).map(|index| self.at(index)).collect();
        let kept: Vec<String> = generators
            .iter()
            .flat_map(|at| {
                placed.iter().map(move |(place, edge)| format!("{}.", edge_name(at, *place, edge.operation)))
            })
            .collect();
        set.retain(|name| {
            let weight = name.starts_with("encoder.") && name.contains(".edges.");
            name != ALPHA && !Choice::owns(name) && (!weight || kept.iter().any(|kept| name.starts_with(kept)))
        });
        Some(in_words(found))
    }

    fn phase(&self) -> &'static str {
        if self.cell.is_some() { "tune" } else { "search" }
    }

    fn architecture(&self) -> Option<Architecture> {
        self.cell.as_ref().map(|found| Encoder::architecture(self, found))
    }

    fn state(&self) -> serde_json::Value {
        serde_json::json!({ "cell": self.cell })
    }

    fn restore(&mut self, mut state: serde_json::Value) -> Result<(), String> {
        let found: Option<Cell> = serde_json::from_value(state["cell"].take())
            .map_err(|error| format!("the encoder's architecture cannot be read: {error}"))?;
        if let Some(found) = found {
            if self.placed(&found.edges).len() != found.edges.len() || found.length > self.positions {
                return Err("the encoder's architecture has other edges or rows than the run".to_owned());
            }
            self.shape.config.length = found.length;
            self.cell = Some(found);
        }
        Ok(())
    }

    fn export(&self, set: &ParameterSet, to: &Destination<'_>) -> Result<Record, TrainError> {
        // Found by now: `advance` is called once more after the last step.
        let Some(found) = &self.cell else { return Ok(Record::default()) };
        Encoder::architecture(self, found).write(&to.paths.architecture())?;
        tensors::write(&to.paths.encoder(), &self.files(set, found))?;
        if self.shape.config.insertion == Insertion::Hidden {
            // What hidden states come to depends on the projections: the run folds them, once it knows all deltas.
            return Ok(Record::default());
        }
        let rows = self.rows(&set.constants(), &Moment::Evaluation).prefix;
        Ok(Record { prefix: prefix_files::write(rows, &self.shape, to)?, ..Record::default() })
    }
}

fn in_words(found: &Cell) -> String {
    let edge = |edge: &Edge| format!("{}->{} {} ({:.2})", edge.from, edge.to, edge.operation.name(), edge.weight);
    let mut words = format!("the cell is {}", found.edges.iter().map(edge).collect::<Vec<_>>().join(", "));
    if found.length_is_searched {
        words += &format!("; {} rows", found.length);
    }
    if let Some(layers) = &found.layers {
        let layers: Vec<String> = layers.iter().map(usize::to_string).collect();
        words += &format!("; on layers {}", layers.join(" "));
    }
    words
}

/// What the head's parameters are multiplied by. Adam moves each of them by the learning rate; with 1 / width a row, which sums over the
/// width, then moves by about the learning rate too, as a row that is learned directly does.
fn head_scale(width: usize) -> f32 {
    1.0 / width as f32
}

/// Where the weights of an operation on an edge are.
fn edge_name(generator: &str, edge: usize, operation: Operation) -> String {
    format!("{generator}.edges.{edge}.{}", operation.name())
}
