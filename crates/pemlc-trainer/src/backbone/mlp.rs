//! The second half of a layer: `x + f(n)` with `n = rms_norm(x)` and f the feed-forward part, or experts of it.

use super::layer::{LayerGradients, Place, Weights};
use super::{experts, feed_forward, norm};
use burn::tensor::Tensor;

/// What the backward pass needs.
pub(super) struct Saved {
    input: Tensor<2>,
    norm: norm::Saved,
    normalized: Tensor<2>,
    inner: Inner,
}

enum Inner {
    Plain(Box<feed_forward::Saved>),
    Experts(Box<experts::Saved>),
}

pub(super) fn forward(weights: &Weights, x: Tensor<2>, place: &Place<'_>) -> (Tensor<2>, Saved) {
    let (normalized, norm) = norm::forward(x.clone(), &weights.post_attention_norm, place.config.rms_norm_eps);
    let (change, inner) = match &place.adaptation.routing {
        Some(routing) => {
            let (change, saved) = experts::forward(weights, normalized.clone(), routing, place);
            (change, Inner::Experts(Box::new(saved)))
        }
        None => {
            let (change, saved) = feed_forward::forward(weights, normalized.clone(), place);
            (change, Inner::Plain(Box::new(saved)))
        }
    };
    (x.clone() + change, Saved { input: x, norm, normalized, inner })
}

pub(super) fn backward(
    weights: &Weights,
    saved: Saved,
    gradient: Tensor<2>,
    place: &Place<'_>,
    into: &mut LayerGradients,
) -> Tensor<2> {
    let normalized = saved.normalized;
    let into_normalized = match (saved.inner, &place.adaptation.routing) {
        (Inner::Experts(experts), Some(routing)) => {
            let (into_x, of_experts) =
                experts::backward(weights, normalized, *experts, gradient.clone(), routing, place);
            into.experts = Some(of_experts);
            into_x
        }
        (Inner::Plain(plain), _) => {
            feed_forward::backward(weights, normalized, *plain, gradient.clone(), place, &mut into.projections)
        }
        (Inner::Experts(_), None) => unreachable!("experts were saved by a pass that had a routing"),
    };
    gradient + norm::backward(saved.input, &weights.post_attention_norm, &saved.norm, into_normalized)
}
