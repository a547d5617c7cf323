//! Names of methods.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is trained.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MethodName {
    /// LoRA, and prefix rows from a searched encoder.
    #[default]
    #[serde(rename = "peml")]
    Peml,
    /// LoRA alone.
    #[serde(rename = "lora")]
    Lora,
    /// LoRA scaled by alpha / sqrt(rank).
    #[serde(rename = "rslora")]
    RsLora,
    /// LoRA for directions, and magnitudes.
    #[serde(rename = "dora")]
    Dora,
    /// Singular value decompositions whose rank is spread by importance.
    #[serde(rename = "adalora")]
    AdaLora,
    /// Shared factors, with a matrix between them and a mixture for each task.
    #[serde(rename = "mtl-lora")]
    MtlLora,
    /// Parallel deltas with learned output scales.
    #[serde(rename = "multilora")]
    MultiLora,
    /// Experts weighed by task.
    #[serde(rename = "moelora")]
    MoeLora,
    /// Experts chosen by token. Not exported.
    #[serde(rename = "mixlora")]
    MixLora,
    /// Skills whose factors are mixed by task (with several splits: multi-head routing).
    #[serde(rename = "poly")]
    Poly,
    /// Common skills, and skills of each task's own.
    #[serde(rename = "c-poly")]
    CPoly,
    /// Prefix rows alone, learned directly.
    #[serde(rename = "prefix")]
    Prefix,
    /// LoRA, and prefix rows learned directly.
    #[serde(rename = "lora+prefix")]
    LoraPrefix,
    /// Prefix rows alone, through an MLP.
    #[serde(rename = "prefix-mlp")]
    PrefixMlp,
    /// LoRA, and prefix rows through an MLP.
    #[serde(rename = "lora+prefix-mlp")]
    LoraPrefixMlp,
    /// A soft prompt learned directly (prompt tuning).
    #[serde(rename = "prompt")]
    Prompt,
    /// LoRA, and a soft prompt learned directly.
    #[serde(rename = "lora+prompt")]
    LoraPrompt,
    /// A soft prompt through an encoder (P-Tuning).
    #[serde(rename = "p-tuning")]
    PTuning,
    /// One soft prompt, and a low-rank factor for each task (multitask prompt tuning).
    #[serde(rename = "mpt")]
    Mpt,
}

impl MethodName {
    /// Every method.
    pub const ALL: [Self; 19] = [
        Self::Peml,
        Self::Lora,
        Self::RsLora,
        Self::Dora,
        Self::AdaLora,
        Self::MtlLora,
        Self::MultiLora,
        Self::MoeLora,
        Self::MixLora,
        Self::Poly,
        Self::CPoly,
        Self::Prefix,
        Self::LoraPrefix,
        Self::PrefixMlp,
        Self::LoraPrefixMlp,
        Self::Prompt,
        Self::LoraPrompt,
        Self::PTuning,
        Self::Mpt,
    ];

    /// Name as in a run file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Peml => "peml",
            Self::Lora => "lora",
            Self::RsLora => "rslora",
            Self::Dora => "dora",
            Self::AdaLora => "adalora",
            Self::MtlLora => "mtl-lora",
            Self::MultiLora => "multilora",
            Self::MoeLora => "moelora",
            Self::MixLora => "mixlora",
            Self::Poly => "poly",
            Self::CPoly => "c-poly",
            Self::Prefix => "prefix",
            Self::LoraPrefix => "lora+prefix",
            Self::PrefixMlp => "prefix-mlp",
            Self::LoraPrefixMlp => "lora+prefix-mlp",
            Self::Prompt => "prompt",
            Self::LoraPrompt => "lora+prompt",
            Self::PTuning => "p-tuning",
            Self::Mpt => "mpt",
        }
    }

    /// Whether it has low-rank deltas.
    pub fn has_lora(self) -> bool {
        !matches!(self, Self::Prefix | Self::PrefixMlp | Self::Prompt | Self::PTuning | Self::Mpt)
    }
}
