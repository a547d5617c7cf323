//! `genai_config.json`: how onnxruntime-genai finds its way in a folder. Its defaults for names of inputs and outputs are ours.

use pemlc_artifact::ModelConfig;

/// Name that onnxruntime-genai looks for.
pub const GENAI_CONFIG: &str = "genai_config.json";

/// The configuration of a decoder in `filename`, as pretty JSON.
///
/// `past_present_share_buffer` stays off: the graph returns a cache that has grown, not one of fixed size.
pub fn genai_config(config: &ModelConfig, filename: &str) -> String {
    let eos: Vec<u32> = config.eos_token_ids.clone();
    let pad = config.pad_token_id.or_else(|| eos.first().copied()).unwrap_or(0);
    let mut model = serde_json::json!({
        "type": "llama",
        "pad_token_id": pad,
        "context_length": config.max_position_embeddings,
        "vocab_size": config.vocab_size,
        "decoder": {
            "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
            "filename": filename,
            "head_size": config.head_dim,
            "hidden_size": config.hidden_size,
            "num_attention_heads": config.num_attention_heads,
            "num_key_value_heads": config.num_key_value_heads,
            "num_hidden_layers": config.num_hidden_layers,
            "inputs": {
                "input_ids": "input_ids",
                "attention_mask": "attention_mask",
                "position_ids": "position_ids",
                "past_key_names": "past_key_values.%d.key",
                "past_value_names": "past_key_values.%d.value",
            },
            "outputs": {
                "logits": "logits",
                "present_key_names": "present.%d.key",
                "present_value_names": "present.%d.value",
            },
        },
    });
    // Without an end token generation stops at max_length; a made-up one would stop it anywhere.
    match eos.as_slice() {
        [] => model["eos_token_id"] = serde_json::json!(config.vocab_size),
        [one] => model["eos_token_id"] = serde_json::json!(one),
        several => model["eos_token_id"] = serde_json::json!(several),
    }
    if let Some(bos) = config.bos_token_id {
        model["bos_token_id"] = serde_json::json!(bos);
    }
    let search = serde_json::json!({
        "max_length": config.max_position_embeddings,
        "past_present_share_buffer": false,
        "do_sample": false,
        "num_beams": 1,
    });
    format!("{:#}\n", serde_json::json!({"model": model, "search": search}))
}
