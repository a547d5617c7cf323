//! `--set key=value`: changes to the run file, checked against the keys that it may have.

use anyhow::{Context, anyhow, bail};
use serde_json::Value as Json;
use toml::{Table, Value};

/// Applies every `KEY=VALUE` of `overrides` to `table`. `schema` is the run file's JSON Schema.
///
/// # Errors
/// When an override is not of the form `KEY=VALUE`, or KEY is no key of the run file; the nearest valid keys are named.
pub(crate) fn apply(table: &mut Table, overrides: &[String], schema: &Json) -> anyhow::Result<()> {
    for text in overrides {
        let (key, value) = text.split_once('=').with_context(|| format!("--set {text}: expected KEY=VALUE"))?;
        let key = key.trim();
        check_key(key, schema)?;
        let path: Vec<&str> = key.split('.').collect();
        let root = table.clone();
        let mut root = Value::Table(root);
        insert(&mut root, &path, parse(value.trim())).with_context(|| format!("--set {text}"))?;
        if let Value::Table(changed) = root {
            *table = changed;
        }
    }
    Ok(())
}

/// VALUE as TOML; what is no TOML is a string, so that `method=lora` needs no quotes that the shell would eat.
fn parse(text: &str) -> Value {
    toml::from_str::<Table>(&format!("value = {text}"))
        .ok()
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

fn insert(target: &mut Value, path: &[&str], value: Value) -> anyhow::Result<()> {
    let Some((first, rest)) = path.split_first() else {
        *target = value;
        return Ok(());
    };
    match target {
        Value::Table(table) => insert(table.entry(*first).or_insert_with(|| Value::Table(Table::new())), rest, value),
        Value::Array(items) => {
            let count = items.len();
            let item = first.parse::<usize>().ok().and_then(|index| items.get_mut(index));
            insert(item.ok_or_else(|| anyhow!("`{first}` is no index into a list of {count}"))?, rest, value)
        }
        other => bail!("`{first}`: the value above it is a {}, not a table", other.type_str()),
    }
}

fn check_key(key: &str, schema: &Json) -> anyhow::Result<()> {
    let pattern: Vec<&str> =
        key.split('.').map(|part| if part.chars().all(|c| c.is_ascii_digit()) { "N" } else { part }).collect();
    let pattern = pattern.join(".");
    let mut keys = Vec::new();
    collect_keys(schema, schema, "", 0, &mut keys);
    if keys.contains(&pattern) {
        return Ok(());
    }
    let mut near: Vec<(usize, &String)> = keys.iter().map(|known| (distance(&pattern, known), known)).collect();
    near.sort();
    let names: Vec<String> = near.iter().take(3).map(|(_, name)| format!("`{name}`")).collect();
    bail!("--set {key}: the run file has no key `{key}`; near: {}", names.join(", "))
}

/// Every dotted key that `schema` allows; `N` stands for an index into a list.
fn collect_keys(root: &Json, schema: &Json, prefix: &str, depth: usize, keys: &mut Vec<String>) {
    // Types that hold themselves would never end.
    if depth > 16 {
        return;
    }
    if let Some(name) = schema.get("$ref").and_then(Json::as_str).and_then(|path| path.strip_prefix("#/$defs/"))
        && let Some(definition) = root.get("$defs").and_then(|definitions| definitions.get(name))
    {
        collect_keys(root, definition, prefix, depth + 1, keys);
    }
    for combination in ["anyOf", "oneOf", "allOf"] {
        for part in schema.get(combination).and_then(Json::as_array).into_iter().flatten() {
            collect_keys(root, part, prefix, depth + 1, keys);
        }
    }
    let mut below = |name: &str, part: &Json| {
        let key = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
        if !keys.contains(&key) {
            keys.push(key.clone());
        }
        collect_keys(root, part, &key, depth + 1, keys);
    };
    for (name, part) in schema.get("properties").and_then(Json::as_object).into_iter().flatten() {
        below(name, part);
    }
    if let Some(items) = schema.get("items") {
        below("N", items);
    }
}

/// Levenshtein distance in characters.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut next = vec![i + 1];
        for ((b, pair), previous) in right.iter().zip(row.windows(2)).zip(0..) {
            let left_cell: usize = next.get(previous).copied().unwrap_or(i);
            let (diagonal, above) = (pair.first().copied().unwrap_or(0), pair.last().copied().unwrap_or(0));
            next.push((diagonal + usize::from(a != *b)).min(above + 1).min(left_cell + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema() -> Json {
        json!({
            "properties": {
                "method": {"type": "string"},
                "training": {"$ref": "#/$defs/Training"},
                "tasks": {"type": "array", "items": {"properties": {"name": {"type": "string"}}}},
            },
            "$defs": {"Training": {"properties": {"steps": {}, "learning_rate": {}}}},
        })
    }

    fn set(text: &str, overrides: &[&str]) -> Result<String, String> {
        let mut table: Table = toml::from_str(text).map_err(|error| error.to_string())?;
        let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
        apply(&mut table, &overrides, &schema()).map_err(|error| format!("{error:#}"))?;
        toml::to_string(&table).map_err(|error| error.to_string())
    }

    #[test]
    fn values_are_toml_or_else_strings() {
        let text = "method = 'peml'\n[[tasks]]\nname = 'a'\n[[tasks]]\nname = 'b'\n";
        let overrides = ["training.steps=50", "training.learning_rate=1e-3", "method=lora", "tasks.1.name='c d'"];
        insta::assert_snapshot!(set(text, &overrides).unwrap_or_else(|error| error), @r#"
        method = "lora"

        [[tasks]]
        name = "a"

        [[tasks]]
        name = "c d"

        [training]
        learning_rate = 0.001
        steps = 50
        "#);
    }

    #[test]
    fn a_wrong_key_names_the_nearest() {
        insta::assert_snapshot!(set("", &["training.step=50"]).unwrap_err(), @"--set training.step: the run file has no key `training.step`; near: `training.steps`, `training`, `tasks`");
        insta::assert_snapshot!(set("", &["training.steps"]).unwrap_err(), @"--set training.steps: expected KEY=VALUE");
        insta::assert_snapshot!(set("[[tasks]]\nname = 'a'", &["tasks.3.name=x"]).unwrap_err(), @"--set tasks.3.name=x: `3` is no index into a list of 1");
    }

    #[test]
    fn distances_are_levenshtein() {
        assert_eq!([distance("kitten", "sitting"), distance("", "abc"), distance("same", "same")], [3, 3, 0]);
    }
}
