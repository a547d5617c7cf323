//! The whole model, forward and backward.

use super::Backbone;
use super::head::{Query, TokenScore};
use super::input::{Geometry, Input};
use super::layer::{LayerGradients, Place, Saved};
use super::magnitude::Ready;
use super::prompt;
use super::self_attention::KeysValues;
use super::shard::{self, Shard};
use super::{experts, linear};
use crate::adaptation::{Adaptation, AdaptationGradient, cast};
use crate::parameters::host;
use burn::tensor::{DType, Device, Tensor};
use std::collections::BTreeMap;

impl Backbone {
    /// Sum over `queries` of `-log p(token)`, and the gradient of that sum times `scale` with respect to `adaptation`.
    pub fn gradient(
        &self,
        input: &Input<'_>,
        queries: &[Query],
        adaptation: &Adaptation,
        scale: f32,
    ) -> (f64, AdaptationGradient) {
        let ready = self.ready(adaptation, self.dtype);
        let shards = match ready.adaptation.routing {
            // How balanced choices are is a matter of the whole batch.
            Some(_) => vec![Shard::new(input, 0..input.rows, queries)],
            None => self.shards(input, queries),
        };
        let parts = shard::each(&shards, |shard| self.shard_gradient(shard, &ready, scale));
        let add = |(loss, gradient): (f64, AdaptationGradient), (more, part)| (loss + more, gradient.add(part));
        parts.into_iter().reduce(add).unwrap_or_default()
    }

    pub(super) fn shard_gradient(&self, shard: &Shard<'_>, ready: &Ready, scale: f32) -> (f64, AdaptationGradient) {
        let adaptation = &ready.adaptation;
        let geometry = Geometry::new(self, shard, self.dtype, prompt::length(adaptation));
        let mut saved: Vec<Saved> = Vec::with_capacity(self.layers.len());
        let x = self.run(&geometry, ready, &mut |layer| saved.push(layer), &mut |_| {});
        let (loss, gradient) = self.loss(x, &shard.queries, scale);
        let mut gradient = prompt::detach_backward(gradient, &geometry);
        let (mut deltas, mut magnitudes) = (BTreeMap::new(), BTreeMap::new());
        let mut prefix = Vec::with_capacity(self.layers.len());
        let mut experts = Vec::new();
        for (index, (weights, saved)) in self.layers.iter().zip(saved).enumerate().rev() {
            let place = Place::new(index, &self.config, &geometry, ready);
            let mut of_layer = LayerGradients::default();
            let (into_input, into_prefix) = weights.backward(saved, gradient, &place, &mut of_layer);
            gradient = into_input;
            prefix.extend(into_prefix);
            for (projection, linear::Gradients { deltas: mut into_deltas, scale }) in of_layer.projections {
                let place = (index, projection);
                let magnitude = adaptation.magnitudes.get(&place).zip(ready.scales.get(&place)).zip(scale);
                if let Some(((magnitude, scale), into_scale)) = magnitude {
                    let own = adaptation.deltas.get(&place).map_or(&[][..], Vec::as_slice);
                    let into = scale.backward(self.weight(place), own, magnitude, into_scale, &mut into_deltas);
                    magnitudes.insert(place, into);
                }
                deltas.insert(place, into_deltas);
            }
            experts.extend(of_layer.experts);
        }
        prefix.reverse();
        experts.reverse();
        let routing = experts::gradient(experts);
        let stack = |part: fn(&super::prefix::PrefixGradient) -> Tensor<4>| {
            Tensor::stack::<5>(prefix.iter().map(part).collect(), 1)
        };
        let prefix = (!prefix.is_empty()).then(|| {
            let gates = prefix.iter().map(|(_, _, gate)| gate.clone()).collect();
            (stack(|rows| rows.0.clone()), stack(|rows| rows.1.clone()), Tensor::stack::<3>(gates, 1))
        });
        let prompt = adaptation.prompt.as_ref().map(|prompt| prompt::gradient(gradient, prompt, &geometry));
        (loss, AdaptationGradient { deltas, magnitudes, routing, prefix, prompt })
    }

