//! One example as tokens.

/// One example, ready to train on and to score.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// `file:line`.
    pub id: String,
    /// Tokens before the answer, never empty.
    pub prompt: Vec<u32>,
    /// Tokens of each candidate answer, never empty; one candidate alone for free text.
    pub answers: Vec<Vec<u32>>,
    /// Index of the right answer.
    pub gold: usize,
    /// Target of a Pearson correlation.
    pub score: Option<f64>,
    /// Characters of each candidate's text.
    pub answer_chars: Vec<usize>,
    /// The rendered prompt, before any truncation.
    pub text: String,
}

impl Example {
    /// Tokens of the prompt and the longest answer.
    pub fn length(&self) -> usize {
        self.prompt.len() + self.answers.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// What a model reads to predict `answer`: the prompt and all of the answer but its last token.
    pub(crate) fn input_for(&self, answer: &[u32]) -> Vec<u32> {
        let seen = answer.len().saturating_sub(1);
        self.prompt.iter().chain(&answer[..seen]).copied().collect()
    }

    /// The position whose output predicts the answer's first token.
    pub(crate) fn first_position(&self) -> usize {
        self.prompt.len().saturating_sub(1)
    }
}
