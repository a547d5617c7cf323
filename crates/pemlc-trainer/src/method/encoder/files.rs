//! The encoder as files of the run directory.

use super::super::cell;
use super::super::table::LOG_GATE;
use super::{ALPHA, Cell, Encoder, HEAD_BIAS, HEAD_WEIGHT, LAYER_CODE, WARM_KEY, WARM_VALUE, edge_name, head_scale};
use crate::config::PrefixInit;
use crate::parameters::ParameterSet;
use pemlc_artifact::prompt::{ARCHITECTURE_SCHEMA_VERSION, Architecture, Generators, SHUT};
use pemlc_artifact::tensors::{NamedTensor, TensorMap, Values};

impl Encoder {
    pub(super) fn architecture(&self, found: &Cell) -> Architecture {
        Architecture {
            schema_version: ARCHITECTURE_SCHEMA_VERSION,
            width: self.shape.config.width,
            length: found.length,
            positions: found.length_is_searched.then_some(self.positions),
            layers: found.layers.clone(),
            generators: self.shape.config.generators,
            insertion: self.shape.config.insertion,
            nodes: self.shape.config.nodes,
            edges: found.edges.clone(),
        }
    }

    /// `prompt/encoder.safetensors`, under the names of [`pemlc_artifact::prompt`].
    pub(super) fn files(&self, set: &ParameterSet, found: &Cell) -> TensorMap {
        let [sets, layers, kv_heads, length, head_dim] = self.shape.rows();
        let width = self.shape.config.width;
        let mut map = TensorMap::new();
        let mut parts = |values: &[f32], count: usize, shape: &[usize], to: &dyn Fn(usize) -> String| {
            let size: usize = shape.iter().product();
            for (index, part) in values.chunks(size.max(1)).take(count).enumerate() {
                map.insert(to(index), NamedTensor { shape: shape.to_vec(), values: Values::F32(part.to_vec()) });
            }
        };
        let generators = self.generators().len();
        for generator in 0..generators {
            let at = self.at(generator);
            let to = if generators == 1 { String::new() } else { format!("generators.{generator}.") };
            let seeds = set.values(&format!("{at}.seed"));
            parts(&seeds, sets, &[self.positions, width], &|set| format!("{to}seed.{set}"));
            for (index, (place, edge)) in self.placed(&found.edges).into_iter().enumerate() {
                for (name, shape) in cell::weights(edge.operation, width) {
                    let from = format!("{}.{name}", edge_name(&at, place, edge.operation));
                    parts(&set.values(&from), 1, &shape, &|_| format!("{to}edges.{index}.{name}"));
                }
            }
        }
        if self.shape.config.generators != Generators::PerLayer {
            parts(&set.values(LAYER_CODE), 1, &[layers, width], &|_| "layer_code".to_owned());
        }
        let outputs = self.outputs();
        let heads: Vec<f32> = set.values(HEAD_WEIGHT).iter().map(|weight| weight * head_scale(width)).collect();
        parts(&heads, layers, &[outputs, width], &|layer| format!("head.{layer}.weight"));
        parts(&set.values(HEAD_BIAS), layers, &[outputs], &|layer| format!("head.{layer}.bias"));
        let mut gates = set.values(LOG_GATE);
        for (layer, gate) in gates.iter_mut().enumerate() {
            if found.layers.as_ref().is_some_and(|open| !open.contains(&layer)) {
                *gate = SHUT;
            }
        }
        parts(&gates, 1, &[layers], &|_| "log_gate".to_owned());
        if self.shape.config.init == PrefixInit::Warm {
            let (row, skipped) = (head_dim, self.positions - length);
            for (name, kind) in [(WARM_KEY, "key"), (WARM_VALUE, "value")] {
                // The last rows of each head.
                let heads = set.values(name);
                let heads = heads.chunks(self.positions * row).flat_map(|head| &head[skipped * row..]);
                let values: Vec<f32> = heads.copied().collect();
                parts(&values, sets * layers, &[kv_heads, length, head_dim], &|index| {
                    format!("warm_start.{}.layers.{}.{kind}", index / layers, index % layers)
                });
            }
        }
        map
    }

    /// Shares of candidates, lengths and layers, for `metrics.jsonl`.
    pub(super) fn shares(&self, set: &ParameterSet) -> serde_json::Value {
        let named = |name: String, value: f64| (name, serde_json::Value::from(value));
        let alpha = set.values(ALPHA);
        let rows = alpha.chunks(self.candidates().len().max(1));
        let edges: serde_json::Map<_, _> = self
            .places()
            .iter()
            .zip(rows)
            .map(|((from, to), logits)| {
                let shares = super::super::discretise::softmax(logits);
                let shares =
                    self.candidates().iter().zip(shares).map(|(operation, share)| named(operation.name(), share));
                (format!("{from}->{to}"), serde_json::Value::Object(shares.collect()))
            })
            .collect();
        let (lengths, layers) = self.choice().shares(set);
        let mut shares = serde_json::json!({ "edges": edges });
        if !lengths.is_empty() {
            let lengths: serde_json::Map<_, _> =
                lengths.into_iter().map(|(length, share)| named(length.to_string(), share)).collect();
            shares["lengths"] = lengths.into();
        }
        if !layers.is_empty() {
            shares["layers"] = layers.into();
        }
        shares
    }
}
