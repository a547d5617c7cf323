//! PrefixNAS: prefix rows from a small network whose operations are searched.
//!
//! One cell serves every task and layer; a task has a seed, a layer a code and a head (the equations are in
//! [`pemlc_artifact::prompt`]). During the search each edge mixes its candidate operations (see [`relaxation`](super::relaxation)) by
//! logits that are stepped on the same gradient as the weights (first order, single level). Then the cell is made discrete (see [`discretise`](super::discretise)), what is not in it
//! leaves the parameter set, and the rest trains on.

use super::discretise::discretise;
use super::relaxation::{Draw, Weights, weigh};
use super::table::{KEY_DEVIATION, LOG_GATE, insert_log_gate, log_gate};
use super::{Destination, Method, Moment, PrefixShape, Record, Start, cell, prefix_files, warm_start};
use crate::adaptation::{Adaptation, PrefixRows};
use crate::config::{PrefixInit, Relaxation};
use crate::error::TrainError;
use crate::parameters::{Group, Leaves, ParameterSet};
use crate::random::Stream;
use burn::tensor::{Tensor, s};
use pemlc_artifact::prompt::{ARCHITECTURE_SCHEMA_VERSION, Architecture, Edge, Operation};
use pemlc_artifact::tensors::{self, NamedTensor, TensorMap, Values};

const SEED: &str = "encoder.seed";
const LAYER_CODE: &str = "encoder.layer_code";
const HEAD_WEIGHT: &str = "encoder.head.weight";
const HEAD_BIAS: &str = "encoder.head.bias";
const ALPHA: &str = "encoder.alpha";
const WARM_KEY: &str = "encoder.warm_start.key";
const WARM_VALUE: &str = "encoder.warm_start.value";
/// Deviation of the mixture's first logits.
const ALPHA_DEVIATION: f32 = 1e-3;

pub(super) struct Encoder {
    shape: PrefixShape,
    search_steps: u64,
    /// Batches that the search takes.
    search_batches: u64,
    /// Batches of the search before the mixture is stepped.
    warmup_batches: u64,
    /// The discretised cell; `None` during the search.
    edges: Option<Vec<Edge>>,
}

impl Encoder {
    /// A cell of these edges, trained from the start.
    pub(super) fn of(mut shape: PrefixShape, nodes: usize, edges: Vec<Edge>) -> Self {
        shape.config.nodes = nodes;
        Self { shape, search_steps: 0, search_batches: 0, warmup_batches: 0, edges: Some(edges) }
    }

    /// A cell drawn from the candidates by the rules that end a search.
    pub(super) fn random(shape: PrefixShape, seed: u64) -> Self {
        let mut encoder = Self::searched(shape, 0, 1);
        let count = encoder.places().len() * encoder.candidates().len();
        let logits = Stream::new(seed, "encoder.random_architecture", 0).normal(count, 1.0);
        let config = &encoder.shape.config;
        encoder.edges = Some(discretise(&encoder.places(), &logits, &config.operations, config.max_skips));
        encoder
    }

    /// A cell that is searched for. A step takes `batches` batches.
    pub(super) fn searched(shape: PrefixShape, search_steps: u64, batches: u64) -> Self {
        let search_batches = search_steps * batches;
        let warmup_batches = (shape.config.search_warmup_steps * batches).min(search_batches);
        Self { shape, search_steps, search_batches, warmup_batches, edges: None }
    }

    /// `(from, to)` of every edge, by (to, from).
    fn places(&self) -> Vec<(usize, usize)> {
        (1..=self.shape.config.nodes).flat_map(|to| (0..to).map(move |from| (from, to))).collect()
    }

    fn candidates(&self) -> &[Operation] {
        &self.shape.config.operations
    }

