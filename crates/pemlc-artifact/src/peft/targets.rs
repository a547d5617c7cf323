//! Which modules an adapter's configuration names, and what it says of each: PEFT's matching rules.

use super::{Config, PeftError};
use crate::config::Projection;
use fancy_regex::{Regex, RegexBuilder};
use serde_json::Value;

/// `target_modules` and its companions.
pub(super) struct Targets<'a> {
    config: &'a Config,
    wanted: Wanted,
    excluded: Wanted,
    layers: Option<Vec<u64>>,
    /// Patterns of the containers that `layers` counts in; none stands for any.
    containers: Vec<Regex>,
}

/// A list of names, or a pattern.
enum Wanted {
    /// The configuration does not say.
    Unsaid,
    /// Full paths of modules or the ends of them.
    Names(Vec<String>),
    /// Matches the whole path.
    Pattern(Regex),
    /// `all-linear`: every linear layer except the output head.
    AllLinear,
}

impl<'a> Targets<'a> {
    pub(super) fn read(config: &'a Config) -> Result<Self, PeftError> {
        let layers = match config.fields.get("layers_to_transform") {
            None | Some(Value::Null) => None,
            Some(Value::Number(number)) => Some(vec![
                number
                    .as_u64()
                    .ok_or_else(|| config.unsupported("`layers_to_transform` is not the number of a layer"))?,
            ]),
            Some(Value::Array(values)) if values.is_empty() => None,
            Some(Value::Array(values)) => {
                Some(values.iter().map(Value::as_u64).collect::<Option<_>>().ok_or_else(|| {
                    config.unsupported("`layers_to_transform` holds something that is no layer's number")
                })?)
            }
            Some(_) => {
                return Err(config.unsupported("`layers_to_transform` is neither a number nor a list of numbers"));
            }
        };
        let containers = match config.fields.get("layers_pattern") {
            Some(Value::String(pattern)) if !pattern.is_empty() => vec![pattern.clone()],
            Some(Value::Array(patterns)) => patterns.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            _ => Vec::new(),
        };
        let containers = containers
            .iter()
            .map(|pattern| compile(config, "layers_pattern", &format!(r"^(?:|.*?\.)(?:{pattern})\.(\d+)\.")));
        Ok(Self {
            wanted: Wanted::read(config, "target_modules")?,
            excluded: Wanted::read(config, "exclude_modules")?,
            layers,
            containers: containers.collect::<Result<_, _>>()?,
            config,
        })
    }

    /// Whether the configuration says which modules are adapted.
    pub(super) fn are_said(&self) -> bool {
        !matches!(self.wanted, Wanted::Unsaid)
    }

    /// Whether the adapter is one of `projection` of layer `layer`.
    pub(super) fn claim(&self, layer: usize, projection: Projection) -> Result<bool, PeftError> {
        let module = projection.module(layer);
        if self.excluded.holds(self.config, "exclude_modules", &module)? {
            return Ok(false);
        }
        if !self.wanted.holds(self.config, "target_modules", &module)? {
            return Ok(false);
        }
        // PEFT asks for the layer only where the targets are a list.
        let (Wanted::Names(_), Some(layers)) = (&self.wanted, &self.layers) else { return Ok(true) };
        if self.containers.is_empty() {
            return Ok(layers.contains(&(layer as u64)));
        }
        for container in &self.containers {
            let found = container.captures(&module).map_err(|error| matching(self.config, "layers_pattern", &error))?;
            if let Some(index) = found.and_then(|found| found.get(1)) {
                return Ok(index.as_str().parse().is_ok_and(|index: u64| layers.contains(&index)));
            }
        }
        Ok(false)
    }
}

