//! Names of LoRA tensors, as PEFT and those who publish with it spell them.

use crate::config::Projection;

/// Which part of a module's adapter a tensor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// `lora_A`.
    A,
    /// `lora_B`.
    B,
    /// `lora_magnitude_vector`, DoRA's.
    Magnitude,
}

/// The layer, projection and part that `name` speaks of; `None` when it is no tensor of an adapter of a decoder's seven projections.
///
/// `base_model.model.` in front is PEFT's, `model.` the causal language model's; an adapter's own name (`default`) may stand before or
/// in place of the last `weight`.
pub(super) fn parse(name: &str) -> Option<(usize, Projection, Part)> {
    let mut rest = name;
    while let Some(inner) = rest.strip_prefix("base_model.model.").or_else(|| rest.strip_prefix("_orig_mod.")) {
        rest = inner;
    }
    rest = rest.strip_prefix("model.").unwrap_or(rest);
    let (layer, rest) = rest.strip_prefix("layers.")?.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    let (block, rest) = rest.split_once('.')?;
    let (projection, rest) = rest.split_once('.')?;
    let projection = Projection::ALL.into_iter().find(|known| known.name() == projection)?;
    let own_block = if projection.is_feed_forward() { "mlp" } else { "self_attn" };
    if block != own_block {
        return None;
    }
    let (part, rest) = rest.split_once('.').unwrap_or((rest, ""));
    let part = match part {
        "lora_A" => Part::A,
        "lora_B" => Part::B,
        "lora_magnitude_vector" => Part::Magnitude,
        _ => return None,
    };
    let tail: Vec<&str> = rest.split('.').collect();
    let ends_well = match (part, tail.as_slice()) {
        (_, ["weight"]) => true,
        (_, [adapter, "weight"]) => !adapter.is_empty(),
        // A bare parameter: `lora_magnitude_vector` or `lora_magnitude_vector.default`.
        (Part::Magnitude, [_]) => true,
        _ => false,
    };
    ends_well.then_some((layer, projection, part))
}

/// Names of A and B as PEFT saves them.
pub(super) fn factors(layer: usize, projection: Projection) -> [String; 2] {
    let module = projection.module(layer);
    ["A", "B"].map(|factor| format!("base_model.model.{module}.lora_{factor}.weight"))
}

/// Name of DoRA's magnitudes as PEFT saves them.
pub(super) fn magnitude(layer: usize, projection: Projection) -> String {
    format!("base_model.model.{}.lora_magnitude_vector", projection.module(layer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Any text is read without a panic, and what is recognised names its own layer and projection.
        #[test]
        fn any_name(name in r"(base_model\.model\.|model\.|layers\.|[0-9]{1,22}\.|self_attn\.|mlp\.|q_proj\.|lora_[AB]|\.weight|\PC){0,12}") {
            if let Some((layer, projection, _)) = parse(&name) {
                let number = format!("{layer}.");
                prop_assert!(name.contains(&number) && name.contains(projection.name()));
            }
        }
    }

    #[test]
    fn spellings_of_one_tensor() {
        let q = Projection::QProj;
        for (name, part) in [
            ("base_model.model.model.layers.12.self_attn.q_proj.lora_A.weight", Part::A),
            ("base_model.model.model.layers.12.self_attn.q_proj.lora_B.default.weight", Part::B),
            ("base_model.model.layers.12.self_attn.q_proj.lora_A.my_adapter.weight", Part::A),
            ("model.layers.12.self_attn.q_proj.lora_A.weight", Part::A),
            ("base_model.model.model.layers.12.self_attn.q_proj.lora_magnitude_vector", Part::Magnitude),
            ("base_model.model.model.layers.12.self_attn.q_proj.lora_magnitude_vector.default", Part::Magnitude),
            ("base_model.model.model.layers.12.self_attn.q_proj.lora_magnitude_vector.weight", Part::Magnitude),
            ("base_model.model.model.layers.12.self_attn.q_proj.lora_magnitude_vector.default.weight", Part::Magnitude),
        ] {
            assert_eq!(parse(name), Some((12, q, part)), "{name}");
        }
        let [a, b] = factors(3, Projection::DownProj);
        assert_eq!(parse(&a), Some((3, Projection::DownProj, Part::A)));
        assert_eq!(parse(&b), Some((3, Projection::DownProj, Part::B)));
        assert_eq!(parse(&magnitude(3, q)), Some((3, q, Part::Magnitude)));
    }

    #[test]
    fn other_tensors_are_none() {
        for name in [
            "",
            "base_model.model.lm_head.lora_A.weight",
            "base_model.model.model.embed_tokens.lora_embedding_A",
            "base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias",
            "base_model.model.model.layers.0.self_attn.q_proj.lora_A",
            "base_model.model.model.layers.0.mlp.q_proj.lora_A.weight",
            "base_model.model.model.layers.x.self_attn.q_proj.lora_A.weight",
            "base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight",
            "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight",
        ] {
            assert_eq!(parse(name), None, "{name}");
        }
    }
}