    /// What the edge at `place` makes of `x`; nothing if the cell has no such edge.
    fn edge(&self, place: usize, x: Tensor<3>, parameters: &Leaves, moment: &Moment) -> Option<Tensor<3>> {
        let apply = |operation: Operation| cell::apply(operation, x.clone(), parameters, &prefix(place, operation));
        if let Some(edges) = &self.edges {
            let (from, to) = self.places()[place];
            return edges.iter().find(|edge| (edge.from, edge.to) == (from, to)).map(|edge| apply(edge.operation));
        }
        let logits: Tensor<1> = parameters.get::<2>(ALPHA).slice(s![place..place + 1]).squeeze_dim(0);
        let candidates = self.candidates();
        let weights = match *moment {
            // The weights of operations learn alone at first, under the uniform mixture that the logits start from.
            Moment::Training { batch, .. } if batch < self.warmup_batches => {
                weigh(Relaxation::Softmax, logits.detach(), None)
            }
            Moment::Training { seed, batch } => {
                let search = (self.search_batches - self.warmup_batches).max(1);
                let progress = (batch - self.warmup_batches) as f64 / search as f64;
                let draw = Draw::new(candidates.len(), place, seed, batch, progress);
                weigh(self.shape.config.relaxation, logits, Some(&draw))
            }
            Moment::Evaluation => weigh(self.shape.config.relaxation, logits, None),
        };
        Some(match weights {
            Weights::All(weights) => {
                cell::mixture(weights, candidates.iter().map(|operation| apply(*operation)).collect())
            }
            Weights::One(winner, weight) => apply(candidates[winner]) * weight.unsqueeze::<3>(),
        })
    }

    /// Output of the cell for every task and layer, `[sets * layers, length, width]`.
    fn cell(&self, parameters: &Leaves, moment: &Moment) -> Tensor<3> {
        let [sets, layers, _, length, _] = self.shape.rows();
        let width = self.shape.config.width;
        let seed = parameters.get::<3>(SEED).reshape([sets, 1, length, width]);
        let code = parameters.get::<2>(LAYER_CODE).reshape([1, layers, 1, width]);
        let mut nodes = vec![(seed + code).reshape([sets * layers, length, width])];
        let places = self.places();
        for to in 1..=self.shape.config.nodes {
            let incoming = places.iter().enumerate().filter(|(_, place)| place.1 == to);
            let terms = incoming.filter_map(|(edge, (from, _))| {
                self.edge(edge, cell::normalize(nodes.get(*from)?.clone()), parameters, moment)
            });
            nodes.extend(terms.reduce(|sum, term| sum + term));
        }
        let count = (nodes.len() - 1) as f32;
        let sum = nodes.drain(1..).reduce(|sum, node| sum + node);
        // A cell has at least one node, as the configuration was checked for.
        cell::normalize(sum.unwrap_or_else(|| nodes[0].clone()) / count.max(1.0))
    }

    fn rows(&self, parameters: &Leaves, moment: &Moment) -> PrefixRows {
        let [sets, layers, kv_heads, length, head_dim] = self.shape.rows();
        let width = self.shape.config.width;
        let output = self.cell(parameters, moment).reshape([sets, layers, length, width]).swap_dims(0, 1);
        let output = output.reshape([layers, sets * length, width]);
        let weight = parameters.get::<3>(HEAD_WEIGHT).swap_dims(1, 2);
        let rows = output.matmul(weight) * head_scale(width) + parameters.get::<2>(HEAD_BIAS).unsqueeze_dim::<3>(1);
        let rows: Tensor<6> = rows.reshape([layers, sets, length, 2, kv_heads, head_dim]);
        let half = |index: usize| -> Tensor<5> {
            rows.clone().slice(s![.., .., .., index..index + 1]).squeeze_dim::<5>(3).permute([1, 0, 3, 2, 4])
        };
        let (mut key, mut value) = (half(0), half(1));
        if self.shape.config.init == PrefixInit::Warm {
            key = key + parameters.get(WARM_KEY);
            value = value + parameters.get(WARM_VALUE);
        }
        PrefixRows { key, value, log_gate: log_gate(&self.shape, parameters) }
    }

    fn discretised(&self, set: &ParameterSet) -> Vec<Edge> {
        discretise(&self.places(), &set.values(ALPHA), self.candidates(), self.shape.config.max_skips)
    }

