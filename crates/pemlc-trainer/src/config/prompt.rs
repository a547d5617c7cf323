//! `[prompt]` of a run file.

use super::PrefixSharing;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Soft prompts: vectors in front of the token embeddings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PromptConfig {
    /// Vectors.
    pub length: usize,
    /// Whether each task has its own. Multitask prompt tuning always has both: one prompt, and a factor for each task.
    pub sharing: PrefixSharing,
    /// What the vectors start from. Default: `text`; for P-Tuning, whose vectors are the encoder's input, `random`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<PromptInit>,
    /// The text of a start from text. Default: each task's template without its fields or, if nothing is left, its first training prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// P-Tuning's encoder.
    pub encoder: PromptEncoder,
    /// Width of its hidden layers. Default: the model's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hidden: Option<usize>,
    /// Layers of its LSTM.
    pub lstm_layers: usize,
    /// Rank of the factor by which multitask prompt tuning makes a task's prompt out of the shared one.
    pub rank: usize,
    /// What that factor starts from.
    pub factor_init: FactorInit,
}

impl Default for PromptConfig {
    fn default() -> Self {
        Self {
            length: 16,
            sharing: PrefixSharing::PerTask,
            init: None,
            text: None,
            encoder: PromptEncoder::Mlp,
            hidden: None,
            lstm_layers: 2,
            rank: 1,
            factor_init: FactorInit::Ones,
        }
    }
}

/// What the vectors of a soft prompt start from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PromptInit {
    /// Normal numbers of deviation 1.
    Random,
    /// Embeddings of tokens drawn uniformly from the vocabulary.
    Vocabulary,
    /// Embeddings of a text's tokens, repeated or cut to the prompt's length.
    Text,
}

/// P-Tuning's encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PromptEncoder {
    /// Three linear layers with ReLU between them.
    Mlp,
    /// A bidirectional LSTM over the positions, then two linear layers with ReLU between them.
    Lstm,
}

/// What the task factors of multitask prompt tuning start from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FactorInit {
    /// Near a factor of ones: every task starts from the shared prompt.
    Ones,
    /// Normal numbers of deviation 0.02, as in PEFT: every task starts near a prompt of zeros.
    Small,
}

impl PromptConfig {
    /// Numbers that must be at least 1, by key.
    pub(super) fn positive(&self) -> [(&'static str, usize); 4] {
        [
            ("prompt.length", self.length),
            ("prompt.hidden", self.hidden.unwrap_or(1)),
            ("prompt.lstm_layers", self.lstm_layers),
            ("prompt.rank", self.rank),
        ]
    }
}

#[cfg(test)]
mod tests {
    use crate::config::RunConfig;
    use std::path::Path;

    #[test]
    fn settings_out_of_range_are_refused() {
        let error = |settings: &str| {
            let text = format!("model = \"m\"\ntasks = []\n[prompt]\n{settings}");
            let error = RunConfig::from_toml(&text, Path::new("run.toml")).unwrap_err().to_string();
            error.lines().filter(|line| !line.trim_matches([' ', '|', '^']).is_empty()).collect::<Vec<_>>().join("\n")
        };
        let errors = ["length = 0", "hidden = 0", "lstm_layers = 0", "rank = 0", "init = \"texts\""].map(error);
        insta::assert_snapshot!(errors.join("\n"), @r#"
        run.toml: `prompt.length` is 0, expected at least 1
        run.toml: `prompt.hidden` is 0, expected at least 1
        run.toml: `prompt.lstm_layers` is 0, expected at least 1
        run.toml: `prompt.rank` is 0, expected at least 1
        run.toml: TOML parse error at line 4, column 8
        4 | init = "texts"
        unknown variant `texts`, expected one of `random`, `vocabulary`, `text`
        "#);
    }
}
