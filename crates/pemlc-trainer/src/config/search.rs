//! `[search]` of a run file: what `pemlc search` varies.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The other key and its choice under which a dimension exists; empty: it always does.
pub type When = BTreeMap<String, Choice>;

/// Values of one key of the run file: either a range or choices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, deny_unknown_fields)]
pub enum Dimension {
    /// One of these, without order.
    Choices {
        /// Numbers, texts or truth values.
        choices: Vec<Choice>,
        /// Under which choice of another key of `[search]` this one exists; without it, always.
        #[serde(default, skip_serializing_if = "When::is_empty")]
        when: When,
    },
    /// Whole numbers `low, low + step, ... <= high`.
    Integers {
        /// Smallest.
        low: i64,
        /// Largest.
        high: i64,
        /// Distance of neighbours; 1 when logarithmic.
        #[serde(default = "one")]
        step: i64,
        /// Whether the logarithm is what is uniform.
        #[serde(default)]
        log: bool,
        /// Under which choice of another key of `[search]` this one exists; without it, always.
        #[serde(default, skip_serializing_if = "When::is_empty")]
        when: When,
    },
    /// Real numbers.
    Numbers {
        /// Smallest.
        low: f64,
        /// Largest.
        high: f64,
        /// Whether the logarithm is what is uniform.
        #[serde(default)]
        log: bool,
        /// Under which choice of another key of `[search]` this one exists; without it, always.
        #[serde(default, skip_serializing_if = "When::is_empty")]
        when: When,
    },
}

impl Dimension {
    /// The other key and its choice under which it exists.
    pub fn when(&self) -> &When {
        match self {
            Self::Choices { when, .. } | Self::Integers { when, .. } | Self::Numbers { when, .. } => when,
        }
    }
}

/// A value to choose.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Choice {
    /// `true` or `false`.
    Truth(bool),
    /// A whole number.
    Integer(i64),
    /// A real number.
    Number(f64),
    /// A text.
    Text(String),
}

fn one() -> i64 {
    1
}