    /// Each edge with its index among all places, which names its parameters.
    fn placed<'a>(&self, edges: &'a [Edge]) -> Vec<(usize, &'a Edge)> {
        let places = self.places();
        let place = |edge: &Edge| places.iter().position(|place| *place == (edge.from, edge.to));
        edges.iter().filter_map(|edge| Some((place(edge)?, edge))).collect()
    }

    fn architecture(&self, set: &ParameterSet) -> Architecture {
        Architecture {
            schema_version: ARCHITECTURE_SCHEMA_VERSION,
            width: self.shape.config.width,
            length: self.shape.config.length,
            nodes: self.shape.config.nodes,
            edges: self.edges.clone().unwrap_or_else(|| self.discretised(set)),
        }
    }

    /// `prompt/encoder.safetensors`, under the names of [`pemlc_artifact::prompt`].
    fn files(&self, set: &ParameterSet, edges: &[Edge]) -> TensorMap {
        let [sets, layers, kv_heads, length, head_dim] = self.shape.rows();
        let width = self.shape.config.width;
        let mut map = TensorMap::new();
        let mut parts = |values: &[f32], count: usize, shape: &[usize], to: &dyn Fn(usize) -> String| {
            let size: usize = shape.iter().product();
            for (index, part) in values.chunks(size.max(1)).take(count).enumerate() {
                map.insert(to(index), NamedTensor { shape: shape.to_vec(), values: Values::F32(part.to_vec()) });
            }
        };
        parts(&set.values(SEED), sets, &[length, width], &|set| format!("seed.{set}"));
        parts(&set.values(LAYER_CODE), 1, &[layers, width], &|_| "layer_code".to_owned());
        let outputs = 2 * kv_heads * head_dim;
        let heads: Vec<f32> = set.values(HEAD_WEIGHT).iter().map(|weight| weight * head_scale(width)).collect();
        parts(&heads, layers, &[outputs, width], &|layer| format!("head.{layer}.weight"));
        parts(&set.values(HEAD_BIAS), layers, &[outputs], &|layer| format!("head.{layer}.bias"));
        parts(&set.values(LOG_GATE), 1, &[layers], &|_| "log_gate".to_owned());
        for (index, (place, edge)) in self.placed(edges).into_iter().enumerate() {
            for (name, shape) in cell::weights(edge.operation, width) {
                let from = format!("{}.{name}", prefix(place, edge.operation));
                parts(&set.values(&from), 1, &shape, &|_| format!("edges.{index}.{name}"));
            }
        }
        if self.shape.config.init == PrefixInit::Warm {
            for (name, kind) in [(WARM_KEY, "key"), (WARM_VALUE, "value")] {
                parts(&set.values(name), sets * layers, &[kv_heads, length, head_dim], &|index| {
                    format!("warm_start.{}.layers.{}.{kind}", index / layers, index % layers)
                });
            }
        }
        map
    }
}

impl Method for Encoder {
    fn initialize_cold(&self, run_seed: u64, set: &mut ParameterSet) {
        let [sets, layers, kv_heads, length, head_dim] = self.shape.rows();
        let width = self.shape.config.width;
        let deviation = (width as f32).sqrt().recip();
        let normal = |name: &str, count, deviation| Stream::new(run_seed, name, 0).normal(count, deviation);
        let seeds = normal(SEED, sets * length * width, deviation);
        set.insert(SEED, Group::Prefix, &[sets, length, width], seeds);
        set.insert(LAYER_CODE, Group::Prefix, &[layers, width], normal(LAYER_CODE, layers * width, deviation));
        let initialize = |place: usize, operation: Operation, set: &mut ParameterSet| {
            cell::initialize(operation, width, &prefix(place, operation), run_seed, set);
        };
        if let Some(edges) = &self.edges {
            self.placed(edges).into_iter().for_each(|(place, edge)| initialize(place, edge.operation, set));
        } else {
            let (places, candidates) = (self.places().len(), self.candidates());
            for place in 0..places {
                candidates.iter().for_each(|operation| initialize(place, *operation, set));
            }
            let logits = normal(ALPHA, places * candidates.len(), ALPHA_DEVIATION);
            set.insert(ALPHA, Group::Architecture, &[places, candidates.len()], logits);
        }
        // Keys small, values zero. Rows that start warm start as they are, so both are zero there.
        let half = kv_heads * head_dim * width;
        let warm = self.shape.config.init == PrefixInit::Warm;
        let deviation = if warm { 0.0 } else { KEY_DEVIATION / head_scale(width) };
        let mut heads = normal(HEAD_WEIGHT, layers * 2 * half, deviation);
        for layer in heads.chunks_mut(2 * half) {
            layer[half..].fill(0.0);
        }
        set.insert(HEAD_WEIGHT, Group::Prefix, &[layers, 2 * kv_heads * head_dim, width], heads);
        let outputs = 2 * kv_heads * head_dim;
        set.insert(HEAD_BIAS, Group::Prefix, &[layers, outputs], vec![0.0; layers * outputs]);
        insert_log_gate(&self.shape, set);
    }

