//! The `[search]` table as a search space, and points of it as settings.

use super::conditional;
use anyhow::Context;
use pemlc_study::{Condition, Distribution, Parameter, RandomSampler, Space};
use pemlc_trainer::config::RunConfig;
use serde_json::Value;
use std::collections::BTreeMap;

/// The `[search]` table as a space; without one, what matters to any method.
pub(super) fn space(config: &RunConfig) -> anyhow::Result<Space> {
    let parameters = if config.search.is_empty() { default() } else { conditional::parameters(&config.search)? };
    Space::new(parameters).context("[search]")
}

fn default() -> Vec<Parameter> {
    let parameter = |name: &str, distribution| Parameter { name: name.to_owned(), distribution, condition: None };
    let rate = |low, high| Distribution::Float { low, high, log: true };
    vec![
        parameter("lora.rank", Distribution::Categorical { choices: [4, 8, 16, 32].map(Value::from).to_vec() }),
        parameter("lora.dropout", Distribution::Float { low: 0.0, high: 0.1, log: false }),
        parameter("training.learning_rate", rate(1e-5, 3e-3)),
        parameter("training.prefix_learning_rate", rate(1e-3, 3e-2)),
    ]
}

/// A few points of the space such that every parameter is in one of them.
pub(super) fn examples(space: &Space, seed: u64) -> Vec<BTreeMap<String, f64>> {
    let condition_of = |name: &str| {
        let parameter = space.parameters().iter().find(|parameter| parameter.name == name);
        parameter.and_then(|parameter| parameter.condition.as_ref())
    };
    let groups = space.groups().into_iter().zip(0..).map(|(group, number)| {
        let mut given = BTreeMap::new();
        let mut condition = group[0].condition.as_ref();
        while let Some(Condition { parent, choice }) = condition {
            given.insert(parent.clone(), *choice as f64);
            condition = condition_of(parent);
        }
        RandomSampler { seed }.complete(space, number, given)
    });
    groups.collect()
}

/// `key=value` for each parameter that `values` has, as `--set` takes it.
pub(super) fn settings(space: &Space, values: &BTreeMap<String, f64>) -> Vec<String> {
    let set = space.parameters().iter().filter_map(|parameter| {
        let value = *values.get(&parameter.name)?;
        Some(format!("{}={}", parameter.name, written(&parameter.distribution, value)))
    });
    set.collect()
}

/// A parameter's value as TOML.
pub(super) fn written(distribution: &Distribution, value: f64) -> String {
    match distribution {
        Distribution::Float { .. } => format!("{value:?}"),
        Distribution::Int { .. } => format!("{}", value.round() as i64),
        Distribution::Categorical { choices } => choices.get(value as usize).map_or_else(String::new, Value::to_string),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_written_as_toml() {
        let choices = vec![json!("shared"), json!(true)];
        assert_eq!(written(&Distribution::Categorical { choices: choices.clone() }, 0.0), "\"shared\"");
        assert_eq!(written(&Distribution::Categorical { choices }, 1.0), "true");
        assert_eq!(written(&Distribution::Float { low: 0.0, high: 1.0, log: false }, 1e-5), "1e-5");
        assert_eq!(written(&Distribution::Int { low: 1, high: 9, step: 1, log: false }, 4.0), "4");
    }
}
