//! Dimensions of `[search]` as parameters: those that exist only under a choice of another stand behind it.

use anyhow::{Context, bail};
use pemlc_study::{Condition, Distribution, Parameter};
use pemlc_trainer::config::{Choice, Dimension};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The parameters, by name as far as conditions allow.
pub(super) fn parameters(search: &BTreeMap<String, Dimension>) -> anyhow::Result<Vec<Parameter>> {
    let mut open: Vec<Parameter> = Vec::new();
    for (name, dimension) in search {
        let condition = condition(search, dimension).with_context(|| format!("[search] `{name}`"))?;
        open.push(Parameter { name: name.clone(), distribution: distribution(dimension), condition });
    }
    let mut placed: Vec<Parameter> = Vec::new();
    while !open.is_empty() {
        let ready = |parameter: &Parameter| match &parameter.condition {
            None => true,
            Some(Condition { parent, .. }) => placed.iter().any(|earlier| earlier.name == *parent),
        };
        let Some(next) = open.iter().position(ready) else {
            let names: Vec<String> = open.iter().map(|parameter| format!("`{}`", parameter.name)).collect();
            bail!("[search]: {} exist only under each other: remove one `when`", names.join(", "));
        };
        placed.push(open.remove(next));
    }
    Ok(placed)
}

fn condition(search: &BTreeMap<String, Dimension>, dimension: &Dimension) -> anyhow::Result<Option<Condition>> {
    let mut when = dimension.when().iter();
    let (Some((parent, value)), rest) = (when.next(), when.len()) else { return Ok(None) };
    if rest > 0 {
        bail!("`when` names {} keys, expected one", rest + 1);
    }
    let Some(of) = search.get(parent) else {
        bail!("`when` names `{parent}`, which [search] does not vary: give it choices there, or remove `when`");
    };
    let Dimension::Choices { choices, .. } = of else {
        bail!("`when` names `{parent}`, which is a range, expected a key with choices");
    };
    let Some(choice) = choices.iter().position(|choice| choice == value) else {
        let choices: Vec<String> = choices.iter().map(|choice| json(choice).to_string()).collect();
        bail!("`when` asks for `{parent}` = {}, expected one of its choices: {}", json(value), choices.join(", "));
    };
    Ok(Some(Condition { parent: parent.clone(), choice }))
}

fn distribution(dimension: &Dimension) -> Distribution {
    match dimension {
        Dimension::Choices { choices, .. } => Distribution::Categorical { choices: choices.iter().map(json).collect() },
        Dimension::Integers { low, high, step, log, .. } => {
            Distribution::Int { low: *low, high: *high, step: *step, log: *log }
        }
        Dimension::Numbers { low, high, log, .. } => Distribution::Float { low: *low, high: *high, log: *log },
    }
}

fn json(choice: &Choice) -> Value {
    match choice {
        Choice::Truth(value) => json!(value),
        Choice::Integer(value) => json!(value),
        Choice::Number(value) => json!(value),
        Choice::Text(value) => json!(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Vec<Parameter>, String> {
        let search = toml::from_str(text).map_err(|error| error.to_string())?;
        parameters(&search).map_err(|error| format!("{error:#}"))
    }

    const METHOD: &str = r#""method" = { choices = ["lora", "peml"] }"#;

    #[test]
    fn parents_stand_before_what_depends_on_them() {
        let text = r#"
            "a" = { low = 1, high = 4, when = { "b" = 16 } }
            "b" = { choices = [8, 16], when = { method = "peml" } }
            "c" = { low = 0.0, high = 0.1 }
        "#;
        let found = of(&format!("{text}\n{METHOD}")).expect("a space");
        let names: Vec<&str> = found.iter().map(|parameter| parameter.name.as_str()).collect();
        assert_eq!(names, ["c", "method", "b", "a"]);
        let condition = Condition { parent: "method".to_owned(), choice: 1 };
        assert_eq!(found[2].condition.as_ref(), Some(&condition));
    }

    #[test]
    fn what_can_never_be_is_refused() {
        let cases = [
            (
                "'a' = { low = 1, high = 4, when = { seed = 3 } }",
                "[search] `a`: `when` names `seed`, which [search] does not vary",
            ),
            (
                "'a' = { low = 1, high = 4, when = { method = 'pmel' } }",
                "`method` = \"pmel\", expected one of its choices: \"lora\", \"peml\"",
            ),
            (
                "'a' = { low = 1, high = 4 }\n'b' = { choices = [1], when = { a = 1 } }",
                "[search] `b`: `when` names `a`, which is a range",
            ),
            ("'a' = { low = 1, high = 4, when = { method = 'lora', b = 2 } }", "`when` names 2 keys, expected one"),
            (
                "'a' = { choices = [1], when = { b = 1 } }\n'b' = { choices = [1], when = { a = 1 } }",
                "`a`, `b` exist only under each other",
            ),
        ];
        for (text, expected) in cases {
            let error = of(&format!("{text}\n{METHOD}")).expect_err("no space");
            assert!(error.contains(expected), "{error}");
        }
    }
}
