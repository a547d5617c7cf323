//! LoRA folders.

use super::{CONFIG, Config, PeftError, WEIGHTS};
use crate::config::{ModelConfig, Projection};
use crate::tensors::{self, NamedTensor, Taking, TensorMap};
use serde_json::{Value, json};
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

/// One LoRA adapter.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraAdapter {
    /// Rank.
    pub rank: usize,
    /// Alpha; the scale is alpha / rank. An rsLoRA folder (alpha / sqrt(rank)) is read with its alpha times sqrt(rank).
    pub alpha: f64,
    /// Dropout on the input during training.
    pub dropout: f64,
    /// Name or path of the base model.
    pub base_model: String,
    /// Factors by (layer, projection).
    pub weights: BTreeMap<(usize, Projection), LoraWeights>,
}

/// Options of PEFT's LoRA that change the arithmetic beyond `(alpha / rank) B A` on the seven projections.
const REFUSED: [&str; 14] = [
    "use_qalora",
    "use_bdlora",
    "fan_in_fan_out",
    "lora_bias",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
];

impl LoraAdapter {
    /// The adapted projections.
    pub fn targets(&self) -> Vec<Projection> {
        Projection::ALL.into_iter().filter(|wanted| self.weights.keys().any(|(_, found)| found == wanted)).collect()
    }

    /// Writes `adapter_config.json` and `adapter_model.safetensors` into `directory`, which is made if needed.
    pub fn write(&self, directory: &Path, model: &ModelConfig) -> Result<(), PeftError> {
        let mut map = TensorMap::new();
        for ((layer, projection), weights) in &self.weights {
            let (inputs, outputs) = projection.features(model);
            let [a, b] = names(*layer, *projection);
            map.insert(a, NamedTensor::f32([self.rank, inputs], weights.a.clone()));
            map.insert(b, NamedTensor::f32([outputs, self.rank], weights.b.clone()));
            if let Some(magnitude) = &weights.magnitude {
                map.insert(magnitude_name(*layer, *projection), NamedTensor::f32([outputs], magnitude.clone()));
            }
        }
        tensors::write_with_metadata(&directory.join(WEIGHTS), &map, &[("format", "pt")])?;
        let targets: Vec<&str> = self.targets().into_iter().map(Projection::name).collect();
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
                "target_modules": targets,
                "bias": "none",
                "fan_in_fan_out": false,
                "init_lora_weights": true,
                "use_rslora": false,
                "use_dora": self.weights.values().any(|weights| weights.magnitude.is_some()),
                "modules_to_save": null,
                "rank_pattern": {},
                "alpha_pattern": {},
            }),
        )
    }

    /// Reads `directory`, an adapter of `model`. Every tensor must belong to one of the seven projections of a layer, and every
    /// target module must have some.
    pub fn read(directory: &Path, model: &ModelConfig) -> Result<Self, PeftError> {
        let config = Config::read(directory, "LORA")?;
        config.refuse(&REFUSED)?;
        if let Some(bias) = config.text("bias")
            && bias != "none"
        {
            return Err(PeftError::unsupported(&config.path, format!("`bias` is {bias:?}; `none` can be read")));
        }
        let rank = config.integer("r")?;
        let scale = if config.is_set("use_rslora") { (rank as f64).sqrt() } else { 1.0 };
        let has_magnitudes = config.is_set("use_dora");
        let path = directory.join(WEIGHTS);
        let mut file = Taking::open(&path)?;
        let mut weights = BTreeMap::new();
        for layer in 0..model.num_hidden_layers {
            for projection in Projection::ALL {
                let [a, b] = names(layer, projection);
                if file.tensors.contains_key(&a) || file.tensors.contains_key(&b) {
                    let (inputs, outputs) = projection.features(model);
                    let (a, b) = (file.f32(&a, &[rank, inputs])?, file.f32(&b, &[outputs, rank])?);
                    let name = magnitude_name(layer, projection);
                    let magnitude = has_magnitudes.then(|| file.f32(&name, &[outputs])).transpose()?;
                    weights.insert((layer, projection), LoraWeights { a, b, magnitude });
                }
            }
        }
        file.finish()?;
        let adapter = Self {
            rank,
            alpha: config.number("lora_alpha")? * scale,
            dropout: config.fields.get("lora_dropout").and_then(Value::as_f64).unwrap_or(0.0),
            base_model: config.text("base_model_name_or_path").unwrap_or_default().to_owned(),
            weights,
        };
        let found = adapter.targets();
        if found.is_empty() {
            return Err(PeftError::unsupported(&path, "holds no tensor: the adapter would do nothing"));
        }
        // A pattern in place of a list is not checked against the tensors.
        for target in config.fields.get("target_modules").and_then(Value::as_array).into_iter().flatten() {
            if !found.iter().any(|projection| target == projection.name()) {
                let reason = format!("`target_modules` has {target}, but {WEIGHTS} has no tensor for it");
                return Err(PeftError::unsupported(&directory.join(CONFIG), reason));
            }
        }
        Ok(adapter)
    }
}

