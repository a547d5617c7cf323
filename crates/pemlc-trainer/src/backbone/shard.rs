//! Rows of a batch in shards that run at the same time. A pass is a chain of large matrix products and small operations between them;
//! products use every core, but the small ones use one, and there are many.

use super::{Backbone, Input, Query};
use crate::adaptation::{AdaptationGradient, RoutingGradient};
use burn::tensor::Device;
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use std::ops::Range;

/// Fewest tokens that are worth a shard: each reads all weights.
const TOKENS: usize = 72;

/// Some rows of a batch, with what is asked about them.
pub(super) struct Shard<'a> {
    pub(super) input: Input<'a>,
    /// Tokens of the batch before the first of these, padding included.
    pub(super) first_token: usize,
    /// Positions are counted within the shard.
    pub(super) queries: Vec<Query>,
    /// Which of the batch's queries these are.
    pub(super) places: Vec<usize>,
}

impl Backbone {
    /// Depends on the batch alone, not on how many cores there are, so that sums over shards do not either. A GPU gets one.
    pub(super) fn shards<'a>(&self, input: &Input<'a>, queries: &[Query]) -> Vec<Shard<'a>> {
        let most = if self.device == Device::flex() { input.rows * input.length / TOKENS } else { 1 };
        let rows = input.rows.div_ceil(most.max(1));
        let starts = (0..input.rows).step_by(rows.max(1));
        starts.map(|start| Shard::new(input, start..(start + rows).min(input.rows), queries)).collect()
    }
}

impl<'a> Shard<'a> {
    /// The whole batch, without queries.
    pub(super) fn whole(input: &Input<'a>) -> Self {
        Self::new(input, 0..input.rows, &[])
    }

    pub(super) fn new(input: &Input<'a>, rows: Range<usize>, queries: &[Query]) -> Self {
        let tokens = rows.start * input.length..rows.end * input.length;
        let here = queries.iter().enumerate().filter(|(_, query)| tokens.contains(&query.position));
        let (places, queries) =
            here.map(|(place, query)| (place, Query { position: query.position - tokens.start, ..*query })).unzip();
        let input = Input {
            rows: rows.len(),
            length: input.length,
            input_ids: &input.input_ids[tokens.clone()],
            attention_mask: &input.attention_mask[tokens.clone()],
            task_ids: &input.task_ids[rows],
        };
        Self { input, first_token: tokens.start, queries, places }
    }
}

/// Runs `pass` on every shard that something is asked about, and returns what it gave in the order of the shards.
pub(super) fn each<T: Send>(shards: &[Shard<'_>], pass: impl Fn(&Shard<'_>) -> T + Sync) -> Vec<T> {
    let asked: Vec<&Shard<'_>> = shards.iter().filter(|shard| !shard.queries.is_empty()).collect();
    match asked.as_slice() {
        [shard] => vec![pass(shard)],
        shards => shards.par_iter().map(|shard| pass(shard)).collect(),
    }
}

impl AdaptationGradient {
    /// The sum of both.
    pub(super) fn add(mut self, other: Self) -> Self {
        for (place, gradients) in other.deltas {
            let sum = match self.deltas.remove(&place) {
                Some(mine) => mine.into_iter().zip(gradients).map(|(x, y)| (x.0 + y.0, x.1 + y.1)).collect(),
                None => gradients,
            };
            self.deltas.insert(place, sum);
        }
        for (place, gradient) in other.magnitudes {
            let sum = match self.magnitudes.remove(&place) {
                Some(mine) => mine + gradient,
                None => gradient,
            };
            self.magnitudes.insert(place, sum);
        }
        self.routing = match (self.routing, other.routing) {
            (Some(x), Some(y)) => Some(RoutingGradient {
                routers: x.routers + y.routers,
                experts: x.experts.into_iter().zip(y.experts).map(|(x, y)| x.add(y)).collect(),
            }),
            (x, y) => x.or(y),
        };
        self.prefix = match (self.prefix, other.prefix) {
            (Some(x), Some(y)) => Some((x.0 + y.0, x.1 + y.1, x.2 + y.2)),
            (x, y) => x.or(y),
        };
        self.prompt = match (self.prompt, other.prompt) {
            (Some(x), Some(y)) => Some(x + y),
            (x, y) => x.or(y),
        };
        self
    }
}
