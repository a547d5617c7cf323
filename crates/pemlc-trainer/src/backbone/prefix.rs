//! Prefix rows in front of a layer's keys and values.

use super::input::Geometry;
use super::layer::Place;
use super::wide;
use burn::tensor::{DType, IndexingUpdateOp, Tensor, s};

/// Gradients of one layer's rows, f32: key and value `[sets, kv_heads, length, head_dim]`, log-gate `[sets, length]`.
pub(super) type PrefixGradient = (Tensor<4>, Tensor<4>, Tensor<2>);

/// Keys and values with each row's prefix in front, and what is added to the attention logits: the log-gates, then the mask.
pub(super) fn attach(key: Tensor<4>, value: Tensor<4>, place: &Place<'_>) -> (Tensor<4>, Tensor<4>, Tensor<4>) {
    let geometry = place.geometry;
    let Some(rows) = &place.adaptation.prefix else { return (key, value, geometry.mask.clone()) };
    let [_, _, heads, length, width] = rows.key.dims();
    let tasks = || geometry.tasks.clone();
    let of_rows = |x: &Tensor<5>| {
        let layer: Tensor<4> = x.clone().slice(s![.., place.index..place.index + 1]).squeeze_dim(1);
        if layer.dims()[0] == 1 {
            layer.expand([geometry.rows, heads, length, width])
        } else {
            layer.select(0, tasks())
        }
    };
    let gate: Tensor<2> = rows.log_gate.clone().slice(s![.., place.index..place.index + 1]).squeeze_dim(1);
    let gate = if gate.dims()[0] == 1 { gate.expand([geometry.rows, length]) } else { gate.select(0, tasks()) };
    let queries = geometry.mask.dims()[2];
    let gate = gate.reshape([geometry.rows, 1, 1, length]).expand([geometry.rows, 1, queries, length]);
    (
        Tensor::cat(vec![of_rows(&rows.key), key], 2),
        Tensor::cat(vec![of_rows(&rows.value), value], 2),
        Tensor::cat(vec![gate, geometry.mask.clone()], 3),
    )
}

/// The gradients of the tokens' keys and values, and of the prefix, out of those of what [`attach`] gave.
pub(super) fn detach(
    key: Tensor<4>,
    value: Tensor<4>,
    logits: Tensor<4>,
    place: &Place<'_>,
) -> (Tensor<4>, Tensor<4>, Option<PrefixGradient>) {
    let Some(rows) = &place.adaptation.prefix else { return (key, value, None) };
    let [sets, _, heads, length, width] = rows.key.dims();
    let rest = |x: Tensor<4>| x.slice(s![.., .., length.., ..]);
    let front = |x: &Tensor<4>| -> Tensor<4> {
        by_set(wide(x.clone().slice(s![.., .., ..length, ..])), [sets, heads, length, width], place.geometry)
    };
    let gate = logits.slice(s![.., .., .., ..length]).sum_dim(2).sum_dim(1).squeeze_dims::<2>(&[1, 2]);
    let into_prefix = (front(&key), front(&value), by_set(gate, [sets, length], place.geometry));
    (rest(key), rest(value), Some(into_prefix))
}

/// Sums what belongs to the rows of the batch into the sets that the rows read.
pub(super) fn by_set<const D: usize>(rows: Tensor<D>, shape: [usize; D], geometry: &Geometry) -> Tensor<D> {
    if shape[0] == 1 {
        return rows.sum_dim(0);
    }
    let zeros = Tensor::zeros(shape, (&rows.device(), DType::F32));
    zeros.select_assign(0, geometry.tasks.clone(), rows, IndexingUpdateOp::Add)
}