    fn warm(&self, start: &Start<'_>, set: &mut ParameterSet) -> Result<(), TrainError> {
        if self.shape.config.init == PrefixInit::Warm {
            let (key, value) = warm_start::rows(start, &self.shape)?;
            set.insert(WARM_KEY, Group::Constant, &self.shape.rows(), key);
            set.insert(WARM_VALUE, Group::Constant, &self.shape.rows(), value);
        }
        Ok(())
    }

    fn adaptation(&self, parameters: &Leaves, moment: &Moment) -> Adaptation {
        Adaptation { prefix: Some(self.rows(parameters, moment)), ..Adaptation::default() }
    }

    fn advance(&mut self, done: u64, set: &mut ParameterSet) -> Option<String> {
        if self.edges.is_some() || done < self.search_steps {
            return None;
        }
        let edges = self.discretised(set);
        let kept: Vec<String> =
            self.placed(&edges).iter().map(|(place, edge)| format!("{}.", prefix(*place, edge.operation))).collect();
        set.retain(|name| {
            name != ALPHA && (!name.starts_with("encoder.edges.") || kept.iter().any(|kept| name.starts_with(kept)))
        });
        let words: Vec<String> = edges
            .iter()
            .map(|edge| format!("{}->{} {} ({:.2})", edge.from, edge.to, edge.operation.name(), edge.weight))
            .collect();
        self.edges = Some(edges);
        Some(format!("the cell is {}", words.join(", ")))
    }

    fn phase(&self) -> &'static str {
        if self.edges.is_some() { "tune" } else { "search" }
    }

    fn state(&self) -> serde_json::Value {
        serde_json::json!({ "edges": self.edges })
    }

    fn restore(&mut self, mut state: serde_json::Value) -> Result<(), String> {
        let edges: Option<Vec<Edge>> = serde_json::from_value(state["edges"].take())
            .map_err(|error| format!("the encoder's architecture cannot be read: {error}"))?;
        if edges.as_ref().is_some_and(|edges| self.placed(edges).len() != edges.len()) {
            return Err("the encoder's architecture has other edges than the run".to_owned());
        }
        self.edges = edges;
        Ok(())
    }

    fn export(&self, set: &ParameterSet, to: &Destination<'_>) -> Result<Record, TrainError> {
        let architecture = self.architecture(set);
        architecture.write(&to.paths.architecture())?;
        tensors::write(&to.paths.encoder(), &self.files(set, &architecture.edges))?;
        let rows = self.rows(&set.constants(), &Moment::Evaluation);
        Ok(Record { prefix: prefix_files::write(Some(rows), &self.shape, to)?, ..Record::default() })
    }
}

/// What the head's parameters are multiplied by. Adam moves each of them by the learning rate; with 1 / width a row, which sums over the
/// width, then moves by about the learning rate too, as a row that is learned directly does.
fn head_scale(width: usize) -> f32 {
    1.0 / width as f32
}

/// Where the weights of an operation on an edge are.
fn prefix(edge: usize, operation: Operation) -> String {
    format!("encoder.edges.{edge}.{}", operation.name())
}
