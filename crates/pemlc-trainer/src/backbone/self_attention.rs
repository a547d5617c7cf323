//! The first half of a layer: `x + o(attention(q(n), k(n), v(n)))` with `n = rms_norm(x)`.

use super::layer::{LayerGradients, Place, Weights};
use super::prefix::{self, PrefixGradient};
use super::{attention, linear, norm};
use burn::tensor::Tensor;
use pemlc_artifact::Projection;

/// What the backward pass needs.
pub(super) struct Saved {
    input: Tensor<2>,
    norm: norm::Saved,
    normalized: Tensor<2>,
    query: linear::Saved,
    key: linear::Saved,
    value: linear::Saved,
    attention: attention::Saved,
    mixed: Tensor<2>,
    output: linear::Saved,
}

/// Keys and values of a layer's tokens, `[rows, kv_heads, length, head_dim]`; keys without rotation.
#[derive(Debug, Clone)]
pub(crate) struct KeysValues {
    pub(crate) key: Tensor<4>,
    pub(crate) value: Tensor<4>,
}

pub(super) fn forward(
    weights: &Weights,
    x: Tensor<2>,
    place: &Place<'_>,
    look: &mut dyn FnMut(KeysValues),
) -> (Tensor<2>, Saved) {
    let (config, geometry) = (place.config, place.geometry);
    let (normalized, norm) = norm::forward(x.clone(), &weights.input_norm, config.rms_norm_eps);
    let (query, query_saved) = weights.project(Projection::QProj, normalized.clone(), place);
    let (key, key_saved) = weights.project(Projection::KProj, normalized.clone(), place);
    let (value, value_saved) = weights.project(Projection::VProj, normalized.clone(), place);
    let (query, key, value) = (place.heads(query), place.heads(key), place.heads(value));
    look(KeysValues { key: key.clone(), value: value.clone() });
    let query = place.group(geometry.rotation.apply(query) * softmax_scale(place));
    let key = geometry.rotation.apply(key);
    let (key, value, bias) = prefix::attach(key, value, place);
    let (mixed, attention) = attention::forward(query, key, value, bias);
    let mixed = place.tokens(place.ungroup(mixed));
    let (change, output) = weights.project(Projection::OProj, mixed.clone(), place);
    let saved = Saved {
        input: x.clone(),
        norm,
        normalized,
        query: query_saved,
        key: key_saved,
        value: value_saved,
        attention,
        mixed,
        output,
    };
    (x + change, saved)
}

/// The gradient of the input, and of the prefix rows if there are any.
pub(super) fn backward(
    weights: &Weights,
    saved: Saved,
    gradient: Tensor<2>,
    place: &Place<'_>,
    gradients: &mut LayerGradients,
) -> (Tensor<2>, Option<PrefixGradient>) {
    let rotation = &place.geometry.rotation;
    let (into_mixed, into_deltas) =
        weights.project_backward(Projection::OProj, saved.mixed, saved.output, gradient.clone(), place);
    gradients.projections.push((Projection::OProj, into_deltas));
    let into = attention::backward(saved.attention, place.group(place.heads(into_mixed)));
    let (key, value, into_prefix) = prefix::detach(into.key, into.value, into.logits, place);
    let query = rotation.invert(place.ungroup(into.query) * softmax_scale(place));
    let mut into_normalized: Option<Tensor<2>> = None;
    for (projection, saved_linear, into_output) in [
        (Projection::QProj, saved.query, query),
        (Projection::KProj, saved.key, rotation.invert(key)),
        (Projection::VProj, saved.value, value),
    ] {
        let (into_x, into_deltas) = weights.project_backward(
            projection,
            saved.normalized.clone(),
            saved_linear,
            place.tokens(into_output),
            place,
        );
        gradients.projections.push((projection, into_deltas));
        into_normalized = Some(match into_normalized {
            Some(sum) => sum + into_x,
            None => into_x,
        });
    }
    let into_x = match into_normalized {
        Some(into) => gradient + norm::backward(saved.input, &weights.input_norm, &saved.norm, into),
        None => gradient,
    };
    (into_x, into_prefix)
}

fn softmax_scale(place: &Place<'_>) -> f32 {
    (place.config.head_dim as f32).sqrt().recip()
}
