//! DoRA: a projection with its deltas, `V = W + s B A`, keeps its directions and is given its length, `y = (m / n) x V^T` with n the norms of
//! the rows of V. Norms are computed once a pass, in f32 at least.

use super::linear;
use super::{Backbone, wide};
use crate::adaptation::{Adaptation, LowRank, Magnitude, cast};
use crate::parameters::host;
use burn::tensor::{DType, Tensor};
use pemlc_artifact::Projection;
use std::collections::BTreeMap;

/// Keeps the division finite where a row is zero.
const SMALLEST: f32 = 1e-20;

/// What the outputs of one projection are multiplied by, before its bias.
#[derive(Debug, Clone)]
pub(super) struct Scale {
    /// `m / n`, `[out]`.
    pub(super) value: Tensor<1>,
    /// n, `[out]`.
    norm: Tensor<1>,
}

/// Scales by (layer, projection).
pub(super) type Scales = BTreeMap<(usize, Projection), Scale>;

/// An adaptation as constants in the number type of a pass, with the scales that its magnitudes come to.
pub(super) struct Ready {
    pub(super) adaptation: Adaptation,
    pub(super) scales: Scales,
}

impl Backbone {
    pub(super) fn ready(&self, adaptation: &Adaptation, dtype: DType) -> Ready {
        let adaptation = adaptation.constant(dtype);
        let scale = |(place, magnitude): (&(usize, Projection), &Magnitude)| {
            let weight = cast(self.weight(*place).clone(), dtype);
            (*place, Scale::new(&weight, adaptation.deltas.get(place).map_or(&[], Vec::as_slice), magnitude))
        };
        let scales = adaptation.magnitudes.iter().map(scale).collect();
        Ready { adaptation, scales }
    }

    /// Norms of the rows of a frozen weight, `[out]`.
    pub(crate) fn row_norms(&self, layer: usize, projection: Projection) -> Vec<f32> {
        host(norms(directions(self.weight((layer, projection)), &[])))
    }

    pub(super) fn weight(&self, (layer, projection): (usize, Projection)) -> &Tensor<2> {
        &self.layers[layer].linear(projection).weight
    }
}

impl Scale {
    /// For a constant `magnitude`; `weight` `[out, in]`.
    pub(super) fn new(weight: &Tensor<2>, deltas: &[LowRank], magnitude: &Magnitude) -> Self {
        let norm = norms(directions(weight, deltas));
        Self { value: magnitude.value.clone() / norm.clone(), norm }
    }

    /// The gradient of m, given that of `m / n`. If the gradient is to flow through n, what flows is added to that of the deltas.
    pub(super) fn backward(
        &self,
        weight: &Tensor<2>,
        deltas: &[LowRank],
        magnitude: &Magnitude,
        into_scale: Tensor<1>,
        into_deltas: &mut linear::FactorGradients,
    ) -> Tensor<1> {
        let into_magnitude = into_scale / self.norm.clone();
        if magnitude.full_gradient {
            // d(m / n)/dn = -(m / n) / n, dn/dV = V / n.
            let along = -(into_magnitude.clone() * self.value.clone()) / self.norm.clone();
            let into_weight = directions(weight, deltas) * along.unsqueeze_dim::<2>(1);
            for (delta, (into_a, into_b)) in deltas.iter().zip(into_deltas) {
                let [a, b] = factors(delta);
                let more_a = b.transpose().matmul(into_weight.clone()) * delta.scale;
                let more_b = into_weight.clone().matmul(a.transpose()) * delta.scale;
                *into_a = into_a.clone() + more_a.unsqueeze();
                *into_b = into_b.clone() + more_b.unsqueeze();
            }
        }
        into_magnitude
    }
}

/// `W + s B A`, `[out, in]`. Deltas are such that all tasks share.
fn directions(weight: &Tensor<2>, deltas: &[LowRank]) -> Tensor<2> {
    deltas.iter().fold(wide(weight.clone()), |sum, delta| {
        let [a, b] = factors(delta);
        sum + b.matmul(a) * delta.scale
    })
}

fn factors(delta: &LowRank) -> [Tensor<2>; 2] {
    [&delta.a, &delta.b].map(|factor| wide(factor.clone().squeeze_dim(0)))
}

/// Norms of the rows.
fn norms(directions: Tensor<2>) -> Tensor<1> {
    directions.square().sum_dim(1).sqrt().clamp_min(SMALLEST).squeeze_dim(1)
}
