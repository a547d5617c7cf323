//! The `[search]` table as a search space, and points of it as settings.

use anyhow::Context;
use pemlc_study::{Condition, Distribution, Parameter, Space};
use pemlc_trainer::config::{Choice, Dimension, RunConfig};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The `[search]` table as a space; without one, what matters to any method.
pub(super) fn space(config: &RunConfig) -> anyhow::Result<Space> {
    let parameter =
        |name: &str, distribution| Parameter { name: name.to_owned(), distribution, condition: None::<Condition> };
    let parameters: Vec<Parameter> = if config.search.is_empty() {
        let rate = |low, high| Distribution::Float { low, high, log: true };
        vec![
            parameter("lora.rank", Distribution::Categorical { choices: [4, 8, 16, 32].map(Value::from).to_vec() }),
            parameter("lora.dropout", Distribution::Float { low: 0.0, high: 0.1, log: false }),
            parameter("training.learning_rate", rate(1e-5, 3e-3)),
            parameter("training.prefix_learning_rate", rate(1e-3, 3e-2)),
        ]
    } else {
        config.search.iter().map(|(name, dimension)| parameter(name, distribution(dimension))).collect()
    };
    Space::new(parameters).context("[search]")
}

fn distribution(dimension: &Dimension) -> Distribution {
    match dimension {
        Dimension::Choices { choices } => {
            let value = |choice: &Choice| match choice {
                Choice::Truth(value) => json!(value),
                Choice::Integer(value) => json!(value),
                Choice::Number(value) => json!(value),
                Choice::Text(value) => json!(value),
            };
            Distribution::Categorical { choices: choices.iter().map(value).collect() }
        }
        Dimension::Integers { low, high, step, log } => {
            Distribution::Int { low: *low, high: *high, step: *step, log: *log }
        }
        Dimension::Numbers { low, high, log } => Distribution::Float { low: *low, high: *high, log: *log },
    }
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
fn written(distribution: &Distribution, value: f64) -> String {
    match distribution {
        Distribution::Float { .. } => format!("{value:?}"),
        Distribution::Int { .. } => format!("{}", value.round() as i64),
        Distribution::Categorical { choices } => choices.get(value as usize).map_or_else(String::new, Value::to_string),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_toml() {
        let choices = vec![json!("shared"), json!(true)];
        assert_eq!(written(&Distribution::Categorical { choices: choices.clone() }, 0.0), "\"shared\"");
        assert_eq!(written(&Distribution::Categorical { choices }, 1.0), "true");
        assert_eq!(written(&Distribution::Float { low: 0.0, high: 1.0, log: false }, 1e-5), "1e-5");
        assert_eq!(written(&Distribution::Int { low: 1, high: 9, step: 1, log: false }, 4.0), "4");
    }
}
