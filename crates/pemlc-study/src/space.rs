//! Search spaces.

use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What values a parameter takes.
#[derive(Debug, Clone, PartialEq)]
pub enum Distribution {
    /// A real number in `[low, high]`, uniform, or uniform in its logarithm.
    Float {
        /// Smallest.
        low: f64,
        /// Largest.
        high: f64,
        /// Whether the logarithm is what is uniform.
        log: bool,
    },
    /// An integer `low + k step <= high`; a logarithmic one has step 1.
    Int {
        /// Smallest.
        low: i64,
        /// Largest.
        high: i64,
        /// Distance of neighbours.
        step: i64,
        /// Whether the logarithm is what is uniform.
        log: bool,
    },
    /// One of some choices without order.
    Categorical {
        /// JSON scalars.
        choices: Vec<Value>,
    },
}

/// The parameter exists only where `parent` has the choice with this index.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Condition {
    /// Name of a categorical parameter that stands earlier.
    pub parent: String,
    /// Index of its choice.
    pub choice: usize,
}

/// A named distribution.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// Unique within the space.
    pub name: String,
    /// Its values.
    pub distribution: Distribution,
    /// When it exists; `None`: always.
    pub condition: Option<Condition>,
}

/// Parameters, parents before the parameters that depend on them.
#[derive(Debug, Clone, PartialEq)]
pub struct Space(Vec<Parameter>);

/// Why a space cannot be searched.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum SpaceError {
    /// Bounds, step or choices that hold no value.
    #[error("parameter `{name}`: {reason}")]
    Parameter {
        /// Which.
        name: String,
        /// What is wrong.
        reason: &'static str,
    },
}

impl Distribution {
    /// Optuna's JSON form, as its `distribution_json` column holds it.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Float { low, high, log } => json!({"name": "FloatDistribution",
                "attributes": {"step": null, "low": low, "high": high, "log": log}}),
            Self::Int { low, high, step, log } => json!({"name": "IntDistribution",
                "attributes": {"log": log, "step": step, "low": low, "high": high}}),
            Self::Categorical { choices } => json!({"name": "CategoricalDistribution",
                "attributes": {"choices": choices}}),
        }
    }

    /// Bounds of the density: half a step wider for integers, logarithms for logarithmic parameters. Of choices: their indices.
    pub(crate) fn bounds(&self) -> (f64, f64) {
        let (low, high, log) = match self {
            Self::Float { low, high, log } => (*low, *high, *log),
            Self::Int { low, high, step, log } => {
                let half = *step as f64 / 2.0;
                (*low as f64 - half, *high as f64 + half, *log)
            }
            Self::Categorical { choices } => return (0.0, choices.len() as f64 - 1.0),
        };
        if log { (low.ln(), high.ln()) } else { (low, high) }
    }

    /// Where a value lies between [`Self::bounds`].
    pub(crate) fn inner(&self, value: f64) -> f64 {
        match self {
            Self::Float { log: true, .. } | Self::Int { log: true, .. } => value.ln(),
            _ => value,
        }
    }

    /// The value at a point between [`Self::bounds`].
    pub(crate) fn outer(&self, inner: f64) -> f64 {
        match *self {
            Self::Float { low, high, log } => (if log { inner.exp() } else { inner }).clamp(low, high),
            Self::Int { low, high, step, log } => {
                let value = if log { inner.exp() } else { inner };
                let (low, step) = (low as f64, step as f64);
                (low + ((value - low) / step).round() * step).clamp(low, high as f64)
            }
            Self::Categorical { .. } => inner,
        }
    }

    fn check(&self) -> Result<(), &'static str> {
        match self {
            Self::Float { low, high, .. } if !(low.is_finite() && high.is_finite() && low <= high) => {
                Err("bounds must be finite and in order")
            }
            Self::Float { low, log: true, .. } if *low <= 0.0 => Err("a logarithmic parameter must be above 0"),
            Self::Int { low, high, step, .. } if low > high || *step < 1 => {
                Err("bounds must be in order and the step at least 1")
            }
            Self::Int { low, high, step, .. } if (i128::from(*high) - i128::from(*low)) % i128::from(*step) != 0 => {
                Err("the step must lead from one bound to the other")
            }
            Self::Int { low, step, log: true, .. } if *low < 1 || *step != 1 => {
                Err("a logarithmic integer must be at least 1 and have step 1")
            }
            Self::Categorical { choices } if choices.is_empty() => Err("there is no choice"),
            _ => Ok(()),
        }
    }
}

impl Space {
    /// Checks each parameter, and that parents stand before what depends on them.
    pub fn new(parameters: Vec<Parameter>) -> Result<Self, SpaceError> {
        for (index, parameter) in parameters.iter().enumerate() {
            let fail = |reason| Err(SpaceError::Parameter { name: parameter.name.clone(), reason });
            if let Err(reason) = parameter.distribution.check() {
                return fail(reason);
            }
            let earlier = &parameters[..index];
            if earlier.iter().any(|other| other.name == parameter.name) {
                return fail("the name is taken");
            }
            if let Some(Condition { parent, choice }) = &parameter.condition {
                match earlier.iter().find(|other| other.name == *parent).map(|other| &other.distribution) {
                    Some(Distribution::Categorical { choices }) if *choice < choices.len() => {}
                    _ => return fail("its condition names no earlier choice"),
                }
            }
        }
        Ok(Self(parameters))
    }

    /// All parameters.
    pub fn parameters(&self) -> &[Parameter] {
        &self.0
    }

    /// Parameters that always occur together, parents before children (Optuna's `group`).
    pub fn groups(&self) -> Vec<Vec<&Parameter>> {
        let mut groups: Vec<Vec<&Parameter>> = Vec::new();
        for parameter in &self.0 {
            match groups.iter_mut().find(|group| group[0].condition == parameter.condition) {
                Some(group) => group.push(parameter),
                None => groups.push(vec![parameter]),
            }
        }
        groups
    }

    /// Whether a parameter under `condition` exists beside `params`.
    pub(crate) fn holds(condition: Option<&Condition>, params: &BTreeMap<String, f64>) -> bool {
        condition.is_none_or(|Condition { parent, choice }| params.get(parent) == Some(&(*choice as f64)))
    }

    /// JSON of the space, to be kept with a study and compared with.
    pub fn to_json(&self) -> Value {
        let entry = |parameter: &Parameter| {
            let mut value = parameter.distribution.to_json();
            if let Some(Condition { parent, choice }) = &parameter.condition {
                value["condition"] = json!({"parent": parent, "choice": choice});
            }
            (parameter.name.clone(), value)
        };
        Value::Object(self.0.iter().map(entry).collect())
    }
}
