//! What the heads of a prompt encoder make of its cell's rows.

use super::cell::Encoder;
use super::weights::EncoderError;
use crate::ir::{Tensor, ValueId};
use pemlc_artifact::ModelConfig;
use std::ops::Range;
use std::sync::Arc;

impl Encoder<'_, '_> {
    /// Every layer's head applied to its rows: `[sets, layers, length, outputs]`.
    pub(super) fn heads(&mut self, rows: ValueId, outputs: usize) -> Result<ValueId, EncoderError> {
        let [_, layers, _, width] = self.shape;
        let weights = (0..layers).map(|layer| format!("head.{layer}.weight"));
        let weights = self.weights.stack(weights, &[outputs, width], vec![layers, outputs, width])?;
        let weights = self.b.constant("head.weight", &weights)?;
        let weights = self.b.transpose("head.weight.transposed", weights, &[0, 2, 1])?;
        let biases = (0..layers).map(|layer| format!("head.{layer}.bias"));
        let biases = self.weights.stack(biases, &[outputs], vec![layers, 1, outputs])?;
        let biases = self.b.constant("head.bias", &biases)?;
        let product = self.b.matmul("head.product", rows, weights)?;
        Ok(self.b.add("head", product, biases)?)
    }

    /// The key or the value half of the heads as `[sets, layers, kv_heads, length, head_dim]`, its warm start added.
    pub(super) fn half(
        &mut self,
        projected: ValueId,
        name: &str,
        range: Range<usize>,
        config: &ModelConfig,
    ) -> Result<ValueId, EncoderError> {
        let [sets, layers, length, _] = self.shape;
        let half = self.b.slice(format!("head.{name}"), 3, range, projected)?;
        let split = [sets, layers, length, config.num_key_value_heads, config.head_dim].map(Some);
        let half = self.b.reshape(format!("head.{name}.heads"), half, &split)?;
        let half = self.b.transpose(format!("head.{name}.by_head"), half, &[0, 1, 3, 2, 4])?;
        match self.warm_start(name, config)? {
            Some(start) => Ok(self.b.add(format!("head.{name}.warm"), half, start)?),
            None => Ok(half),
        }
    }

    /// Keys or values, `[sets, layers, kv_heads, length, head_dim]`, that what the heads give is added to.
    pub(super) fn warm_start(&mut self, name: &str, config: &ModelConfig) -> Result<Option<ValueId>, EncoderError> {
        let [sets, layers, length, _] = self.shape;
        let warm = |set: usize, layer: usize| format!("warm_start.{set}.layers.{layer}.{name}");
        if !self.weights.has(&warm(0, 0)) {
            return Ok(None);
        }
        let names = (0..sets).flat_map(|set| (0..layers).map(move |layer| warm(set, layer)));
        let rows = [config.num_key_value_heads, length, config.head_dim];
        let start = self.weights.stack(names, &rows, [&[sets, layers], &rows[..]].concat())?;
        Ok(Some(self.b.constant(format!("warm_start.{name}"), &start)?))
    }

    /// Log-gates of every layer, `[sets, length]`.
    pub(super) fn log_gates(&mut self, sets: usize) -> Result<Vec<ValueId>, EncoderError> {
        let [_, layers, length, _] = self.shape;
        let gates = self.weights.stack(["log_gate".to_owned()].into_iter(), &[layers], vec![layers])?;
        let gates = self.b.constant("log_gate", &gates)?;
        let zeros = Arc::new(Tensor::f32_from_fn(vec![sets, length], |_| 0.0));
        let zeros = self.b.constant("log_gate.zeros", &zeros)?;
        let of_layer = |layer: usize| {
            let name = format!("layers.{layer}.log_gate");
            let gate = self.b.slice(format!("{name}.slice"), 0, layer..layer + 1, gates)?;
            Ok(self.b.add(name, gate, zeros)?)
        };
        (0..layers).map(of_layer).collect()
    }
}
