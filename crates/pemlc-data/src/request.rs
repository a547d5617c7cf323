//! One request from outside a data file, made into tokens exactly as training makes its examples.

use crate::answers::tokenize;
use crate::error::RowProblem;
use crate::template::Template;
use crate::tokenizer::Tokenizer;

/// A prompt and the answers to choose from, as tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The rendered prompt.
    pub text: String,
    /// Tokens before the answer, never empty.
    pub prompt: Vec<u32>,
    /// Tokens of each answer, never empty.
    pub answers: Vec<Vec<u32>>,
}

impl Request {
    /// The request that `template` makes of `fields` and `choices`, with the texts of `answers` to choose from.
    ///
    /// # Errors
    /// When the template names a field that is not in `fields` or is empty, or a text becomes no token.
    pub fn new(
        tokenizer: &Tokenizer,
        template: &Template,
        fields: impl IntoIterator<Item = (String, String)>,
        choices: &[String],
        answers: &[String],
    ) -> Result<Self, RowProblem> {
        Self::raw(tokenizer, template.fill(fields, choices)?, answers)
    }

    /// The request whose prompt is `text` as it stands.
    ///
    /// # Errors
    /// When a text becomes no token.
    pub fn raw(tokenizer: &Tokenizer, text: String, answers: &[String]) -> Result<Self, RowProblem> {
        let tokens = tokenize(tokenizer, &text, answers)?;
        Ok(Self { text, prompt: tokens.prompt, answers: tokens.answers })
    }
}
