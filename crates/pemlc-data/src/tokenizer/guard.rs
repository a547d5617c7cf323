//! What a `tokenizer.json` must not ask for: patterns that take gigabytes compiled, and parts that each make a text longer, so that a few of
//! them make gigabytes of a line. The crate that runs them has no bounds of its own.

use serde::Deserialize;
use serde_json::Value;

/// Largest sum of all patterns' costs. Published tokenizers stay below a third of it.
const MOST_COST: f64 = 16_384.0;
/// How many times longer a text may become. Published tokenizers stay below a hundredth of it.
const MOST_GROWTH: f64 = 100_000.0;

/// The parts that hold patterns or change text; the vocabulary is stepped over.
#[derive(Deserialize)]
struct Parts {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    decoder: Value,
}

/// Refuses the text of a `tokenizer.json` whose cost is out of proportion, in words.
pub(super) fn check(json: &str) -> Result<(), String> {
    let parts: Parts = serde_json::from_str(json).map_err(|error| error.to_string())?;
    let encoding = growth(&parts.normalizer) * growth(&parts.pre_tokenizer);
    for (name, growth) in [("normalizer and pre_tokenizer", encoding), ("decoder", growth(&parts.decoder))] {
        if growth > MOST_GROWTH {
            return Err(format!(
                "its {name} could make a text {growth:.0e} times longer, at most {MOST_GROWTH:.0e} allowed"
            ));
        }
    }
    let cost = [&parts.normalizer, &parts.pre_tokenizer, &parts.decoder].map(patterns_cost).iter().sum::<f64>();
    if cost > MOST_COST {
        return Err(format!(
            "its patterns have a cost of {cost:.0}, at most {MOST_COST:.0} allowed: they are long, or repeat parts often"
        ));
    }
    Ok(())
}

/// An upper bound of how many times longer `part` makes a text.
fn growth(part: &Value) -> f64 {
    let inner: f64 = match part {
        Value::Array(parts) => parts.iter().map(growth).product(),
        Value::Object(fields) => fields.values().map(growth).product(),
        _ => 1.0,
    };
    let own = match part.get("type").and_then(Value::as_str) {
        // Where nothing is matched, the content is put between all characters.
        Some("Replace") => 1.0 + part.get("content").and_then(Value::as_str).map_or(0, str::len) as f64,
        // A byte becomes a character of two bytes at most, a space one of three.
        Some("ByteLevel") => 2.0,
        Some("Metaspace") => 4.0,
        // A character becomes what its table says: in published ones a few others.
        Some("Precompiled") => 64.0,
        _ => 1.0,
    };
    inner * own
}

/// Sum of the costs of the patterns in `part`.
fn patterns_cost(part: &Value) -> f64 {
    match part {
        Value::Array(parts) => parts.iter().map(patterns_cost).sum(),
        Value::Object(fields) => {
            let of_field = |(name, value): (&String, &Value)| match value {
                Value::String(pattern) if name == "Regex" => cost(pattern),
                other => patterns_cost(other),
            };
            fields.iter().map(of_field).sum()
        }
        _ => 0.0,
    }
}

/// Length of `pattern` if every counted repetition were written out, each inside the one before: what a compiled pattern grows with.
fn cost(pattern: &str) -> f64 {
    let counts = pattern.split('{').skip(1).filter_map(|rest| rest.split_once('}')).map(|(count, _)| {
        let (least, most) = count.split_once(',').unwrap_or((count, count));
        let number = if most.trim().is_empty() { least } else { most };
        // Not a number: the name of a class, as in \p{L}.
        number.trim().parse::<f64>().map_or(1.0, |number| number.max(1.0))
    });
    pattern.len() as f64 * counts.product::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn counted_repetitions_multiply() {
        assert_eq!(cost(r"\p{L}+"), 6.0);
        assert_eq!(cost(r"\p{N}{1,3}"), 30.0);
        assert_eq!(cost("a{2}b{3,}"), 54.0);
        assert_eq!(cost("a{99999999999999999999999}"), 26.0 * 1e23);
    }

    #[test]
    fn parts_multiply_too() {
        let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"});
        let sequence = json!({"type": "Sequence", "normalizers": [replace, {"type": "NFC"}, replace]});
        assert_eq!(growth(&sequence), 16.0);
        assert_eq!(growth(&Value::Null), 1.0);
    }
}
