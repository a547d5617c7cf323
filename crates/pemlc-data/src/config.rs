//! The `[[tasks]]` entry of a run file.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One task of a run file.
///
/// The possible answers are exactly one of: a fixed set (`verbalizers`), the candidates that each example carries
/// (`choices`), or free text (`answer`). `verbalizers` together with `choices` answers by letter: example `i`'s first
/// `n` verbalizers stand for its `n` choices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskConfig {
    /// Name: letters, digits, `.`, `_`, `-`. It names folders of the run directory, so it is unique whatever its case.
    pub name: String,
    /// Training data: a `.jsonl`, `.csv` or `.tsv` file, relative to the run file. `${VAR}` and `${VAR:-default}` are expanded.
    pub train: String,
    /// Validation data, in any of the same formats.
    pub validation: String,
    /// Use this many training examples at most, spread evenly over the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_limit: Option<usize>,
    /// Use this many validation examples at most, spread evenly over the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_limit: Option<usize>,
    /// The prompt. `{field}` stands for a field's text, `{choices}` for the candidates as lines `A. text`; `{{` and `}}` are
    /// braces.
    pub template: String,
    /// Key of the nested object that holds the fields. Without it the fields are the line's own keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fields: Option<String>,
    /// Field with the label: the index of the right answer, or its text.
    #[serde(default = "default_label")]
    pub label: String,
    /// The fixed set of answers, appended to the prompt exactly as written: most tokenizers want a leading space.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verbalizers: Vec<String>,
    /// Field with the list of candidate answers. In CSV and TSV the list is written as a JSON array.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choices: Option<String>,
    /// Field with the free-text answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// Text between the prompt and a choice or free-text answer. Default: one space, nothing if the prompt ends in white
    /// space.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub separator: Option<String>,
    /// Metric. Default: `exact_match` for free text, else `accuracy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<Metric>,
    /// Length normalisation of an answer's log-likelihood. Default: `tokens` for `choices` alone, else `none`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub normalize: Option<Normalize>,
    /// Numeric field that `pearson` correlates with the prediction, which is the expectation of the verbalizer's index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<String>,
    /// What to do with an example that has more than `training.max_length` tokens.
    #[serde(default)]
    pub on_long: OnLong,
}

fn default_label() -> String {
    "label".to_owned()
}

/// Where the answers of a task come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AnswerSource<'a> {
    /// The same answers for every example.
    Verbalizers,
    /// The first `n` verbalizers, for the `n` choices in this field.
    Letters(&'a str),
    /// The texts in this field.
    Choices(&'a str),
    /// The text in this field.
    FreeText(&'a str),
}

impl TaskConfig {
    /// The metric in force.
    pub fn metric(&self) -> Metric {
        self.metric.unwrap_or(if self.answer.is_some() { Metric::ExactMatch } else { Metric::Accuracy })
    }

    /// The length normalisation in force.
    pub fn normalize(&self) -> Normalize {
        let choices_alone = self.choices.is_some() && self.verbalizers.is_empty();
        self.normalize.unwrap_or(Normalize::default_of(choices_alone))
    }

    /// Name of the field behind `{choices}`.
    pub(crate) fn choices_field(&self) -> &str {
        self.choices.as_deref().unwrap_or("choices")
    }

    /// Where the answers come from; `None` unless exactly one source is given. `shows_choices`: the template has `{choices}`.
    pub(crate) fn answer_source(&self, shows_choices: bool) -> Option<AnswerSource<'_>> {
        match (self.verbalizers.is_empty(), &self.choices, &self.answer) {
            (false, Some(_), None) => Some(AnswerSource::Letters(self.choices_field())),
            (false, None, None) if shows_choices => Some(AnswerSource::Letters(self.choices_field())),
            (false, None, None) => Some(AnswerSource::Verbalizers),
            (true, Some(field), None) => Some(AnswerSource::Choices(field)),
            (true, None, Some(field)) => Some(AnswerSource::FreeText(field)),
            _ => None,
        }
    }
}

/// How a task is scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Share of examples whose most likely answer is the right one.
    Accuracy,
    /// F1 of the positive class, which is label 1 of two.
    F1,
    /// Matthews correlation of predicted and true labels.
    Matthews,
    /// Pearson correlation of the expected verbalizer index with `score`.
    Pearson,
    /// Share of free-text answers that greedy decoding reproduces token for token.
    ExactMatch,
}

impl Metric {
    /// Name as in a run file.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Accuracy => "accuracy",
            Metric::F1 => "f1",
            Metric::Matthews => "matthews",
            Metric::Pearson => "pearson",
            Metric::ExactMatch => "exact_match",
        }
    }
}

impl std::fmt::Display for Metric {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}

/// What an answer's log-likelihood is divided by before answers are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Normalize {
    /// Nothing.
    None,
    /// The number of its tokens.
    Tokens,
    /// The number of its characters.
    Characters,
}

impl Normalize {
    /// What a task has that sets none; `choices_alone`: its answers are the candidates of each example.
    pub fn default_of(choices_alone: bool) -> Self {
        if choices_alone { Self::Tokens } else { Self::None }
    }

    /// Name as in a run file.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Tokens => "tokens",
            Self::Characters => "characters",
        }
    }

    /// The one that has `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::None, Self::Tokens, Self::Characters].into_iter().find(|normalize| normalize.name() == name)
    }
}

/// What to do with an example that has more tokens than `max_length`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnLong {
    /// Stop, and say which example.
    #[default]
    Error,
    /// Remove tokens from the middle of the prompt: its beginning, its end and the answers stay whole.
    Truncate,
    /// Leave the example out, and count it.
    Drop,
}
