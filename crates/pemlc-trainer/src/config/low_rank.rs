//! Settings of the multi-task low-rank methods. Rank, alpha, dropout and targets are those of `[lora]`.

use super::{LoraSharing, MethodName, RunConfig};
use pemlc_artifact::ModelConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[dora]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DoraConfig {
    /// Whether the gradient flows through the norms too; else they are taken as constants, as the paper proposes.
    pub full_gradient: bool,
}

/// `[mtl_lora]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MtlLoraConfig {
    /// Shared matrices B that tasks mix.
    pub experts: usize,
    /// Of the softmax over them.
    pub temperature: f64,
    /// Whether a task's matrix between A and B is diagonal.
    pub diagonal: bool,
}

impl Default for MtlLoraConfig {
    fn default() -> Self {
        Self { experts: 3, temperature: 0.1, diagonal: false }
    }
}

/// `[multi_lora]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MultiLoraConfig {
    /// Deltas side by side, each of rank `lora.rank`.
    pub parallel: usize,
}

impl Default for MultiLoraConfig {
    fn default() -> Self {
        Self { parallel: 3 }
    }
}

/// `[moe_lora]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MoeLoraConfig {
    /// Experts that share `lora.rank`, which they must divide.
    pub experts: usize,
    /// Width of the task embeddings.
    pub embedding: usize,
}

impl Default for MoeLoraConfig {
    fn default() -> Self {
        Self { experts: 8, embedding: 64 }
    }
}

/// `[mixlora]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MixLoraConfig {
    /// Experts of each layer's feed-forward part, each with deltas of rank `lora.rank`.
    pub experts: usize,
    /// Experts that a token has.
    pub top: usize,
    /// Weight of the loss of unbalanced choices.
    pub balance: f64,
}

impl Default for MixLoraConfig {
    fn default() -> Self {
        Self { experts: 8, top: 2, balance: 0.001 }
    }
}

/// `[poly]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PolyConfig {
    /// Skills in the inventory.
    pub skills: usize,
    /// Parts of inputs and outputs that are routed on their own: 1 is Poly, more is multi-head routing. Must divide every width.
    pub splits: usize,
    /// Whether gates are relaxed Bernoulli samples in training; else plain sigmoids.
    pub noise: bool,
}

impl Default for PolyConfig {
    fn default() -> Self {
        Self { skills: 4, splits: 1, noise: true }
    }
}

/// `[c_poly]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CPolyConfig {
    /// Skills that all tasks share.
    pub common: usize,
    /// Skills of each task's own.
    pub own: usize,
    /// Whether the common skills' gates are relaxed Bernoulli samples in training.
    pub noise: bool,
}

impl Default for CPolyConfig {
    fn default() -> Self {
        Self { common: 3, own: 1, noise: true }
    }
}

impl RunConfig {
    /// Settings of these methods that must not be 0.
    pub(super) fn low_rank_positive(&self) -> [(&'static str, usize); 8] {
        [
            ("mtl_lora.experts", self.mtl_lora.experts),
            ("multi_lora.parallel", self.multi_lora.parallel),
            ("moe_lora.experts", self.moe_lora.experts),
            ("moe_lora.embedding", self.moe_lora.embedding),
            ("poly.skills", self.poly.skills),
            ("poly.splits", self.poly.splits),
            ("c_poly.common", self.c_poly.common),
            ("c_poly.own", self.c_poly.own),
        ]
    }

    /// A setting of the run's method that cannot be: its key, what it is, and what it should be.
    pub(super) fn low_rank_fault(&self) -> Option<(&'static str, String, String)> {
        let temperature = self.mtl_lora.temperature;
        if !(temperature.is_finite() && temperature > 0.0) {
            return Some(("mtl_lora.temperature", temperature.to_string(), "a number above 0".to_owned()));
        }
        if self.method == MethodName::Dora && self.lora.sharing != LoraSharing::Shared {
            let expected = "\"shared\": magnitudes scale the weight, which all tasks have in common".to_owned();
            return Some(("lora.sharing", self.lora.sharing.name().to_owned(), expected));
        }
        let MixLoraConfig { experts, top, balance } = self.mixlora;
        if !(1..=experts).contains(&top) {
            let expected = format!("at least 1 and at most mixlora.experts = {experts}");
            return Some(("mixlora.top", top.to_string(), expected));
        }
        if !(balance.is_finite() && balance >= 0.0) {
            return Some(("mixlora.balance", balance.to_string(), "a number, at least 0".to_owned()));
        }
        if self.method == MethodName::MixLora && !self.lora.targets.iter().any(|target| target.is_feed_forward()) {
            let targets: Vec<&str> = self.lora.targets.iter().map(|target| target.name()).collect();
            let expected = "one of gate_proj, up_proj and down_proj among them, for experts".to_owned();
            return Some(("lora.targets", targets.join(", "), expected));
        }
        let (experts, rank) = (self.moe_lora.experts, self.lora.rank);
        if self.method == MethodName::MoeLora && !rank.is_multiple_of(experts) {
            return Some(("moe_lora.experts", experts.to_string(), format!("a divisor of lora.rank = {rank}")));
        }
        None
    }

    /// Checks what depends on the base model. The error is a setting's key, what it is, and what it should be.
    pub(crate) fn check_model(&self, model: &ModelConfig) -> Result<(), (&'static str, String, String)> {
        let splits = self.poly.splits;
        let divides = |projection: &pemlc_artifact::Projection| {
            let (inputs, outputs) = projection.features(model);
            inputs.is_multiple_of(splits) && outputs.is_multiple_of(splits)
        };
        match self.lora.targets.iter().find(|projection| !divides(projection)) {
            Some(projection) if self.method == MethodName::Poly => {
                let (inputs, outputs) = projection.features(model);
                let expected = format!("a divisor of {inputs} and {outputs}, the widths of {}", projection.name());
                Err(("poly.splits", splits.to_string(), expected))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::RunConfig;
    use std::path::Path;

    #[test]
    fn impossible_settings_are_refused() {
        let refuse = |text: &str| {
            let task = "[[tasks]]\nname = \"a\"\ntrain = \"t.jsonl\"\nvalidation = \"v.jsonl\"\ntemplate = \"{text}\"\nanswer = \"a\"\n";
            let text = format!("model = \"m\"\n{text}\n{task}");
            RunConfig::from_toml(&text, Path::new("run.toml")).expect_err("it must be refused").to_string()
        };
        let found = [
            "method = \"moelora\"\n[moe_lora]\nexperts = 3",
            "method = \"mtl-lora\"\n[mtl_lora]\ntemperature = 0.0",
            "method = \"poly\"\n[poly]\nskills = 0",
            "method = \"dora\"\n[lora]\nsharing = \"both\"",
            "method = \"adalora\"\n[adalora]\ntarget_rank = 13",
            "method = \"adalora\"\n[adalora]\nfinal_fraction = 0.95",
            "method = \"adalora\"\n[adalora]\ninterval = 0",
            "method = \"mixlora\"\n[mixlora]\ntop = 9",
            "method = \"mixlora\"\n[lora]\ntargets = [\"q_proj\", \"v_proj\"]",
            "method = \"mtlora\"",
        ];
        insta::assert_snapshot!(found.map(refuse).join("\n"));
    }
}
