//! The shape of a base model, as read from a Hugging Face `config.json` or from GGUF metadata.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The decoder families that the trainer and the compiler know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Llama 1-3, SmolLM2, TinyLlama: RMSNorm, rotary positions, SwiGLU, no biases.
    Llama,
    /// Qwen2: as Llama, with biases on the query, key and value projections.
    Qwen2,
}

/// The seven linear projections of a decoder layer that methods may adapt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Projection {
    QProj,
    KProj,
    VProj,
    OProj,
    GateProj,
    UpProj,
    DownProj,
}

impl Projection {
    /// Every projection, in the order in which a layer applies them.
    pub const ALL: [Self; 7] =
        [Self::QProj, Self::KProj, Self::VProj, Self::OProj, Self::GateProj, Self::UpProj, Self::DownProj];

    /// The name that PEFT's `target_modules` uses, for instance `q_proj`.
    pub fn name(self) -> &'static str {
        match self {
            Self::QProj => "q_proj",
            Self::KProj => "k_proj",
            Self::VProj => "v_proj",
            Self::OProj => "o_proj",
            Self::GateProj => "gate_proj",
            Self::UpProj => "up_proj",
            Self::DownProj => "down_proj",
        }
    }

    /// Whether it belongs to the feed-forward part of a layer rather than to attention.
    pub fn is_feed_forward(self) -> bool {
        matches!(self, Self::GateProj | Self::UpProj | Self::DownProj)
    }

    /// The module path inside layer `layer`, for instance `model.layers.3.self_attn.q_proj` (no `.weight`).
    pub fn module(self, layer: usize) -> String {
        let block = match self {
            Self::QProj | Self::KProj | Self::VProj | Self::OProj => "self_attn",
            Self::GateProj | Self::UpProj | Self::DownProj => "mlp",
        };
        format!("model.layers.{layer}.{block}.{}", self.name())
    }

    /// `(input features, output features)` of this projection in `model`. The weight is `[out, in]`.
    pub fn features(self, model: &ModelConfig) -> (usize, usize) {
        let queries = model.num_attention_heads * model.head_dim;
        let keys = model.num_key_value_heads * model.head_dim;
        match self {
            Self::QProj => (model.hidden_size, queries),
            Self::KProj | Self::VProj => (model.hidden_size, keys),
            Self::OProj => (queries, model.hidden_size),
            Self::GateProj | Self::UpProj => (model.hidden_size, model.intermediate_size),
            Self::DownProj => (model.intermediate_size, model.hidden_size),
        }
    }
}

/// How rotary frequencies are stretched for long contexts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "rope_type", rename_all = "lowercase")]
pub enum RopeScaling {
    /// Every frequency divided by `factor`.
    Linear {
        /// How many times longer the context is than in pre-training.
        factor: f64,
    },
    /// Llama 3: low frequencies divided by `factor`, high ones kept, a linear blend between.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Wavelengths above `original_max_position_embeddings / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_position_embeddings / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context length of pre-training, in tokens.
        original_max_position_embeddings: usize,
    },
}

/// The hyper-parameters of a base model that change its arithmetic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub struct ModelConfig {
    pub family: Family,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    pub vocab_size: usize,
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    pub rope_scaling: Option<RopeScaling>,
    /// Whether the output head is the embedding table (`lm_head.weight` absent).
    pub tie_word_embeddings: bool,
    pub bos_token_id: Option<u32>,
    pub eos_token_ids: Vec<u32>,
    pub pad_token_id: Option<u32>,
}

/// Sizes beyond this are taken for a broken or hostile file; the largest real ones (vocabularies, contexts) stay far below.
pub(crate) const LARGEST_SIZE: u64 = 1 << 28;

impl ModelConfig {
    /// Refuses shapes that no decoder of these families can have; the error says in words which.
    pub fn check(&self) -> Result<(), String> {
        for (name, size, largest) in [
            ("hidden_size", self.hidden_size, 1 << 20),
            ("intermediate_size", self.intermediate_size, 1 << 24),
            ("num_hidden_layers", self.num_hidden_layers, 1 << 14),
            ("num_attention_heads", self.num_attention_heads, 1 << 16),
            ("num_key_value_heads", self.num_key_value_heads, 1 << 16),
            ("head_dim", self.head_dim, 1 << 16),
            ("vocab_size", self.vocab_size, LARGEST_SIZE),
            ("max_position_embeddings", self.max_position_embeddings, LARGEST_SIZE),
        ] {
            if !(1..=largest).contains(&(size as u64)) {
                return Err(format!("`{name}` is {size}, expected from 1 to {largest}"));
            }
        }
        let (heads, kv_heads) = (self.num_attention_heads, self.num_key_value_heads);
        if !heads.is_multiple_of(kv_heads) {
            return Err(format!("{heads} attention heads cannot share {kv_heads} key-value heads"));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(format!("head_dim {} is not a positive even number", self.head_dim));
        }
        let scaling = match &self.rope_scaling {
            None => [1.0; 3],
            Some(RopeScaling::Linear { factor }) => [*factor, 1.0, 1.0],
            Some(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, .. }) => {
                [*factor, *low_freq_factor, *high_freq_factor]
            }
        };
        let scaling = scaling.map(|value| ("rope_scaling", value));
        for (name, value) in
            [("rms_norm_eps", self.rms_norm_eps), ("rope_theta", self.rope_theta)].into_iter().chain(scaling)
        {
            if !(value.is_finite() && value > 0.0) {
                return Err(format!("`{name}` is {value}, expected a positive number"));
            }
        }
        Ok(())
    }

    /// Whether query, key and value projections carry a bias.
    pub fn has_qkv_bias(&self) -> bool {
        self.family == Family::Qwen2
    }

    /// Width of one layer's keys (or values) over all key-value heads.
    pub fn kv_width(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// Rotary angle per position for each of the `head_dim / 2` pairs, after scaling. Pair `i` is dimensions `i` and
    /// `i + head_dim / 2` (the Hugging Face "rotate half" layout).
    pub fn rope_inverse_frequencies(&self) -> Vec<f32> {
        (0..self.head_dim / 2)
            .map(|i| {
                let base = self.rope_theta.powf(-((2 * i) as f64) / self.head_dim as f64);
                match &self.rope_scaling {
                    None => base as f32,
                    Some(scaling) => scaling.stretch(base) as f32,
                }
            })
            .collect()
    }
}

impl RopeScaling {
    fn stretch(&self, frequency: f64) -> f64 {
        match *self {
            Self::Linear { factor } => frequency / factor,
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                let context = original_max_position_embeddings as f64;
                let wavelength = 2.0 * std::f64::consts::PI / frequency;
                if wavelength < context / high_freq_factor {
                    frequency
                } else if wavelength > context / low_freq_factor {
                    frequency / factor
                } else {
                    let smooth = (context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    (1.0 - smooth) * frequency / factor + smooth * frequency
                }
            }
        }
    }
}
