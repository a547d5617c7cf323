//! LoRA folders, written.

use super::{Config, PeftError, WEIGHTS, names};
use crate::config::{ModelConfig, Projection};
use crate::tensors::{self, NamedTensor, TensorMap};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// The two factors of one projection's delta `(alpha / rank) B A`, and DoRA's magnitudes.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraWeights {
    /// A, `[rank, in]`.
    pub a: Vec<f32>,
    /// B, `[out, rank]`.
    pub b: Vec<f32>,
    /// Norms that the rows of `W + (alpha / rank) B A` are given, `[out]` (DoRA); without, they have what they have.
    pub magnitude: Option<Vec<f32>>,
}

/// Rank and alpha of one projection.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ModuleScale {
    /// Rank.
    pub rank: usize,
    /// Alpha; the scale is alpha / rank.
    pub alpha: f64,
}

/// One LoRA adapter.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraAdapter {
    /// Rank, where `own` says no other.
    pub rank: usize,
    /// Alpha, where `own` says no other; the scale is alpha / rank. An rsLoRA folder (alpha / sqrt(rank)) is read with its alpha times
    /// sqrt(rank).
    pub alpha: f64,
    /// Ranks and alphas of projections that have others (`rank_pattern` and `alpha_pattern`).
    pub own: BTreeMap<(usize, Projection), ModuleScale>,
    /// Dropout on the input during training.
    pub dropout: f64,
    /// Name or path of the base model.
    pub base_model: String,
    /// Factors by (layer, projection).
    pub weights: BTreeMap<(usize, Projection), LoraWeights>,
}

impl LoraAdapter {
    /// The adapted projections.
    pub fn targets(&self) -> Vec<Projection> {
        Projection::ALL.into_iter().filter(|wanted| self.weights.keys().any(|(_, found)| found == wanted)).collect()
    }

    /// Rank and alpha at `site`.
    pub fn scale_of(&self, site: (usize, Projection)) -> ModuleScale {
        self.own.get(&site).copied().unwrap_or(ModuleScale { rank: self.rank, alpha: self.alpha })
    }

    /// Rank at `site`.
    pub fn rank_of(&self, site: (usize, Projection)) -> usize {
        self.scale_of(site).rank
    }

    /// What `B A` is multiplied by at `site`.
    pub fn factor_of(&self, site: (usize, Projection)) -> f64 {
        let ModuleScale { rank, alpha } = self.scale_of(site);
        alpha / rank as f64
    }

    /// Smallest and largest rank; zeros for an adapter of nothing.
    pub fn ranks(&self) -> (usize, usize) {
        let ranks = || self.weights.keys().map(|site| self.rank_of(*site));
        (ranks().min().unwrap_or(0), ranks().max().unwrap_or(0))
    }

    /// Numbers that were trained.
    pub fn parameters(&self) -> u64 {
        let count =
            |weights: &LoraWeights| weights.a.len() + weights.b.len() + weights.magnitude.as_ref().map_or(0, Vec::len);
        self.weights.values().map(|weights| count(weights) as u64).sum()
    }

    /// Writes `adapter_config.json` and `adapter_model.safetensors` into `directory`, which is made if needed.
    pub fn write(&self, directory: &Path, model: &ModelConfig) -> Result<(), PeftError> {
        let mut map = TensorMap::new();
        for ((layer, projection), weights) in &self.weights {
            let (inputs, outputs) = projection.features(model);
            let rank = self.rank_of((*layer, *projection));
            let [a, b] = names::factors(*layer, *projection);
            map.insert(a, NamedTensor::f32([rank, inputs], weights.a.clone()));
            map.insert(b, NamedTensor::f32([outputs, rank], weights.b.clone()));
            if let Some(magnitude) = &weights.magnitude {
                map.insert(names::magnitude(*layer, *projection), NamedTensor::f32([outputs], magnitude.clone()));
            }
        }
        tensors::write_with_metadata(&directory.join(WEIGHTS), &map, &[("format", "pt")])?;
        let pattern = |number: fn(&ModuleScale) -> Value| -> Map<String, Value> {
            let entries = self.own.iter().filter(|(site, _)| self.weights.contains_key(site));
            entries.map(|((layer, projection), own)| (projection.module(*layer), number(own))).collect()
        };
        Config::write(
            directory,
            json!({
                "peft_type": "LORA",
                "task_type": "CAUSAL_LM",
                "base_model_name_or_path": self.base_model,
                "inference_mode": true,
                "r": self.rank,
                "lora_alpha": self.alpha,
                "lora_dropout": self.dropout,
                "target_modules": self.target_names(model),
                "bias": "none",
                "fan_in_fan_out": false,
                "init_lora_weights": true,
                "use_rslora": false,
                "use_dora": self.weights.values().any(|weights| weights.magnitude.is_some()),
                "modules_to_save": null,
                "rank_pattern": pattern(|own| json!(own.rank)),
                "alpha_pattern": pattern(|own| json!(own.alpha)),
            }),
        )
    }