impl Wanted {
    fn read(config: &Config, key: &str) -> Result<Self, PeftError> {
        match config.fields.get(key) {
            None | Some(Value::Null) => Ok(Self::Unsaid),
            Some(Value::String(text)) if text.is_empty() => Ok(Self::Unsaid),
            Some(Value::String(text)) if text.eq_ignore_ascii_case("all-linear") => Ok(Self::AllLinear),
            Some(Value::String(pattern)) => Ok(Self::Pattern(compile(config, key, &format!("^(?:{pattern})$"))?)),
            Some(Value::Array(values)) => {
                let names: Option<Vec<String>> = values.iter().map(|value| value.as_str().map(str::to_owned)).collect();
                match names {
                    Some(names) if names.is_empty() => Ok(Self::Unsaid),
                    Some(names) if names.iter().any(|name| name.eq_ignore_ascii_case("all-linear")) => {
                        Ok(Self::AllLinear)
                    }
                    Some(names) => Ok(Self::Names(names)),
                    None => Err(config.unsupported(&format!("`{key}` holds something that is no name"))),
                }
            }
            Some(_) => Err(config.unsupported(&format!("`{key}` is neither a list of names nor a pattern"))),
        }
    }

    fn holds(&self, config: &Config, key: &str, module: &str) -> Result<bool, PeftError> {
        match self {
            Self::Unsaid => Ok(false),
            Self::AllLinear => Ok(true),
            Self::Names(names) => Ok(names.iter().any(|name| names_module(name, module))),
            Self::Pattern(pattern) => pattern.is_match(module).map_err(|error| matching(config, key, &error)),
        }
    }
}

/// Whether `name` is `module`, or the end of it from a dot on.
fn names_module(name: &str, module: &str) -> bool {
    module == name || module.strip_suffix(name).is_some_and(|front| front.ends_with('.'))
}

/// The entries of `rank_pattern` or `alpha_pattern`, in their order: the first that matches a module counts.
pub(super) struct Patterns<'a> {
    config: &'a Config,
    key: &'static str,
    entries: Vec<(Regex, f64)>,
}

impl<'a> Patterns<'a> {
    pub(super) fn read(config: &'a Config, key: &'static str) -> Result<Self, PeftError> {
        let fields = match config.fields.get(key) {
            None | Some(Value::Null) => None,
            Some(Value::Object(fields)) => Some(fields),
            Some(_) => return Err(config.unsupported(&format!("`{key}` is no table of patterns"))),
        };
        let entries = fields.into_iter().flatten().map(|(pattern, value)| {
            let value =
                value.as_f64().ok_or_else(|| config.unsupported(&format!("`{key}` has no number for {pattern:?}")))?;
            Ok((compile(config, key, &format!(r"^(?:.*\.)?(?:{pattern})$"))?, value))
        });
        Ok(Self { config, key, entries: entries.collect::<Result<_, PeftError>>()? })
    }

    /// The number for `module`, if any pattern matches it.
    pub(super) fn of(&self, module: &str) -> Result<Option<f64>, PeftError> {
        for (pattern, value) in &self.entries {
            if pattern.is_match(module).map_err(|error| matching(self.config, self.key, &error))? {
                return Ok(Some(*value));
            }
        }
        Ok(None)
    }
}

/// Longest pattern, in bytes.
const LONGEST_PATTERN: usize = 600;
/// What a part of a pattern may take compiled, in bytes; a pattern has as many parts as it has look-arounds.
const COMPILED_PART: usize = 1 << 18;
/// Steps that matching a module's path may take back: it has some fifty characters.
const STEPS: usize = 20_000;

fn compile(config: &Config, key: &str, pattern: &str) -> Result<Regex, PeftError> {
    if pattern.len() > LONGEST_PATTERN {
        let reason = format!("`{key}`: a pattern of {} bytes, at most {LONGEST_PATTERN} can be read", pattern.len());
        return Err(config.unsupported(&reason));
    }
    RegexBuilder::new(pattern)
        .delegate_size_limit(COMPILED_PART)
        .backtrack_limit(STEPS)
        .build()
        .map_err(|error| config.unsupported(&format!("`{key}`: the pattern {pattern} cannot be read: {error}")))
}

