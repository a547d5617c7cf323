//! Settings of AdaLoRA. Alpha, dropout and targets are those of `[lora]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[adalora]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdaLoraConfig {
    /// Rank of each delta at the start.
    pub initial_rank: usize,
    /// Mean rank at the end.
    pub target_rank: usize,
    /// Share of the steps before ranks fall.
    pub initial_fraction: f64,
    /// Share of the steps at the end, in which ranks stay.
    pub final_fraction: f64,
    /// Steps between reallocations.
    pub interval: u64,
    /// Decay of the mean sensitivity.
    pub beta1: f64,
    /// Decay of its mean deviation.
    pub beta2: f64,
    /// Weight of the penalty on vectors that are not orthonormal.
    pub orthogonality: f64,
}

impl Default for AdaLoraConfig {
    fn default() -> Self {
        Self {
            initial_rank: 12,
            target_rank: 8,
            initial_fraction: 0.1,
            final_fraction: 0.3,
            interval: 10,
            beta1: 0.85,
            beta2: 0.85,
            orthogonality: 0.5,
        }
    }
}

impl AdaLoraConfig {
    /// A setting that cannot be: its key, what it is, and what it should be.
    pub(super) fn fault(&self) -> Option<(&'static str, String, String)> {
        let Self { initial_rank, target_rank, initial_fraction, final_fraction, .. } = *self;
        if !(1..=initial_rank).contains(&target_rank) {
            let expected = format!("at least 1 and at most adalora.initial_rank = {initial_rank}");
            return Some(("adalora.target_rank", target_rank.to_string(), expected));
        }
        if self.interval == 0 {
            return Some(("adalora.interval", "0".to_owned(), "at least 1".to_owned()));
        }
        let shares = [("adalora.initial_fraction", initial_fraction), ("adalora.final_fraction", final_fraction)];
        let decays = [("adalora.beta1", self.beta1), ("adalora.beta2", self.beta2)];
        for (key, value) in shares.into_iter().chain(decays) {
            if !(0.0..1.0).contains(&value) {
                return Some((key, value.to_string(), "at least 0 and below 1".to_owned()));
            }
        }
        if initial_fraction + final_fraction >= 1.0 {
            let expected = format!("below 1 together with adalora.initial_fraction = {initial_fraction}");
            return Some(("adalora.final_fraction", final_fraction.to_string(), expected));
        }
        if !(self.orthogonality.is_finite() && self.orthogonality >= 0.0) {
            let expected = "a number, at least 0".to_owned();
            return Some(("adalora.orthogonality", self.orthogonality.to_string(), expected));
        }
        None
    }
}
