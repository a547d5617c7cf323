//! The encoder's forward pass: seeds through the cell of each generator, through the heads, to rows.

use super::super::cell;
use super::super::relaxation::{Draw, Weights, final_temperature, temperature, weigh};
use super::super::table::log_gate;
use super::{ALPHA, Encoder, HEAD_BIAS, HEAD_WEIGHT, LAYER_CODE, WARM_KEY, WARM_VALUE, edge_name, head_scale};
use crate::adaptation::{Adaptation, HiddenRows, PrefixRows};
use crate::config::{PrefixInit, Relaxation};
use crate::method::Moment;
use crate::parameters::Leaves;
use burn::tensor::{DType, Tensor, TensorData, s};
use pemlc_artifact::prompt::{Generators, Insertion, Operation, SHUT};

/// What an edge is at a moment.
enum Mixed {
    Absent,
    One(Operation),
    /// By the weight, which is 1 and has a gradient.
    Sampled(Operation, Tensor<1>),
    /// `[candidates]`.
    All(Tensor<1>),
}

impl Encoder {
    /// Share of the search that is over; `None` while the mixture's logits are not stepped yet.
    pub(super) fn progress(&self, moment: &Moment) -> Option<f64> {
        let (whole, warmup) = (self.search.batches, self.search.warmup_batches);
        match *moment {
            Moment::Training { batch, .. } if batch < warmup => None,
            Moment::Training { batch, .. } => Some((batch - warmup) as f64 / (whole - warmup).max(1) as f64),
            Moment::Evaluation => Some(1.0),
        }
    }

    /// Temperature of length and layer gates.
    pub(super) fn gate_temperature(&self, moment: &Moment) -> f32 {
        match (moment, self.progress(moment)) {
            (Moment::Evaluation, _) => final_temperature(self.shape.config.relaxation),
            (_, progress) => temperature(self.shape.config.relaxation, progress.unwrap_or(0.0)),
        }
    }

    fn mixed(&self, place: usize, parameters: &Leaves, moment: &Moment) -> Mixed {
        if let Some(found) = &self.cell {
            let (from, to) = self.places()[place];
            let edge = found.edges.iter().find(|edge| (edge.from, edge.to) == (from, to));
            return edge.map_or(Mixed::Absent, |edge| Mixed::One(edge.operation));
        }
        let logits: Tensor<1> = parameters.get::<2>(ALPHA).slice(s![place..place + 1]).squeeze_dim(0);
        let relaxation = self.shape.config.relaxation;
        let weights = match (*moment, self.progress(moment)) {
            (Moment::Training { seed, batch }, Some(progress)) => {
                let draw = Draw::new(self.candidates().len(), place, seed, batch, progress);
                weigh(relaxation, logits, Some(&draw))
            }
            // The weights of operations learn alone at first, under the uniform mixture that the logits start from.
            (Moment::Training { .. }, None) => weigh(Relaxation::Softmax, logits.detach(), None),
            (Moment::Evaluation, _) => weigh(relaxation, logits, None),
        };
        match weights {
            Weights::All(weights) => Mixed::All(weights),
            Weights::One(winner, weight) => Mixed::Sampled(self.candidates()[winner], weight),
        }
    }

    /// Output of the cell of generator `generator` for the layers that it serves, `[sets, layers, positions, width]`.
    fn cell(&self, generator: usize, mixed: &[Mixed], parameters: &Leaves) -> Tensor<4> {
        let [sets, all_layers, ..] = self.shape.rows();
        let (width, positions) = (self.shape.config.width, self.positions);
        let layers = self.generators()[generator].clone();
        let at = self.at(generator);
        let seed = parameters.get::<3>(&format!("{at}.seed")).reshape([sets, 1, positions, width]);
        let start = match self.shape.config.generators {
            Generators::PerLayer => seed,
            _ => {
                let code = parameters.get::<2>(LAYER_CODE).reshape([1, all_layers, 1, width]);
                seed + code.slice(s![.., layers.clone()])
            }
        };
        let mut nodes = vec![start.reshape([sets * layers.len(), positions, width])];
        let places = self.places();
        for to in 1..=self.shape.config.nodes {
            let incoming = places.iter().enumerate().filter(|(_, place)| place.1 == to);
            let terms = incoming.filter_map(|(place, (from, _))| {
                let x = cell::normalize(nodes.get(*from)?.clone());
                let apply =
                    |operation| cell::apply(operation, x.clone(), parameters, &edge_name(&at, place, operation));
                match &mixed[place] {
                    Mixed::Absent => None,
                    Mixed::One(operation) => Some(apply(*operation)),
                    Mixed::Sampled(operation, weight) => Some(apply(*operation) * weight.clone().unsqueeze::<3>()),
                    Mixed::All(weights) => {
                        let outputs = self.candidates().iter().map(|operation| apply(*operation)).collect();
                        Some(cell::mixture(weights.clone(), outputs))
                    }
                }
            });
            nodes.extend(terms.reduce(|sum, term| sum + term));
        }
        let count = (nodes.len() - 1) as f32;
        let sum = nodes.drain(1..).reduce(|sum, node| sum + node);
        // A cell has at least one node, as the configuration was checked for.
        let output = cell::normalize(sum.unwrap_or_else(|| nodes[0].clone()) / count.max(1.0));
        output.reshape([sets, layers.len(), positions, width])
    }