    /// What the model says of each queried token.
    pub fn score(&self, input: &Input<'_>, queries: &[Query], adaptation: &Adaptation) -> Vec<TokenScore> {
        let ready = self.ready(adaptation, self.dtype);
        let shards = self.shards(input, queries);
        let parts = shard::each(&shards, |shard| {
            let geometry = Geometry::new(self, shard, self.dtype, prompt::length(&ready.adaptation));
            let x = self.run(&geometry, &ready, &mut drop, &mut |_| {});
            let scores = self.token_scores(x, &shard.queries);
            shard.places.iter().copied().zip(scores).collect::<Vec<_>>()
        });
        let mut scores: Vec<(usize, TokenScore)> = parts.into_iter().flatten().collect();
        scores.sort_by_key(|(place, _)| *place);
        scores.into_iter().map(|(_, score)| score).collect()
    }

    /// Logits at `positions` (counted over all rows), `[positions, vocab]` row-major.
    pub fn logits(&self, input: &Input<'_>, positions: &[usize], adaptation: &Adaptation) -> Vec<f32> {
        host(self.logits_at(self.infer(input, adaptation, self.dtype, &mut |_| {}), positions))
    }

    /// The same, as exactly as the device can: in f64 on the CPU and in f32 elsewhere, with the weights that training used. Slow.
    pub fn exact_logits(&self, input: &Input<'_>, positions: &[usize], adaptation: &Adaptation) -> Vec<f32> {
        let dtype = if self.device == Device::flex() { DType::F64 } else { DType::F32 };
        let logits = self.logits_at(self.infer(input, adaptation, dtype, &mut |_| {}), positions);
        host(cast(logits, DType::F32))
    }

    /// The same in f32, where [`exact_logits`](Self::exact_logits) are not: how far they are apart is what f32 rounding does in this model.
    pub fn rounded_logits(&self, input: &Input<'_>, positions: &[usize], adaptation: &Adaptation) -> Option<Vec<f32>> {
        let logits = || self.logits_at(self.infer(input, adaptation, DType::F32, &mut |_| {}), positions);
        (self.device == Device::flex()).then(|| host(logits()))
    }

    /// Unrotated keys, and values, of every layer's tokens, without any adaptation.
    pub(crate) fn keys_values(&self, input: &Input<'_>) -> Vec<KeysValues> {
        let mut layers = Vec::with_capacity(self.layers.len());
        self.infer(input, &Adaptation::default(), self.dtype, &mut |layer| layers.push(layer));
        layers
    }

    pub(super) fn infer(
        &self,
        input: &Input<'_>,
        adaptation: &Adaptation,
        dtype: DType,
        look: &mut dyn FnMut(KeysValues),
    ) -> Tensor<2> {
        let geometry = Geometry::new(self, &Shard::whole(input), dtype, prompt::length(adaptation));
        self.run(&geometry, &self.ready(adaptation, dtype), &mut drop, look)
    }

    /// The output of the last layer for the tokens, `[tokens, hidden]`, before the final normalisation.
    fn run(
        &self,
        geometry: &Geometry,
        ready: &Ready,
        save: &mut dyn FnMut(Saved),
        look: &mut dyn FnMut(KeysValues),
    ) -> Tensor<2> {
        let x = cast(self.embedding.clone().select(0, geometry.ids.clone()), geometry.dtype);
        let mut x = prompt::attach(x, &ready.adaptation, geometry);
        for (index, weights) in self.layers.iter().enumerate() {
            let place = Place::new(index, &self.config, geometry, ready);
            let (y, saved) = weights.forward(x, &place, look);
            save(saved);
            x = y;
        }
        prompt::detach(x, geometry)
    }
}
