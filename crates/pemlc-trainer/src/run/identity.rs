//! What a run must not change when it is resumed: settings, base model, data.

use crate::config::RunConfig;
use pemlc_artifact::hash::{FileHash, hash_bytes};
use pemlc_data::TaskSet;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The identity of a run. Settings that do not touch what is trained are left out.
pub(crate) fn of(config: &RunConfig, base: &[FileHash], tasks: &TaskSet, device: &str) -> Value {
    let mut settings = serde_json::to_value(config).unwrap_or_default();
    for (section, key) in [("", "model"), ("", "output"), ("", "evaluation"), ("training", "checkpoint_every")] {
        let table = if section.is_empty() { Some(&mut settings) } else { settings.get_mut(section) };
        if let Some(table) = table.and_then(Value::as_object_mut) {
            table.remove(key);
        }
    }
    for task in settings.get_mut("tasks").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(task) = task.as_object_mut() {
            // The data itself counts, wherever it lies.
            task.remove("train");
            task.remove("validation");
            task.remove("validation_limit");
        }
    }
    let data: BTreeMap<&str, String> = tasks
        .tasks
        .iter()
        .map(|task| {
            let mut bytes = Vec::new();
            for example in &task.train {
                let answer = example.answers.get(example.gold).map(Vec::as_slice).unwrap_or_default();
                for tokens in [&example.prompt, answer] {
                    bytes.extend((tokens.len() as u64).to_le_bytes());
                    bytes.extend(tokens.iter().flat_map(|token| token.to_le_bytes()));
                }
            }
            (task.name.as_str(), hash_bytes(&bytes))
        })
        .collect();
    let base: BTreeMap<&str, &str> = base.iter().map(|file| (file.path.as_str(), file.sha256.as_str())).collect();
    // CPU and CUDA round differently, but any two CUDA devices of one kind do not.
    let device = device.split(':').next().unwrap_or_default();
    json!({ "settings": settings, "base model": base, "training data": data, "device": device })
}

/// Where two identities differ, one line a key; `None` when they do not.
pub(crate) fn difference(then: &Value, now: &Value) -> Option<String> {
    let mut lines = Vec::new();
    compare("", then, now, &mut lines);
    (!lines.is_empty()).then(|| lines.join("\n"))
}

fn compare(path: &str, then: &Value, now: &Value, lines: &mut Vec<String>) {
    match (then, now) {
        (Value::Object(left), Value::Object(right)) => {
            let keys: std::collections::BTreeSet<&String> = left.keys().chain(right.keys()).collect();
            for key in keys {
                let path = if path.is_empty() || path == "settings" { key.clone() } else { format!("{path}.{key}") };
                compare(&path, left.get(key).unwrap_or(&Value::Null), right.get(key).unwrap_or(&Value::Null), lines);
            }
        }
        (Value::Array(left), Value::Array(right)) if left.len() == right.len() => {
            for (index, (left, right)) in left.iter().zip(right).enumerate() {
                compare(&format!("{path}.{index}"), left, right, lines);
            }
        }
        _ if then == now => {}
        _ => lines.push(format!("  {path}: {then} then, {now} now")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_name_their_keys() {
        let then = json!({"settings": {"seed": 1, "lora": {"targets": ["a", "b"]}}, "base model": {"f": "1"}});
        let now = json!({"settings": {"seed": 2, "lora": {"targets": ["a", "c"]}}, "base model": {}});
        insta::assert_snapshot!(difference(&then, &now).unwrap(), @r#"
  base model.f: "1" then, null now
  lora.targets.1: "b" then, "c" now
  seed: 1 then, 2 now
"#);
        assert_eq!(difference(&then, &then), None);
    }
}
