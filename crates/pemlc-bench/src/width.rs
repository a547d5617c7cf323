//! The shapes of models that are trained here, all with random weights.

use clap::ValueEnum;
use pemlc_artifact::{Family, ModelConfig};
use pemlc_trainer::config::BaseDtype;

/// Number type of a base model's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dtype {
    F32,
    Bf16,
}

impl From<Dtype> for BaseDtype {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::Bf16 => Self::Bf16,
        }
    }
}

/// A model shape, by the name of the model that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Width {
    /// 2 layers, 64 wide, 512 tokens: for tests
    Tiny,
    /// SmolLM2-135M: 30 layers, 576 wide, 49,152 tokens, tied embeddings
    #[value(name = "smollm2-135m")]
    Smollm2,
    /// TinyLlama-1.1B: 22 layers, 2048 wide, 32,000 tokens
    #[value(name = "tinyllama-1.1b")]
    Tinyllama,
    /// Llama-2-7B: 32 layers, 4096 wide, 32,000 tokens
    #[value(name = "llama-2-7b")]
    Llama2,
}

impl Width {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tiny => "tiny",
            Self::Smollm2 => "smollm2-135m",
            Self::Tinyllama => "tinyllama-1.1b",
            Self::Llama2 => "llama-2-7b",
        }
    }

    pub(crate) fn config(self) -> ModelConfig {
        let (hidden, intermediate, layers, heads, kv_heads, head_dim, vocabulary, context) = match self {
            Self::Tiny => (64, 128, 2, 4, 2, 16, 512, 512),
            Self::Smollm2 => (576, 1536, 30, 9, 3, 64, 49_152, 8192),
            Self::Tinyllama => (2048, 5632, 22, 32, 4, 64, 32_000, 2048),
            Self::Llama2 => (4096, 11_008, 32, 32, 32, 128, 32_000, 4096),
        };
        ModelConfig {
            family: Family::Llama,
            hidden_size: hidden,
            intermediate_size: intermediate,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            head_dim,
            vocab_size: vocabulary,
            max_position_embeddings: context,
            rms_norm_eps: 1e-5,
            rope_theta: if self == Self::Smollm2 { 100_000.0 } else { 10_000.0 },
            rope_scaling: None,
            tie_word_embeddings: matches!(self, Self::Tiny | Self::Smollm2),
            bos_token_id: Some(1),
            eos_token_ids: vec![2],
            pad_token_id: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Number of weights of a model of this shape.
    fn parameters(model: &ModelConfig) -> usize {
        let projections: usize = pemlc_artifact::Projection::ALL
            .iter()
            .map(|projection| {
                let (input, output) = projection.features(model);
                input * output
            })
            .sum();
        let tables = if model.tie_word_embeddings { 1 } else { 2 };
        model.num_hidden_layers * (projections + 2 * model.hidden_size)
            + tables * model.vocab_size * model.hidden_size
            + model.hidden_size
    }

    #[test]
    fn the_widths_have_the_parameter_counts_of_the_models_they_are_named_after() {
        let counts: Vec<_> = Width::value_variants().iter().map(|width| parameters(&width.config())).collect();
        assert_eq!(counts, [106_816, 134_515_008, 1_100_048_384, 6_738_415_616]);
    }
}
