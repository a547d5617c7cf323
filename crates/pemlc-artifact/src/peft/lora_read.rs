//! LoRA folders, read: ours, and those of others.

use super::lora::{LoraAdapter, LoraWeights, ModuleScale};
use super::names::{self, Part};
use super::targets::{Patterns, Targets};
use super::{CONFIG, Config, PeftError, WEIGHTS, listed, weights_path};
use crate::config::{ModelConfig, Projection};
use crate::tensors::{self, NamedTensor, TensorMap, Values};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Options of PEFT's LoRA that change the arithmetic beyond `(alpha / rank) B A` on the seven projections.
const REFUSED: [&str; 10] = [
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
];

/// First values of A and B that leave the base model as it is. The others (PiSSA, OLoRA, CorDA, LoftQ, ...) train beside a base model that
/// they changed.
const KNOWN_INITS: [&str; 4] = ["gaussian", "eva", "orthogonal", "true"];

type Site = (usize, Projection);

/// The tensors of one module: name and contents of each part.
type Parts = BTreeMap<Part, (String, NamedTensor)>;

impl LoraAdapter {
    /// Reads `directory`, an adapter of `model`.
    ///
    /// Every tensor must belong to one of the seven projections of a layer and fit it, every module that the configuration names must have
    /// tensors, and every module that has some must be named: whatever does not is listed.
    pub fn read(directory: &Path, model: &ModelConfig) -> Result<Self, PeftError> {
        let config = Config::read(directory, "LORA")?;
        check_options(&config)?;
        let path = weights_path(directory)?;
        let mut modules = by_module(&path, tensors::read(&path)?, model)?;
        check_targets(&config, &modules, model)?;

        let (rank, alpha) = (config.integer("r")?, config.number("lora_alpha")?);
        let (ranks, alphas) = (Patterns::read(&config, "rank_pattern")?, Patterns::read(&config, "alpha_pattern")?);
        let stabilised = config.is_set("use_rslora");
        let scale = |rank: f64, alpha: f64| if stabilised { alpha * rank.sqrt() } else { alpha };
        let default = ModuleScale { rank, alpha: scale(rank as f64, alpha) };
        let has_magnitudes = config.is_set("use_dora");
        let (mut weights, mut own, mut misfits) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        for (site, parts) in &mut modules {
            let module = site.1.module(site.0);
            let own_rank = ranks.of(&module)?.unwrap_or(rank as f64);
            if own_rank < 1.0 || own_rank.fract() != 0.0 {
                return Err(config.unsupported(&format!("`rank_pattern` gives {module} the rank {own_rank}")));
            }
            let of_module =
                ModuleScale { rank: own_rank as usize, alpha: scale(own_rank, alphas.of(&module)?.unwrap_or(alpha)) };
            let (inputs, outputs) = site.1.features(model);
            let [a, b] = names::factors(site.0, site.1);
            let mut take = |part: Part, name: String, shape: &[usize]| take(parts, part, name, shape, &mut misfits);
            let a = take(Part::A, a, &[of_module.rank, inputs]);
            let b = take(Part::B, b, &[outputs, of_module.rank]);
            let magnitude = if has_magnitudes {
                Some(take(Part::Magnitude, names::magnitude(site.0, site.1), &[outputs]))
            } else {
                None
            };
            if let Some((name, _)) = parts.remove(&Part::Magnitude) {
                misfits.push(format!("{name}: magnitudes, but `use_dora` is not set"));
            }
            if of_module != default {
                own.insert(*site, of_module);
            }
            weights.insert(*site, LoraWeights { a, b, magnitude });
        }
        if !misfits.is_empty() {
            let reason =
                format!("{} tensors do not fit {CONFIG} and the base model:{}", misfits.len(), listed(&misfits));
            return Err(PeftError::unsupported(&path, reason));
        }
        Ok(Self {
            rank: default.rank,
            alpha: default.alpha,
            own,
            dropout: config.fields.get("lora_dropout").and_then(Value::as_f64).unwrap_or(0.0),
            base_model: config.text("base_model_name_or_path").unwrap_or_default().to_owned(),
            weights,
        })
    }
}

