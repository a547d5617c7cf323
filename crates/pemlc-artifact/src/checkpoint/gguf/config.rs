//! The model's shape from GGUF metadata, and the `config.json` that says the same.

use super::super::{CheckpointError, StoredType, dequantize};
use super::header::Header;
use super::value::Metadata;
use crate::config::{Family, LARGEST_SIZE, ModelConfig, RopeScaling};
use serde_json::{Map, Value, json};

/// Divisors of the rotary frequencies: Llama 3's scaling as converters store it.
pub(super) const ROPE_FREQUENCIES: &str = "rope_freqs.weight";

pub(super) fn read(metadata: &Metadata<'_>, header: &Header, bytes: &[u8]) -> Result<ModelConfig, CheckpointError> {
    let architecture =
        metadata.string("general.architecture")?.ok_or_else(|| metadata.missing("general.architecture"))?;
    let family = match architecture {
        "llama" => Family::Llama,
        "qwen2" => Family::Qwen2,
        other => {
            return Err(CheckpointError::Architecture { path: metadata.path.to_path_buf(), found: other.to_owned() });
        }
    };
    let key = |name: &str| format!("{architecture}.{name}");
    let optional = |name: &str| match metadata.integer(&key(name))? {
        None => Ok(None),
        Some(size) if (1..=LARGEST_SIZE).contains(&size) => Ok(Some(size as usize)),
        Some(size) => Err(metadata.malformed(format!("`{}` is {size}, expected from 1 to {LARGEST_SIZE}", key(name)))),
    };
    let size = |name: &str| optional(name)?.ok_or_else(|| metadata.missing(&key(name)));
    let hidden_size = size("embedding_length")?;
    let num_attention_heads = size("attention.head_count")?;
    let head_dim = optional("attention.key_length")?.unwrap_or(hidden_size / num_attention_heads);
    for name in ["attention.value_length", "rope.dimension_count"] {
        if let Some(width) = optional(name)?
            && width != head_dim
        {
            let reason = format!("`{}` is {width}, but heads are {head_dim} wide: not supported", key(name));
            return Err(CheckpointError::unsupported(metadata.path, reason));
        }
    }
    if let Some(experts) = metadata.integer(&key("expert_count"))?
        && experts > 0
    {
        return Err(CheckpointError::unsupported(
            metadata.path,
            format!("mixtures of experts are not supported; this one has {experts}"),
        ));
    }
    let embedding = header.tensors.get("token_embd.weight");
    let vocab_size = embedding
        .and_then(|tensor| tensor.shape.first().copied())
        .ok_or_else(|| metadata.malformed("tensor `token_embd.weight` is missing".to_owned()))?;
    let token = |name: &str| match metadata.integer(&format!("tokenizer.ggml.{name}"))? {
        Some(id) if id < vocab_size as u64 => Ok(u32::try_from(id).ok()),
        Some(id) if id != u64::from(u32::MAX) => Err(metadata
            .malformed(format!("`tokenizer.ggml.{name}` is {id}, outside the vocabulary of {vocab_size} tokens"))),
        _ => Ok(None),
    };
    let rope_theta = metadata.float(&key("rope.freq_base"))?.unwrap_or(10_000.0);
    let mut config = ModelConfig {
        family,
        hidden_size,
        intermediate_size: size("feed_forward_length")?,
        num_hidden_layers: size("block_count")?,
        num_attention_heads,
        num_key_value_heads: optional("attention.head_count_kv")?.unwrap_or(num_attention_heads),
        head_dim,
        vocab_size,
        max_position_embeddings: size("context_length")?,
        rms_norm_eps: metadata
            .float(&key("attention.layer_norm_rms_epsilon"))?
            .ok_or_else(|| metadata.missing(&key("attention.layer_norm_rms_epsilon")))?,
        rope_theta,
        rope_scaling: linear_scaling(metadata, &key)?,
        tie_word_embeddings: !header.tensors.contains_key("output.weight"),
        bos_token_id: token("bos_token_id")?,
        eos_token_ids: token("eos_token_id")?.into_iter().collect(),
        pad_token_id: token("padding_token_id")?,
    };
    for name in ["eot_token_id", "eom_token_id"] {
        if let Some(id) = token(name)?
            && !config.eos_token_ids.contains(&id)
        {
            config.eos_token_ids.push(id);
        }
    }
    config.check().map_err(|reason| metadata.malformed(reason))?;
    if let Some(divisors) = header.tensors.get(ROPE_FREQUENCIES) {
        let mut values = Vec::new();
        if divisors.stored == Ok(StoredType::F32) {
            dequantize::append_f32(StoredType::F32, bytes.get(divisors.bytes.clone()).unwrap_or_default(), &mut values);
        }
        config.rope_scaling = Some(llama3_scaling(metadata, &config, &values)?);
    }
    Ok(config)
}

