//! Prefix tuning with its reparametrisation (Li and Liang 2021, arXiv 2101.00190): rows `tanh(E W1^T + b1) W2^T + b2`, where one MLP
//! serves every layer and task, and each set of rows has its own `E` `[length, width]`. Only the rows are exported.

use super::table::{insert_log_gate, log_gate};
use super::{Destination, Method, Moment, PrefixShape, Record, Start, prefix_files, warm_start};
use crate::adaptation::{Adaptation, PrefixRows};
use crate::config::PrefixInit;
use crate::error::TrainError;
use crate::parameters::{Group, Leaves, ParameterSet};
use crate::random::Stream;
use burn::tensor::{Tensor, s};

const EMBEDDING: &str = "prefix_mlp.embedding";
const W1: &str = "prefix_mlp.w1";
const B1: &str = "prefix_mlp.b1";
const W2: &str = "prefix_mlp.w2";
const B2: &str = "prefix_mlp.b2";
const WARM_KEY: &str = "prefix_mlp.warm_start.key";
const WARM_VALUE: &str = "prefix_mlp.warm_start.value";

pub(super) struct PrefixMlp(PrefixShape);

impl PrefixMlp {
    pub(super) fn new(shape: PrefixShape) -> Self {
        Self(shape)
    }

    fn is_warm(&self) -> bool {
        self.0.config.init == PrefixInit::Warm
    }

    /// Numbers that one position of the prefix has: layer, then key and value, then head, then dimension.
    fn features(&self) -> usize {
        let [_, layers, kv_heads, _, head_dim] = self.0.rows();
        2 * layers * kv_heads * head_dim
    }

    /// What the MLP gives, `[sets, length, features]`.
    fn output(&self, parameters: &Leaves) -> Tensor<3> {
        let linear = |x: Tensor<3>, weight: &str| x.matmul(parameters.get::<3>(weight).swap_dims(1, 2));
        let inner = (linear(parameters.get(EMBEDDING), W1) + parameters.get::<3>(B1)).tanh();
        linear(inner, W2) * output_scale(self.0.config.hidden) + parameters.get::<3>(B2)
    }

    fn rows(&self, parameters: &Leaves) -> PrefixRows {
        let [sets, layers, kv_heads, length, head_dim] = self.0.rows();
        let rows: Tensor<6> = self.output(parameters).reshape([sets, length, layers, 2, kv_heads, head_dim]);
        let half = |index: usize| -> Tensor<5> {
            rows.clone().slice(s![.., .., .., index..index + 1]).squeeze_dim::<5>(3).permute([0, 2, 3, 1, 4])
        };
        let (mut key, mut value) = (half(0), half(1));
        if self.is_warm() {
            key = key + parameters.get(WARM_KEY);
            value = value + parameters.get(WARM_VALUE);
        }
        PrefixRows { key, value, log_gate: log_gate(&self.0, parameters) }
    }
}

impl Method for PrefixMlp {
    /// Cold as published: E is N(0, 1), the MLP is uniform in ±1/sqrt(in). Warm rows start as they are: what the MLP adds is zero.
    fn initialize_cold(&self, seed: u64, set: &mut ParameterSet) {
        let (config, features) = (&self.0.config, self.features());
        let (width, hidden, sets, length) = (config.width, config.hidden, self.0.sets, config.length);
        let embedding = Stream::new(seed, EMBEDDING, 0).normal(sets * length * width, 1.0);
        set.insert(EMBEDDING, Group::Prefix, &[sets, length, width], embedding);
        let uniform = |name: &str, count: usize, inputs: usize, scale: f32| {
            Stream::new(seed, name, 0).uniform(count, (inputs as f32).sqrt().recip() * scale)
        };
        let last = if self.is_warm() { 0.0 } else { 1.0 };
        set.insert(W1, Group::Prefix, &[hidden, width], uniform(W1, hidden * width, width, 1.0));
        set.insert(B1, Group::Prefix, &[hidden], uniform(B1, hidden, width, 1.0));
        let w2 = uniform(W2, features * hidden, hidden, last / output_scale(hidden));
        set.insert(W2, Group::Prefix, &[features, hidden], w2);
        set.insert(B2, Group::Prefix, &[features], uniform(B2, features, hidden, last));
        insert_log_gate(&self.0, set);
    }

    fn warm(&self, start: &Start<'_>, set: &mut ParameterSet) -> Result<(), TrainError> {
        if self.is_warm() {
            let (key, value) = warm_start::rows(start, &self.0)?;
            set.insert(WARM_KEY, Group::Constant, &self.0.rows(), key);
            set.insert(WARM_VALUE, Group::Constant, &self.0.rows(), value);
        }
        Ok(())
    }

    fn adaptation(&self, parameters: &Leaves, _moment: &Moment) -> Adaptation {
        Adaptation { prefix: Some(self.rows(parameters)), ..Adaptation::default() }
    }

    fn export(&self, set: &ParameterSet, to: &Destination<'_>) -> Result<Record, TrainError> {
        let rows = self.rows(&set.constants());
        Ok(Record { prefix: prefix_files::write(Some(rows), &self.0, to)?, ..Record::default() })
    }
}

/// What the parameters of a last layer of `inputs` inputs are multiplied by, so that a step of Adam moves an output by about the
/// learning rate, as it moves a row that is learned directly.
pub(super) fn output_scale(inputs: usize) -> f32 {
    1.0 / inputs as f32
}