fn check_options(config: &Config) -> Result<(), PeftError> {
    config.refuse_modules_to_save()?;
    config.refuse(&REFUSED)?;
    if let Some(bias) = config.text("bias")
        && bias != "none"
    {
        let reason = format!("`bias` is {bias:?}: trained biases of the base model cannot be read, only `none`");
        return Err(config.unsupported(&reason));
    }
    if let Some(init) = config.text("init_lora_weights")
        && !KNOWN_INITS.contains(&init.to_lowercase().as_str())
    {
        let reason = format!(
            "`init_lora_weights` is {init:?}: such an adapter belongs to a base model whose weights PEFT changed. Convert it to a plain \
             LoRA with `save_pretrained(DIR, path_initial_model_for_weight_conversion=...)`"
        );
        return Err(config.unsupported(&reason));
    }
    Ok(())
}

/// The file's tensors by module. Any that is of no module of `model` is an error that lists them.
fn by_module(path: &Path, map: TensorMap, model: &ModelConfig) -> Result<BTreeMap<Site, Parts>, PeftError> {
    let mut modules: BTreeMap<Site, Parts> = BTreeMap::new();
    let (mut strangers, mut twice) = (Vec::new(), Vec::new());
    for (name, tensor) in map {
        match names::parse(&name).filter(|(layer, ..)| *layer < model.num_hidden_layers) {
            None => strangers.push(format!("{name} {:?}", tensor.shape)),
            Some((layer, projection, part)) => {
                let parts = modules.entry((layer, projection)).or_default();
                if let Some((first, _)) = parts.insert(part, (name.clone(), tensor)) {
                    twice.push(format!("{first} and {name}"));
                }
            }
        }
    }
    let base = format!("{:?}, {} layers, {} wide", model.family, model.num_hidden_layers, model.hidden_size);
    let reason = match (modules.is_empty(), strangers.is_empty(), twice.is_empty()) {
        (true, true, _) => "holds no tensor: the adapter would do nothing".to_owned(),
        (true, false, _) => format!(
            "matches no module of the base model ({base}): none of its {} tensors belongs to one:{}",
            strangers.len(),
            listed(&strangers)
        ),
        (false, false, _) => format!(
            "{} tensors belong to no module that can be adapted (the seven projections of each layer of {base}):{}",
            strangers.len(),
            listed(&strangers)
        ),
        (false, true, false) => format!("holds several adapters; save one alone:{}", listed(&twice)),
        (false, true, true) => return Ok(modules),
    };
    Err(PeftError::unsupported(path, reason))
}

/// PEFT would start a module that has no tensors anew, and drop the tensors of one that is not named: both in silence.
fn check_targets(config: &Config, modules: &BTreeMap<Site, Parts>, model: &ModelConfig) -> Result<(), PeftError> {
    let targets = Targets::read(config)?;
    if !targets.are_said() {
        return Ok(());
    }
    let (mut empty, mut unnamed) = (Vec::new(), Vec::new());
    for layer in 0..model.num_hidden_layers {
        for projection in Projection::ALL {
            match (targets.claim(layer, projection)?, modules.contains_key(&(layer, projection))) {
                (true, false) => empty.push(projection.module(layer)),
                (false, true) => unnamed.push(projection.module(layer)),
                _ => {}
            }
        }
    }
    if !empty.is_empty() {
        let reason = format!(
            "`target_modules` names {} modules that {WEIGHTS} has no tensor for:{}",
            empty.len(),
            listed(&empty)
        );
        return Err(config.unsupported(&reason));
    }
    if !unnamed.is_empty() {
        let reason = format!(
            "{WEIGHTS} has tensors of {} modules that `target_modules` does not name, so PEFT would not use them:{}",
            unnamed.len(),
            listed(&unnamed)
        );
        return Err(config.unsupported(&reason));
    }
    Ok(())
}

/// The numbers of `part`, which must have `shape`; what is wrong with it goes into `misfits`.
fn take(parts: &mut Parts, part: Part, name: String, shape: &[usize], misfits: &mut Vec<String>) -> Vec<f32> {
    match parts.remove(&part) {
        None => misfits.push(format!("{name} is missing")),
        Some((name, tensor)) if tensor.shape != shape => {
            misfits.push(format!("{name} is {:?}, expected {shape:?}", tensor.shape));
        }
        Some((name, NamedTensor { values: Values::F32(values), .. })) => match values.iter().find(|x| !x.is_finite()) {
            None => return values,
            Some(value) => misfits.push(format!("{name} holds {value}")),
        },
        Some((name, _)) => misfits.push(format!("{name} holds integers")),
    }
    Vec::new()
}

#[cfg(test)]
mod tests;
