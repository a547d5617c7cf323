//! One decoder layer: weights, and where it stands in a pass.

use super::input::Geometry;
use super::linear::{self, Linear};
use super::magnitude::{Ready, Scale, Scales};
use super::prefix::PrefixGradient;
use super::self_attention::{self, KeysValues};
use super::{experts, mlp};
use crate::adaptation::{Adaptation, LowRank};
use burn::tensor::Tensor;
use pemlc_artifact::{ModelConfig, Projection};

/// Frozen weights of one layer.
#[derive(Debug)]
pub(super) struct Weights {
    /// `[hidden]`, f32.
    pub(super) input_norm: Tensor<1>,
    /// `[hidden]`, f32.
    pub(super) post_attention_norm: Tensor<1>,
    pub(super) query: Linear,
    pub(super) key: Linear,
    pub(super) value: Linear,
    pub(super) output: Linear,
    pub(super) gate: Linear,
    pub(super) up: Linear,
    pub(super) down: Linear,
}

/// One layer of a pass: which one, of which model, for which tokens, with which adaptation.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) index: usize,
    pub(super) config: &'a ModelConfig,
    pub(super) geometry: &'a Geometry,
    pub(super) adaptation: &'a Adaptation,
    pub(super) scales: &'a Scales,
}

/// What the backward pass needs.
pub(super) struct Saved {
    attention: self_attention::Saved,
    mlp: mlp::Saved,
}

/// Gradients of what a layer is adapted by.
#[derive(Default)]
pub(super) struct LayerGradients {
    /// Of each projection.
    pub(super) projections: Vec<(Projection, linear::Gradients)>,
    /// Of its router and experts.
    pub(super) experts: Option<experts::Gradients>,
}

impl Weights {
    pub(super) fn parameters(&self) -> usize {
        let linear = |projection| {
            let linear = self.linear(projection);
            linear.weight.shape().num_elements() + linear.bias.as_ref().map_or(0, |bias| bias.dims()[0])
        };
        2 * self.input_norm.dims()[0] + Projection::ALL.into_iter().map(linear).sum::<usize>()
    }

    /// `x` `[tokens, hidden]` to the layer's output. `look` is shown the tokens' keys and values.
    pub(super) fn forward(
        &self,
        x: Tensor<2>,
        place: &Place<'_>,
        look: &mut dyn FnMut(KeysValues),
    ) -> (Tensor<2>, Saved) {
        let (x, attention) = self_attention::forward(self, x, place, look);
        let (x, mlp) = mlp::forward(self, x, place);
        (x, Saved { attention, mlp })
    }

    /// The gradient of the layer's input, given that of its output.
    pub(super) fn backward(
        &self,
        saved: Saved,
        gradient: Tensor<2>,
        place: &Place<'_>,
        into: &mut LayerGradients,
    ) -> (Tensor<2>, Option<PrefixGradient>) {
        let gradient = mlp::backward(self, saved.mlp, gradient, place, into);
        self_attention::backward(self, saved.attention, gradient, place, into)
    }

    pub(super) fn project(
        &self,
        projection: Projection,
        x: Tensor<2>,
        place: &Place<'_>,
    ) -> (Tensor<2>, linear::Saved) {
        self.linear(projection).forward(x, place.deltas(projection), place.scale(projection), place.geometry)
    }

    pub(super) fn project_backward(
        &self,
        projection: Projection,
        x: Tensor<2>,
        saved: linear::Saved,
        gradient: Tensor<2>,
        place: &Place<'_>,
    ) -> (Tensor<2>, linear::Gradients) {
        let (deltas, scale) = (place.deltas(projection), place.scale(projection));
        self.linear(projection).backward(x, deltas, scale, saved, gradient, place.geometry)
    }

    pub(super) fn linear(&self, projection: Projection) -> &Linear {
        match projection {
            Projection::QProj => &self.query,
            Projection::KProj => &self.key,
            Projection::VProj => &self.value,
            Projection::OProj => &self.output,
            Projection::GateProj => &self.gate,
            Projection::UpProj => &self.up,
            Projection::DownProj => &self.down,
        }
    }
}

impl<'a> Place<'a> {
    pub(super) fn new(index: usize, config: &'a ModelConfig, geometry: &'a Geometry, ready: &'a Ready) -> Self {
        Self { index, config, geometry, adaptation: &ready.adaptation, scales: &ready.scales }
    }

    fn scale(&self, projection: Projection) -> Option<&Scale> {
        self.scales.get(&(self.index, projection))
    }

    fn deltas(&self, projection: Projection) -> &[LowRank] {
        self.adaptation.deltas.get(&(self.index, projection)).map_or(&[], Vec::as_slice)
    }

    /// `[rows * length, heads * head_dim]` to `[rows, heads, length, head_dim]`.
    pub(super) fn heads(&self, x: Tensor<2>) -> Tensor<4> {
        let heads = x.dims()[1] / self.config.head_dim;
        x.reshape([self.geometry.rows, self.geometry.length, heads, self.config.head_dim]).swap_dims(1, 2)
    }

    /// The inverse of [`heads`](Self::heads).
    pub(super) fn tokens(&self, x: Tensor<4>) -> Tensor<2> {
        let [rows, heads, length, width] = x.dims();
        x.swap_dims(1, 2).reshape([rows * length, heads * width])
    }

    /// `[rows, heads, length, head_dim]` to `[rows, kv_heads, group * length, head_dim]`.
    pub(super) fn group(&self, x: Tensor<4>) -> Tensor<4> {
        let [rows, heads, length, width] = x.dims();
        let kv_heads = self.config.num_key_value_heads;
        x.reshape([rows, kv_heads, heads / kv_heads * length, width])
    }

    /// The inverse of [`group`](Self::group).
    pub(super) fn ungroup(&self, x: Tensor<4>) -> Tensor<4> {
        let width = x.dims()[3];
        x.reshape([self.geometry.rows, self.config.num_attention_heads, self.geometry.length, width])
    }
}
