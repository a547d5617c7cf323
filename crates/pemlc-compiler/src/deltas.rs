//! LoRA adapters as the normal form holds them: transposed for `x A B`, the scale in `B`, private ones stacked by task.

use crate::ir::Tensor;
use crate::normal_form::{LowRank, Site};
use pemlc_artifact::ModelConfig;
use pemlc_artifact::peft::{LoraAdapter, LoraWeights};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A delta of every task: `down [in, rank]`, `up [rank, out]` with the scale in it.
pub fn shared(adapter: &LoraAdapter, config: &ModelConfig) -> BTreeMap<Site, LowRank> {
    let of_site = |site: &Site| {
        let (inputs, outputs) = site.1.features(config);
        let rank = adapter.rank_of(*site);
        let (mut down, mut up) = (vec![0.0; inputs * rank], vec![0.0; rank * outputs]);
        place(adapter, *site, rank, &mut down, &mut up);
        (*site, low_rank(vec![inputs, rank], down, vec![rank, outputs], up))
    };
    adapter.weights.keys().map(of_site).collect()
}

/// Norms of the rows of merged weights, `[out]`.
pub fn magnitudes(adapter: &LoraAdapter) -> BTreeMap<Site, Arc<Tensor>> {
    let of_site = |(site, weights): (&Site, &LoraWeights)| {
        let norms = weights.magnitude.as_ref()?;
        Some((*site, Arc::new(Tensor::f32_from_fn(vec![norms.len()], |place| norms[place]))))
    };
    adapter.weights.iter().filter_map(of_site).collect()
}

/// Deltas of each task, stacked: `down [tasks, in, rank]`, `up [tasks, rank, out]`. Ranks are filled up with zeros to the largest,
/// and a task without a delta at a site gets zeros, which change nothing.
pub fn private(tasks: &[LoraAdapter], config: &ModelConfig) -> BTreeMap<Site, LowRank> {
    let sites: BTreeSet<Site> = tasks.iter().flat_map(|adapter| adapter.weights.keys().copied()).collect();
    let of_site = |site: Site| {
        let (inputs, outputs) = site.1.features(config);
        let present = tasks.iter().filter(|adapter| adapter.weights.contains_key(&site));
        let rank = present.map(|adapter| adapter.rank_of(site)).max().unwrap_or_default();
        let mut down = vec![0.0; tasks.len() * inputs * rank];
        let mut up = vec![0.0; tasks.len() * rank * outputs];
        for (task, adapter) in tasks.iter().enumerate() {
            let down = &mut down[task * inputs * rank..(task + 1) * inputs * rank];
            let up = &mut up[task * rank * outputs..(task + 1) * rank * outputs];
            place(adapter, site, rank, down, up);
        }
        (site, low_rank(vec![tasks.len(), inputs, rank], down, vec![tasks.len(), rank, outputs], up))
    };
    sites.into_iter().map(of_site).collect()
}

/// Writes the adapter's factors at `site` transposed into zeroed `down [in, rank]` and `up [rank, out]`, whose rank may be larger.
fn place(adapter: &LoraAdapter, site: Site, rank: usize, down: &mut [f32], up: &mut [f32]) {
    let Some(weights) = adapter.weights.get(&site) else { return };
    let (scale, own_rank) = (adapter.factor_of(site) as f32, adapter.rank_of(site));
    for (own, row) in weights.a.chunks_exact(weights.a.len() / own_rank).enumerate() {
        for (input, value) in row.iter().enumerate() {
            down[input * rank + own] = *value;
        }
    }
    let outputs = weights.b.len() / own_rank;
    for (output, row) in weights.b.chunks_exact(own_rank).enumerate() {
        for (own, value) in row.iter().enumerate() {
            up[own * outputs + output] = scale * value;
        }
    }
}

fn low_rank(down_shape: Vec<usize>, down: Vec<f32>, up_shape: Vec<usize>, up: Vec<f32>) -> LowRank {
    let tensor = |shape, values: Vec<f32>| Arc::new(Tensor::f32_from_fn(shape, |place| values[place]));
    LowRank { down: tensor(down_shape, down), up: tensor(up_shape, up) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pemlc_artifact::{Family, Projection};

    fn config() -> ModelConfig {
        ModelConfig {
            family: Family::Llama,
            hidden_size: 3,
            intermediate_size: 2,
            num_hidden_layers: 1,
            num_attention_heads: 1,
            num_key_value_heads: 1,
            head_dim: 2,
            vocab_size: 4,
            max_position_embeddings: 8,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            rope_scaling: None,
            tie_word_embeddings: true,
            bos_token_id: None,
            eos_token_ids: Vec::new(),
            pad_token_id: None,
        }
    }

    /// An adapter of scale 2 on the gate projection, `[3] -> [2]`.
    fn adapter(rank: usize, weights: Option<(&[f32], &[f32])>) -> LoraAdapter {
        let weights = weights
            .map(|(a, b)| ((0, Projection::GateProj), LoraWeights { a: a.to_vec(), b: b.to_vec(), magnitude: None }));
        LoraAdapter {
            rank,
            alpha: 2.0 * rank as f64,
            own: BTreeMap::new(),
            dropout: 0.0,
            base_model: String::new(),
            weights: weights.into_iter().collect(),
        }
    }

    #[test]
    fn a_shared_delta_is_transposed_and_scaled_once() {
        // A [2, 3], B [2, 2].
        let adapter = adapter(2, Some((&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[10.0, 20.0, 30.0, 40.0])));
        let folded = &shared(&adapter, &config())[&(0, Projection::GateProj)];
        assert_eq!(folded.down.shape(), [3, 2]);
        assert_eq!(folded.down.as_f32().unwrap(), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        assert_eq!(folded.up.shape(), [2, 2]);
        assert_eq!(folded.up.as_f32().unwrap(), [20.0, 60.0, 40.0, 80.0]);
    }

    #[test]
    fn smaller_ranks_and_absent_deltas_are_zeros() {
        let tasks = [
            adapter(1, Some((&[1.0, 2.0, 3.0], &[4.0, 5.0]))),
            adapter(1, None),
            adapter(2, Some((&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[7.0, 8.0, 9.0, 10.0]))),
        ];
        let stacked = &private(&tasks, &config())[&(0, Projection::GateProj)];
        let zeros = [0.0; 6];
        assert_eq!(stacked.down.shape(), [3, 3, 2]);
        let (first, last) = ([1.0, 0.0, 2.0, 0.0, 3.0, 0.0], [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        assert_eq!(stacked.down.as_f32().unwrap(), [first, zeros, last].concat());
        assert_eq!(stacked.up.shape(), [3, 2, 2]);
        let up = [[8.0, 10.0, 0.0, 0.0], [0.0; 4], [14.0, 18.0, 16.0, 20.0]].concat();
        assert_eq!(stacked.up.as_f32().unwrap(), up);
    }
}
