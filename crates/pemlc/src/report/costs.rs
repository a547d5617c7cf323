//! What the run cost.

use super::material::Material;
use crate::table::{bytes, count, seconds};

pub(super) fn section(material: &Material) -> String {
    let costs = &material.run.costs;
    let busy = costs.search_seconds + costs.training_seconds + costs.retraining_seconds;
    let speed = if busy > 0.0 { format!("{:.0} tokens/s", costs.tokens as f64 / busy) } else { "-".to_owned() };
    let mut facts = vec![
        ("Search", seconds(costs.search_seconds)),
        ("Training after search", seconds(costs.training_seconds)),
        ("Retraining", seconds(costs.retraining_seconds)),
        ("Evaluation", seconds(costs.evaluation_seconds)),
        ("Accelerator", seconds(costs.device_seconds)),
        ("Tokens, forward and backward", count(costs.tokens)),
        ("Tokens, forward alone", count(costs.evaluation_tokens)),
        ("Speed", speed),
        ("Peak memory", bytes(costs.peak_memory_bytes)),
    ];
    if let Some(relative) = costs.relative_to_lora {
        facts.push(("Cost over plain LoRA's", format!("{relative:.2}x")));
    }
    if let Some(artifact) = &material.artifact {
        facts.push(("Artifact", bytes(artifact.files.iter().map(|file| file.bytes).sum())));
    }
    let list: String =
        facts.iter().map(|(name, value)| format!("<div><dt>{name}</dt><dd>{value}</dd></div>\n")).collect();
    format!("<dl>\n{list}</dl>\n")
}
