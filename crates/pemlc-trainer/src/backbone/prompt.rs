//! A soft prompt in front of the token embeddings, and what it comes to: prefix rows.

use super::input::{Geometry, Input};
use super::prefix::by_set;
use super::rotary::Rotation;
use super::{Backbone, wide};
use crate::adaptation::{Adaptation, PrefixRows, cast};
use burn::tensor::{DType, Device, Tensor, TensorData, s};

/// Vectors of the soft prompt; 0 without one.
pub(super) fn length(adaptation: &Adaptation) -> usize {
    adaptation.prompt.as_ref().map_or(0, |prompt| prompt.dims()[1])
}

/// Token embeddings `[rows * tokens, hidden]` with each row's prompt in front, `[rows * length, hidden]`.
pub(super) fn attach(x: Tensor<2>, adaptation: &Adaptation, geometry: &Geometry) -> Tensor<2> {
    let Some(prompt) = &adaptation.prompt else { return x };
    let [sets, length, hidden] = prompt.dims();
    let prompt = match sets {
        1 => prompt.clone().expand([geometry.rows, length, hidden]),
        _ => prompt.clone().select(0, geometry.tasks.clone()),
    };
    let tokens = x.reshape([geometry.rows, geometry.length - length, hidden]);
    Tensor::cat(vec![prompt, tokens], 1).flatten(0, 1)
}

/// The tokens of `x` `[rows * length, hidden]`, without the prompts.
pub(super) fn detach(x: Tensor<2>, geometry: &Geometry) -> Tensor<2> {
    if geometry.prompt == 0 {
        return x;
    }
    by_row(x, geometry).slice(s![.., geometry.prompt.., ..]).flatten(0, 1)
}

/// The transpose of [`detach`]: nothing comes in through the prompts' own outputs.
pub(super) fn detach_backward(gradient: Tensor<2>, geometry: &Geometry) -> Tensor<2> {
    if geometry.prompt == 0 {
        return gradient;
    }
    let hidden = gradient.dims()[1];
    let zeros = Tensor::zeros([geometry.rows, geometry.prompt, hidden], (&gradient.device(), gradient.dtype()));
    let tokens = gradient.reshape([geometry.rows, geometry.length - geometry.prompt, hidden]);
    Tensor::cat(vec![zeros, tokens], 1).flatten(0, 1)
}

/// The gradient of `prompt`, f32, out of that of what [`attach`] gave.
pub(super) fn gradient(gradient: Tensor<2>, prompt: &Tensor<3>, geometry: &Geometry) -> Tensor<3> {
    let front = by_row(gradient, geometry).slice(s![.., ..geometry.prompt, ..]);
    by_set(wide(front), prompt.dims(), geometry)
}

fn by_row(x: Tensor<2>, geometry: &Geometry) -> Tensor<3> {
    let hidden = x.dims()[1];
    x.reshape([geometry.rows, geometry.length, hidden])
}

impl Backbone {
    /// Rows of the embedding table, `[tokens, hidden]`, f32.
    pub(crate) fn embeddings(&self, tokens: &[u32]) -> Tensor<2> {
        let ids: Vec<i64> = tokens.iter().map(|token| i64::from(*token)).collect();
        let ids = Tensor::from_data(TensorData::new(ids, [tokens.len()]), (&self.device, DType::I64));
        cast(self.embedding.clone().select(0, ids), DType::F32)
    }

    /// `adaptation`, made of constants for `tasks` tasks, with prefix rows in the place of its soft prompt.
    ///
    /// Attention is causal, so the prompt's keys and values in every layer depend on no token. Computed once, as exactly as the device
    /// can, they are prefix rows. Without the prompt tokens start at position 0, and prefix keys take no rotation: the key of position
    /// `i` of `n` is turned to position `i - n`, which is where the tokens see it from.
    pub(crate) fn fold(&self, adaptation: &Adaptation, tasks: usize) -> Adaptation {
        let Some(prompt) = &adaptation.prompt else { return adaptation.clone() };
        let [prompts, length, _] = prompt.dims();
        // What the prompt comes to is each task's own as soon as anything that it goes through is.
        let mut deltas = adaptation.deltas.values().flatten();
        let private = prompts > 1 || deltas.any(|delta| delta.a.dims()[0] > 1 || delta.b.dims()[0] > 1);
        let sets = if private { tasks } else { 1 };
        // One token behind the prompt, because a row has at least one.
        let (ids, mask): (Vec<i64>, Vec<i64>) = (vec![0; sets], vec![1; sets]);
        let task_ids: Vec<i64> = (0..sets as i64).collect();
        let input = Input { rows: sets, length: 1, input_ids: &ids, attention_mask: &mask, task_ids: &task_ids };
        let dtype = if self.device == Device::flex() { DType::F64 } else { DType::F32 };
        let positions: Vec<i64> = (0..sets).flat_map(|_| -(length as i64)..0).collect();
        let rotation = Rotation::new(&self.config, &positions, sets, length, &self.device, dtype);
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        self.infer(&input, adaptation, dtype, &mut |layer| {
            let front = |x: Tensor<4>| x.slice(s![.., .., ..length, ..]);
            keys.push(cast(rotation.apply(front(layer.key)), DType::F32));
            values.push(cast(front(layer.value), DType::F32));
        });
        let log_gate = Tensor::zeros([sets, keys.len(), length], (&self.device, DType::F32));
        let prefix = PrefixRows { key: Tensor::stack(keys, 1), value: Tensor::stack(values, 1), log_gate };
        Adaptation { prefix: Some(prefix), prompt: None, ..adaptation.clone() }
    }
}