    /// What the encoder adds to the model.
    pub(super) fn rows(&self, parameters: &Leaves, moment: &Moment) -> Adaptation {
        let [sets, layers, kv_heads, length, head_dim] = self.shape.rows();
        let width = self.shape.config.width;
        let mixed: Vec<Mixed> = (0..self.places().len()).map(|place| self.mixed(place, parameters, moment)).collect();
        let cells = (0..self.generators().len()).map(|index| self.cell(index, &mixed, parameters)).collect();
        let output = Tensor::cat(cells, 1).slice(s![.., .., self.positions - length..]).swap_dims(0, 1);
        let output = output.reshape([layers, sets * length, width]);
        let weight = parameters.get::<3>(HEAD_WEIGHT).swap_dims(1, 2);
        let rows = output.matmul(weight) * head_scale(width) + parameters.get::<2>(HEAD_BIAS).unsqueeze_dim::<3>(1);
        let warm = (self.shape.config.init == PrefixInit::Warm).then(|| {
            let last = |name: &str| parameters.get::<5>(name).slice(s![.., .., .., self.positions - length..]);
            (last(WARM_KEY), last(WARM_VALUE))
        });
        let log_gate = self.log_gate(parameters, moment);
        if self.shape.config.insertion == Insertion::Hidden {
            let hidden = rows.reshape([layers, sets, length, self.outputs()]).swap_dims(0, 1);
            let hidden = HiddenRows { hidden, start: warm, log_gate };
            return Adaptation { hidden: Some(hidden), ..Adaptation::default() };
        }
        let rows: Tensor<6> = rows.reshape([layers, sets, length, 2, kv_heads, head_dim]);
        let half = |index: usize| -> Tensor<5> {
            rows.clone().slice(s![.., .., .., index..index + 1]).squeeze_dim::<5>(3).permute([1, 0, 3, 2, 4])
        };
        let (mut key, mut value) = (half(0), half(1));
        if let Some((warm_key, warm_value)) = warm {
            key = key + warm_key;
            value = value + warm_value;
        }
        Adaptation { prefix: Some(PrefixRows { key, value, log_gate }), ..Adaptation::default() }
    }

    /// `[sets, layers, length]`.
    fn log_gate(&self, parameters: &Leaves, moment: &Moment) -> Tensor<3> {
        let [sets, layers, _, length, _] = self.shape.rows();
        let learned = log_gate(&self.shape, parameters);
        let open = match &self.cell {
            None => {
                let gates = self.choice().log_gates(parameters, self.gate_temperature(moment), length);
                let Some(mut gates) = gates else { return learned };
                if self.progress(moment).is_none() {
                    gates = gates.detach();
                }
                let shape = [sets, layers, length];
                return learned + gates.unsqueeze::<3>().expand(shape);
            }
            Some(found) => match &found.layers {
                None => return learned,
                Some(open) => open,
            },
        };
        let mask: Vec<f32> = (0..layers).map(|layer| if open.contains(&layer) { 1.0 } else { 0.0 }).collect();
        let mask = Tensor::<1>::from_data(TensorData::new(mask, [layers]), (&learned.device(), DType::F32));
        let mask = mask.reshape([1, layers, 1]);
        learned * mask.clone() + (mask.ones_like() - mask) * SHUT
    }
}