/// Names of A and B as PEFT saves them.
fn names(layer: usize, projection: Projection) -> [String; 2] {
    let module = projection.module(layer);
    ["A", "B"].map(|factor| format!("base_model.model.{module}.lora_{factor}.weight"))
}

/// Name of DoRA's magnitudes as PEFT saves them.
fn magnitude_name(layer: usize, projection: Projection) -> String {
    format!("base_model.model.{}.lora_magnitude_vector", projection.module(layer))
}

#[cfg(test)]
mod tests {
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
        LoraAdapter { rank: 2, alpha: 4.0, dropout: 0.0, base_model: "tiny".to_owned(), weights }
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
        // Without the option they would be left out in silence.
        change(folder.path(), |config| config["use_dora"] = json!(false));
        let error = LoraAdapter::read(folder.path(), &model()).unwrap_err().to_string();
        assert!(error.contains("lora_magnitude_vector"), "{error}");
    }

    #[test]
    fn rank_stabilised_scale_becomes_alpha() {
        let folder = tempfile::tempdir().unwrap();
        adapter().write(folder.path(), &model()).unwrap();
        change(folder.path(), |config| config["use_rslora"] = json!(true));
        let read = LoraAdapter::read(folder.path(), &model()).unwrap();
        assert!((read.alpha / 2.0 - 4.0 / 2f64.sqrt()).abs() < 1e-12);
    }

    #[test]
    fn adapters_that_would_be_misread_are_refused() {
        let error = |edit: &dyn Fn(&mut Value)| {
            let folder = tempfile::tempdir().unwrap();
            adapter().write(folder.path(), &model()).unwrap();
            change(folder.path(), edit);
            let error = LoraAdapter::read(folder.path(), &model()).unwrap_err().to_string();
            error.replace(&folder.path().display().to_string(), "FOLDER")
        };
        insta::assert_snapshot!(
            [
                error(&|config| config["lora_bias"] = json!(true)),
                error(&|config| config["use_dora"] = json!(true)),
                error(&|config| config["alpha_pattern"] = json!({"q_proj": 3})),
                error(&|config| config["bias"] = json!("all")),
                error(&|config| config["r"] = json!(3)),
                error(&|config| config["peft_type"] = json!("LOHA")),
                error(&|config| config["target_modules"] = json!(["q_proj", "k_proj"])),
            ]
            .join("\n"), @r#"
FOLDER/adapter_config.json: `lora_bias` is set; adapters with it cannot be read
FOLDER/adapter_model.safetensors: tensor `base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector` is missing
FOLDER/adapter_config.json: `alpha_pattern` is set; adapters with it cannot be read
FOLDER/adapter_config.json: `bias` is "all"; `none` can be read
FOLDER/adapter_model.safetensors: tensor `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight` is f32 [2, 8], expected f32 [3, 8]
FOLDER/adapter_config.json: `peft_type` is LOHA, expected LORA
FOLDER/adapter_config.json: `target_modules` has "k_proj", but adapter_model.safetensors has no tensor for it
"#);
        let folder = tempfile::tempdir().unwrap();
        adapter().write(folder.path(), &model()).unwrap();
        let one_layer = ModelConfig { num_hidden_layers: 1, ..model() };
        assert!(LoraAdapter::read(folder.path(), &one_layer).unwrap_err().to_string().contains("layers.1"));
    }

    fn change(folder: &Path, edit: impl Fn(&mut Value)) {
        let path = folder.join(CONFIG);
        let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        edit(&mut config);
        std::fs::write(&path, config.to_string()).unwrap();
    }
}
