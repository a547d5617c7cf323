//! GGUF's tensor names in Hugging Face's words.

/// The Hugging Face name of a GGUF tensor; none for a name that the two families do not use.
pub(super) fn translate(name: &str) -> Option<String> {
    let whole = match name {
        "token_embd.weight" => "model.embed_tokens.weight",
        "output_norm.weight" => "model.norm.weight",
        "output.weight" => "lm_head.weight",
        _ => {
            let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
            let (module, kind) = part.rsplit_once('.')?;
            let module = match module {
                "attn_norm" => "input_layernorm",
                "ffn_norm" => "post_attention_layernorm",
                "attn_q" => "self_attn.q_proj",
                "attn_k" => "self_attn.k_proj",
                "attn_v" => "self_attn.v_proj",
                "attn_output" => "self_attn.o_proj",
                "ffn_gate" => "mlp.gate_proj",
                "ffn_up" => "mlp.up_proj",
                "ffn_down" => "mlp.down_proj",
                _ => return None,
            };
            let layer: u32 = layer.parse().ok()?;
            return Some(format!("model.layers.{layer}.{module}.{kind}"));
        }
    };
    Some(whole.to_owned())
}

#[cfg(test)]
mod tests {
    use super::translate;

    #[test]
    fn names_are_translated() {
        let of = |name: &str| translate(name).unwrap_or_else(|| "(none)".to_owned());
        insta::assert_snapshot!(
            ["token_embd.weight", "blk.12.attn_q.bias", "blk.0.ffn_down.weight", "blk.0.attn_norm.weight", "blk.x.attn_q.weight", "blk.1.ffn_gate_inp.weight"]
                .map(of)
                .join("\n"), @"
model.embed_tokens.weight
model.layers.12.self_attn.q_proj.bias
model.layers.0.mlp.down_proj.weight
model.layers.0.input_layernorm.weight
(none)
(none)
");
    }
}
