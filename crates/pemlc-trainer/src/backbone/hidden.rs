//! Hidden states in front of a layer's tokens: what its own key and value projections make of them are prefix rows.

use super::Backbone;
use super::linear::Linear;
use crate::adaptation::{Adaptation, LowRank, PrefixRows, cast};
use burn::tensor::{DType, Tensor, s};
use pemlc_artifact::Projection;

impl Backbone {
    /// `adaptation` with prefix rows in the place of hidden states: `z (W + dW)^T`, under autodiff with respect to both. Dropout is for
    /// tokens.
    pub(crate) fn project_hidden(&self, mut adaptation: Adaptation) -> Adaptation {
        let Some(rows) = adaptation.hidden.take() else { return adaptation };
        let layers = self.layers.len();
        let (mut keys, mut values) = (Vec::with_capacity(layers), Vec::with_capacity(layers));
        for (index, layer) in self.layers.iter().enumerate() {
            let [sets, _, length, hidden] = rows.hidden.dims();
            let x = rows.hidden.clone().slice(s![.., index..index + 1]).reshape([sets, length, hidden]);
            let project = |linear: &Linear, projection: Projection| {
                let deltas = adaptation.deltas.get(&(index, projection)).map_or(&[][..], Vec::as_slice);
                // Rows that start warm have the bias in them already.
                self.by_head(project(x.clone(), linear, rows.start.is_none(), deltas))
            };
            keys.push(project(&layer.key, Projection::KProj));
            values.push(project(&layer.value, Projection::VProj));
        }
        let (mut key, mut value) = (stack(keys), stack(values));
        if let Some((start_key, start_value)) = rows.start {
            key = key + start_key;
            value = value + start_value;
        }
        let ([sets, layers, _, length, _], [gates, ..]) = (key.dims(), rows.log_gate.dims());
        let log_gate = if gates == sets { rows.log_gate } else { rows.log_gate.expand([sets, layers, length]) };
        Adaptation { prefix: Some(PrefixRows { key, value, log_gate }), ..adaptation }
    }

    /// `[sets, length, kv_heads * head_dim]` to `[sets, kv_heads, length, head_dim]`.
    fn by_head(&self, x: Tensor<3>) -> Tensor<4> {
        let [sets, length, _] = x.dims();
        x.reshape([sets, length, self.config.num_key_value_heads, self.config.head_dim]).swap_dims(1, 2)
    }
}

/// `x` `[sets, length, in]` through a projection and its deltas; the deltas may have a set for each task where `x` has one for all.
fn project(x: Tensor<3>, linear: &Linear, bias: bool, deltas: &[LowRank]) -> Tensor<3> {
    let mut y = x.clone().matmul(cast(linear.weight.clone(), DType::F32).transpose().unsqueeze::<3>());
    if let (Some(values), true) = (&linear.bias, bias) {
        y = y + cast(values.clone(), DType::F32).unsqueeze::<3>();
    }
    for delta in deltas {
        let low = x.clone().matmul(delta.a.clone().swap_dims(1, 2)) * delta.scale;
        y = y + low.matmul(delta.b.clone().swap_dims(1, 2));
    }
    y
}

/// `layers` tensors, whose sets may be shared, to `[sets, layers, ...]`.
fn stack(parts: Vec<Tensor<4>>) -> Tensor<5> {
    let sets = parts.iter().map(|part| part.dims()[0]).max().unwrap_or(1);
    let wide = parts.into_iter().map(|part| {
        let [own, heads, length, width] = part.dims();
        if own == sets { part } else { part.expand([sets, heads, length, width]) }
    });
    Tensor::stack(wide.collect(), 1)
}
