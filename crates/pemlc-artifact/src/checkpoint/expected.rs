//! The tensors that a configuration asks for.

use super::{Checkpoint, CheckpointError};
use crate::config::{ModelConfig, Projection};

pub(super) const EMBEDDING: &str = "model.embed_tokens.weight";
pub(super) const OUTPUT_HEAD: &str = "lm_head.weight";

impl Checkpoint {
    /// Checks that every tensor that the configuration asks for is there, can be read and has its shape, and that no tensor is
    /// left over: an ignored bias would change answers silently.
    pub(super) fn check_tensors(&self) -> Result<(), CheckpointError> {
        let config = &self.config;
        self.check_tensor(EMBEDDING, &[config.vocab_size, config.hidden_size])?;
        self.check_tensor("model.norm.weight", &[config.hidden_size])?;
        let mut expected = 2;
        if !config.tie_word_embeddings {
            self.check_tensor(OUTPUT_HEAD, &[config.vocab_size, config.hidden_size])?;
            expected += 1;
        }
        for layer in 0..config.num_hidden_layers {
            for norm in ["input_layernorm", "post_attention_layernorm"] {
                self.check_tensor(&format!("model.layers.{layer}.{norm}.weight"), &[config.hidden_size])?;
                expected += 1;
            }
            for projection in Projection::ALL {
                let (inputs, outputs) = projection.features(config);
                let module = projection.module(layer);
                self.check_tensor(&format!("{module}.weight"), &[outputs, inputs])?;
                expected += 1;
                if has_bias(config, projection) {
                    self.check_tensor(&format!("{module}.bias"), &[outputs])?;
                    expected += 1;
                }
            }
        }
        let unused = |name: &&str| {
            name.ends_with(".rotary_emb.inv_freq") || (config.tie_word_embeddings && *name == OUTPUT_HEAD)
        };
        let names: Vec<&str> = self.names().into_iter().filter(|name| !unused(name)).collect();
        if names.len() > expected {
            let strange: Vec<&str> = names.into_iter().filter(|name| !is_expected(config, name)).take(4).collect();
            return Err(CheckpointError::unsupported(
                &self.path,
                format!("the {} family does not use these tensors: {}", family_name(config), strange.join(", ")),
            ));
        }
        Ok(())
    }

    fn check_tensor(&self, name: &str, expected: &[usize]) -> Result<(), CheckpointError> {
        let found = self.tensor(name)?;
        if found.shape == expected {
            return Ok(());
        }
        Err(CheckpointError::Shape {
            path: self.path.clone(),
            tensor: name.to_owned(),
            found: found.shape,
            expected: expected.to_vec(),
        })
    }
}

fn has_bias(config: &ModelConfig, projection: Projection) -> bool {
    config.has_qkv_bias() && matches!(projection, Projection::QProj | Projection::KProj | Projection::VProj)
}

fn family_name(config: &ModelConfig) -> &'static str {
    match config.family {
        crate::config::Family::Llama => "llama",
        crate::config::Family::Qwen2 => "qwen2",
    }
}

fn is_expected(config: &ModelConfig, name: &str) -> bool {
    if [EMBEDDING, "model.norm.weight", OUTPUT_HEAD].contains(&name) {
        return true;
    }
    let Some((layer, part)) = name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.')) else {
        return false;
    };
    let Ok(layer) = layer.parse::<usize>() else { return false };
    if layer >= config.num_hidden_layers {
        return false;
    }
    ["input_layernorm.weight", "post_attention_layernorm.weight"].contains(&part)
        || Projection::ALL.iter().any(|projection| {
            let module = projection.module(layer);
            name == format!("{module}.weight") || (has_bias(config, *projection) && name == format!("{module}.bias"))
        })
}

/// The three names that differ least from `name`.
pub(super) fn near<'a>(name: &str, names: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut ranked: Vec<(usize, &String)> =
        names.filter(|other| other.len() <= 200).map(|other| (distance(name, other), other)).collect();
    ranked.sort();
    ranked.into_iter().take(3).map(|(_, other)| other.clone()).collect()
}

/// Levenshtein distance in bytes.
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.bytes().enumerate() {
        let mut diagonal = i;
        let mut before = i + 1;
        if let Some(first) = row.first_mut() {
            *first = before;
        }
        for (cell, r) in row.iter_mut().skip(1).zip(right.bytes()) {
            let replaced = diagonal + usize::from(l != r);
            diagonal = *cell;
            *cell = replaced.min(diagonal + 1).min(before + 1);
            before = *cell;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", "abc"), 0);
    }
}
