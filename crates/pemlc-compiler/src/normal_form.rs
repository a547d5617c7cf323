//! The form that every method lowers to, after which no pass asks which method it was:
//!
//! ```text
//! task t, layer l, projection W:   y = x (W + dW_shared)^T + x A_t^T B_t^T          (rows of the sum brought to given norms, if any;
//!                                                                                   y times c_t, before the bias, if a task has norms)
//! task t, layer l, attention:      K = [Kp_t ; K_tokens],  V = [Vp_t ; V_tokens],  log_gate_t on the prefix columns
//! ```

use crate::ir::Tensor;
use pemlc_artifact::Projection;
use pemlc_artifact::prompt::SHUT;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A projection of a layer.
pub type Site = (usize, Projection);

/// `x down up` added to a projection, the scale already in `up`.
#[derive(Debug, Clone, PartialEq)]
pub struct LowRank {
    /// `[in, rank]`, or `[tasks, in, rank]` when every task has its own.
    pub down: Arc<Tensor>,
    /// `[rank, out]`, or `[tasks, rank, out]`.
    pub up: Arc<Tensor>,
}

/// The prefix rows of one layer, for each set of rows.
#[derive(Debug, Clone, PartialEq)]
pub struct PrefixLayer {
    /// `[sets, kv_heads, length, head_dim]`, unrotated: real tokens start at position 0.
    pub key: Arc<Tensor>,
    /// `[sets, kv_heads, length, head_dim]`.
    pub value: Arc<Tensor>,
    /// `[sets, length]`, added to the attention logits of the rows.
    pub log_gate: Arc<Tensor>,
}

impl PrefixLayer {
    /// Whether any row takes part in attention.
    pub fn is_open(&self) -> bool {
        self.log_gate.as_f32().is_none_or(|gates| gates.iter().any(|gate| *gate > SHUT))
    }

    /// The rows of set `set` alone.
    pub fn part(&self, set: usize) -> Self {
        let part = |tensor: &Arc<Tensor>| Arc::new(tensor.part(set));
        Self { key: part(&self.key), value: part(&self.value), log_gate: part(&self.log_gate) }
    }
}

/// Prefix rows of every layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Prefix {
    /// Which set of rows each task has.
    pub set_of_task: Vec<usize>,
    /// The one set that is read, where there is one task for good: the layers hold those of all.
    pub only: Option<usize>,
    /// Rows of each layer.
    pub layers: Vec<PrefixLayer>,
}

impl Prefix {
    /// What is read of `layer`, one of its layers.
    pub fn own(&self, layer: &PrefixLayer) -> PrefixLayer {
        self.only.map_or_else(|| layer.clone(), |set| layer.part(set))
    }
}

/// What training found, whatever the method.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NormalForm {
    /// Number of tasks.
    pub tasks: usize,
    /// Deltas that all tasks have: they fold into the weights.
    pub shared: BTreeMap<Site, LowRank>,
    /// Norms that the rows of a weight with its shared delta are brought to, `[out]`, where they are trained.
    pub magnitudes: BTreeMap<Site, Arc<Tensor>>,
    /// Deltas stacked by task.
    pub private: BTreeMap<Site, LowRank>,
    /// What the sum of a projection and its deltas is multiplied by before its bias, `[tasks, out]`, where a task has norms of its own
    /// (DoRA): 1 for the others.
    pub private_scale: BTreeMap<Site, Arc<Tensor>>,
    /// Prefix rows, if any.
    pub prefix: Option<Prefix>,
}

impl NormalForm {
    /// What is left when the task is `task` for good: a normal form of that one task.
    ///
    /// # Panics
    /// When there is no such task.
    pub fn pinned(&self, task: usize) -> Self {
        assert!(task < self.tasks, "task {task} of {}", self.tasks);
        let own = |(site, delta): (&Site, &LowRank)| {
            (*site, LowRank { down: Arc::new(delta.down.part(task)), up: Arc::new(delta.up.part(task)) })
        };
        let prefix = self.prefix.as_ref().map(|prefix| {
            let set = prefix.set_of_task.get(task).copied().unwrap_or_default();
            Prefix { set_of_task: vec![0], only: Some(set), layers: prefix.layers.clone() }
        });
        let scale = |(site, scale): (&Site, &Arc<Tensor>)| (*site, Arc::new(scale.part(task)));
        Self {
            tasks: 1,
            private: self.private.iter().map(own).collect(),
            private_scale: self.private_scale.iter().map(scale).collect(),
            prefix,
            ..self.clone()
        }
    }
}