fn linear_scaling(
    metadata: &Metadata<'_>,
    key: &dyn Fn(&str) -> String,
) -> Result<Option<RopeScaling>, CheckpointError> {
    let factor = match metadata.float(&key("rope.scaling.factor"))? {
        Some(factor) => Some(factor),
        // The spelling before scaling had kinds.
        None => metadata.float(&key("rope.scale_linear"))?,
    };
    match (metadata.string(&key("rope.scaling.type"))?, factor) {
        (Some("none"), _) | (None, None) => Ok(None),
        (Some("linear") | None, Some(factor)) if factor.is_finite() && factor > 0.0 => {
            Ok(if factor == 1.0 { None } else { Some(RopeScaling::Linear { factor }) })
        }
        (Some("linear") | None, _) => {
            Err(metadata.malformed(format!("`{}` is not a positive number", key("rope.scaling.factor"))))
        }
        (Some(other), _) => Err(CheckpointError::unsupported(
            metadata.path,
            format!("rope scaling {other:?} is not supported; `linear` and Llama 3's are"),
        )),
    }
}

/// Llama 3's scaling, found again from its divisors: all published models share the constants 1, 4 and 8192 and differ in the factor,
/// which is the largest divisor.
fn llama3_scaling(
    metadata: &Metadata<'_>,
    config: &ModelConfig,
    divisors: &[f32],
) -> Result<RopeScaling, CheckpointError> {
    let unknown = || {
        let reason =
            format!("tensor `{ROPE_FREQUENCIES}` is not Llama 3's rope scaling, the only one known in this form");
        CheckpointError::unsupported(metadata.path, reason)
    };
    // Before tables of that width are made: nothing but this file says how wide a head is.
    if divisors.len() != config.head_dim / 2 {
        return Err(unknown());
    }
    let scaling = RopeScaling::Llama3 {
        factor: f64::from(divisors.iter().copied().fold(1.0, f32::max)),
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    let plain = ModelConfig { rope_scaling: None, ..config.clone() }.rope_inverse_frequencies();
    let scaled = ModelConfig { rope_scaling: Some(scaling.clone()), ..config.clone() }.rope_inverse_frequencies();
    let agree = plain.iter().zip(&scaled).zip(divisors).all(|((plain, scaled), divisor)| {
        let expected = plain / scaled;
        (expected - divisor).abs() <= 1e-3 * expected
    });
    if agree { Ok(scaling) } else { Err(unknown()) }
}

/// `config.json` as Hugging Face writes it.
pub(in super::super) fn to_json(config: &ModelConfig) -> String {
    let (class, model_type) = match config.family {
        Family::Llama => ("LlamaForCausalLM", "llama"),
        Family::Qwen2 => ("Qwen2ForCausalLM", "qwen2"),
    };
    let eos = match config.eos_token_ids.as_slice() {
        [] => Value::Null,
        [id] => json!(id),
        several => json!(several),
    };
    let scaling = match &config.rope_scaling {
        None => Value::Null,
        Some(RopeScaling::Linear { factor }) => json!({"rope_type": "linear", "factor": factor}),
        Some(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings }) => {
            json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor,
                "original_max_position_embeddings": original_max_position_embeddings,
            })
        }
    };
    let mut fields = Map::new();
    let mut set = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    set("architectures", json!([class]));
    set("model_type", json!(model_type));
    set("hidden_size", json!(config.hidden_size));
    set("intermediate_size", json!(config.intermediate_size));
    set("num_hidden_layers", json!(config.num_hidden_layers));
    set("num_attention_heads", json!(config.num_attention_heads));
    set("num_key_value_heads", json!(config.num_key_value_heads));
    set("head_dim", json!(config.head_dim));
    set("vocab_size", json!(config.vocab_size));
    set("max_position_embeddings", json!(config.max_position_embeddings));
    set("hidden_act", json!("silu"));
    set("rms_norm_eps", json!(config.rms_norm_eps));
    set("rope_theta", json!(config.rope_theta));
    set("rope_scaling", scaling);
    set("tie_word_embeddings", json!(config.tie_word_embeddings));
    if config.family == Family::Llama {
        set("attention_bias", json!(false));
        set("mlp_bias", json!(false));
    } else {
        set("use_sliding_window", json!(false));
    }
    set("bos_token_id", json!(config.bos_token_id));
    set("eos_token_id", eos);
    set("pad_token_id", json!(config.pad_token_id));
    set("torch_dtype", json!("float32"));
    format!("{:#}\n", Value::Object(fields))
}