/// Matching gives up on patterns that would take forever.
fn matching(config: &Config, key: &str, error: &fancy_regex::Error) -> PeftError {
    config.unsupported(&format!("`{key}`: a pattern cannot be matched: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(fields: Value) -> Config {
        let Value::Object(fields) = fields else { panic!("an object") };
        Config { path: "adapter_config.json".into(), fields }
    }

    proptest::proptest! {
        /// A pattern matches, does not match, or is an error: whatever it is, and in bounded time.
        #[test]
        fn any_pattern(pattern in r"(\.|\*|\+|\(|\)|\(\?!|\(\?<=|\[|\]|\||\{2,9\}|\\1|[a-z_.]|\PC){0,16}") {
            let config = config(json!({"target_modules": pattern, "alpha_pattern": {pattern.clone(): 2}}));
            if let Ok(targets) = Targets::read(&config) {
                let _ = targets.claim(3, Projection::DownProj);
            }
            if let Ok(patterns) = Patterns::read(&config, "alpha_pattern") {
                let _ = patterns.of(&Projection::QProj.module(11));
            }
        }
    }

    /// The claimed modules of two layers.
    fn claimed(fields: Value) -> String {
        let config = config(fields);
        let targets = Targets::read(&config).unwrap();
        let mut names = Vec::new();
        for layer in 0..2 {
            for projection in Projection::ALL {
                if targets.claim(layer, projection).unwrap() {
                    names.push(format!("{layer}.{}", projection.name()));
                }
            }
        }
        names.join(" ")
    }

    #[test]
    fn spellings_of_targets() {
        insta::assert_snapshot!(
            [
                claimed(json!({"target_modules": ["q_proj", "mlp.up_proj"]})),
                claimed(json!({"target_modules": ["_proj"]})),
                claimed(json!({"target_modules": ["model.layers.1.self_attn.k_proj"]})),
                claimed(json!({"target_modules": r".*layers\.0\..*(q|v)_proj"})),
                claimed(json!({"target_modules": r"^(?!.*mlp).*\.[qk]_proj$", "layers_to_transform": 1})),
                claimed(json!({"target_modules": "all-linear", "exclude_modules": ["down_proj", "o_proj"]})),
                claimed(json!({"target_modules": ["q_proj"], "layers_to_transform": [1]})),
                claimed(json!({"target_modules": ["q_proj"], "layers_to_transform": 0, "layers_pattern": "layers"})),
                claimed(json!({"target_modules": ["q_proj"], "layers_to_transform": 0, "layers_pattern": ["h", "blocks"]})),
                claimed(json!({"target_modules": "q_proj"})),
            ]
            .join("\n"), @"
0.q_proj 0.up_proj 1.q_proj 1.up_proj

1.k_proj
0.q_proj 0.v_proj
0.q_proj 0.k_proj 1.q_proj 1.k_proj
0.q_proj 0.k_proj 0.v_proj 0.gate_proj 0.up_proj 1.q_proj 1.k_proj 1.v_proj 1.gate_proj 1.up_proj
1.q_proj
0.q_proj


");
    }

    #[test]
    fn the_first_pattern_counts() {
        let config = config(json!({"alpha_pattern": {"layers.0.self_attn.q_proj": 3, "q_proj": 5.5, "proj": 9}}));
        let patterns = Patterns::read(&config, "alpha_pattern").unwrap();
        let of = |layer, projection: Projection| patterns.of(&projection.module(layer)).unwrap();
        assert_eq!(of(0, Projection::QProj), Some(3.0));
        assert_eq!(of(1, Projection::QProj), Some(5.5));
        assert_eq!(of(1, Projection::KProj), None, "a pattern begins after a dot");
    }

    #[test]
    fn what_cannot_be_matched_is_an_error() {
        let error = |fields: Value| match Targets::read(&config(fields)) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("accepted"),
        };
        insta::assert_snapshot!(
            [
                error(json!({"target_modules": "(q_proj"})),
                error(json!({"target_modules": 3})),
                error(json!({"target_modules": ["q_proj", 3]})),
                error(json!({"layers_to_transform": ["first"]})),
            ].join("\n"), @"
adapter_config.json: `target_modules`: the pattern ^(?:(q_proj)$ cannot be read: Parsing error at position 13: Opening parenthesis without closing parenthesis
adapter_config.json: `target_modules` is neither a list of names nor a pattern
adapter_config.json: `target_modules` holds something that is no name
adapter_config.json: `layers_to_transform` holds something that is no layer's number
");
    }
}