    /// Names of projections when every layer has the same ones, else full paths.
    fn target_names(&self, model: &ModelConfig) -> Vec<String> {
        let targets = self.targets();
        if self.weights.len() == targets.len() * model.num_hidden_layers {
            return targets.into_iter().map(|target| target.name().to_owned()).collect();
        }
        self.weights.keys().map(|(layer, projection)| projection.module(*layer)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::CONFIG;
    use super::super::tests::model;
    use super::*;

    fn adapter() -> LoraAdapter {
        let model = model();
        let mut weights = BTreeMap::new();
        for layer in 0..2 {
            for projection in [Projection::QProj, Projection::DownProj] {
                let (inputs, outputs) = projection.features(&model);
                let numbers = |count: usize| (0..count).map(|n| n as f32 * 0.5).collect::<Vec<_>>();
                weights.insert(
                    (layer, projection),
                    LoraWeights { a: numbers(2 * inputs), b: numbers(outputs * 2), magnitude: None },
                );
            }
        }
        LoraAdapter { rank: 2, alpha: 4.0, own: BTreeMap::new(), dropout: 0.0, base_model: "tiny".to_owned(), weights }
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        adapter().write(folder.path(), &model()).unwrap();
        assert_eq!(LoraAdapter::read(folder.path(), &model()).unwrap(), adapter());
        let names: Vec<String> = tensors::read(&folder.path().join(WEIGHTS)).unwrap().into_keys().collect();
        insta::assert_snapshot!(names[..4].join("\n"), @"
base_model.model.model.layers.0.mlp.down_proj.lora_A.weight
base_model.model.model.layers.0.mlp.down_proj.lora_B.weight
base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight
base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight
");
        insta::assert_snapshot!(std::fs::read_to_string(folder.path().join(CONFIG)).unwrap(), @r#"
{
  "peft_type": "LORA",
  "task_type": "CAUSAL_LM",
  "base_model_name_or_path": "tiny",
  "inference_mode": true,
  "r": 2,
  "lora_alpha": 4.0,
  "lora_dropout": 0.0,
  "target_modules": [
    "q_proj",
    "down_proj"
  ],
  "bias": "none",
  "fan_in_fan_out": false,
  "init_lora_weights": true,
  "use_rslora": false,
  "use_dora": false,
  "modules_to_save": null,
  "rank_pattern": {},
  "alpha_pattern": {}
}
"#);
    }

    #[test]
    fn magnitudes_are_those_of_dora() {
        let folder = tempfile::tempdir().unwrap();
        let mut adapter = adapter();
        for ((_, projection), weights) in &mut adapter.weights {
            weights.magnitude = Some((0..projection.features(&model()).1).map(|n| n as f32).collect());
        }
        adapter.write(folder.path(), &model()).unwrap();
        assert_eq!(LoraAdapter::read(folder.path(), &model()).unwrap(), adapter);
        let names: Vec<String> = tensors::read(&folder.path().join(WEIGHTS)).unwrap().into_keys().collect();
        assert!(names.contains(&"base_model.model.model.layers.0.mlp.down_proj.lora_magnitude_vector".to_owned()));
    }

    #[test]
    fn rank_stabilised_scale_becomes_alpha() {
        let folder = tempfile::tempdir().unwrap();
        adapter().write(folder.path(), &model()).unwrap();
        change(folder.path(), |config| config["use_rslora"] = json!(true));
        let read = LoraAdapter::read(folder.path(), &model()).unwrap();
        assert!((read.alpha / 2.0 - 4.0 / 2f64.sqrt()).abs() < 1e-12);
    }

    fn change(folder: &Path, edit: impl Fn(&mut Value)) {
        let path = folder.join(CONFIG);
        let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        edit(&mut config);
        std::fs::write(&path, config.to_string()).unwrap();
    }
}
