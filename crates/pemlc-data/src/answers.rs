//! Tokens of a prompt and of each answer that may follow it.
//!
//! Prompt and answer are tokenised as one text, as a model meets them in the wild: tokenising them apart would give, for
//! instance, a lone space token that never occurs before a word. Where a token spans the seam (a prompt that ends in a
//! space), the prompt gives up that token, and all answers of the example take it back in their own way.

use crate::error::RowProblem;
use crate::tokenizer::{Tokenizer, TokenizerError};

/// Tokens of a prompt and its answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tokens {
    pub(crate) prompt: Vec<u32>,
    pub(crate) answers: Vec<Vec<u32>>,
    /// Whether some token spans the end of the prompt.
    pub(crate) merged: bool,
}

/// Tokenises a prompt with each of its answers.
pub(crate) fn tokenize(tokenizer: &Tokenizer, prompt: &str, answers: &[String]) -> Result<Tokens, RowProblem> {
    let alone = tokenizer.encode(prompt)?;
    let together = answers
        .iter()
        .map(|answer| tokenizer.encode(&format!("{prompt}{answer}")))
        .collect::<Result<Vec<_>, TokenizerError>>()?;
    let shared = together.iter().map(|tokens| common_prefix(&alone, tokens)).min().unwrap_or(alone.len());
    if shared == 0 {
        return Err(RowProblem::EmptyPrompt);
    }
    let tails: Vec<Vec<u32>> = together.iter().map(|tokens| tokens[shared..].to_vec()).collect();
    if let Some((answer, _)) = answers.iter().zip(&tails).find(|(_, tail)| tail.is_empty()) {
        return Err(RowProblem::EmptyAnswer { answer: answer.clone() });
    }
    let merged = shared < alone.len();
    Ok(Tokens { prompt: alone[..shared].to_vec(), answers: tails, merged })
}

/// `texts` as they follow `prompt`: behind `separator` or, where a task sets none, behind a space, unless the prompt ends in white space.
pub fn separated(prompt: &str, separator: Option<&str>, texts: &[String]) -> Vec<String> {
    let default = if prompt.ends_with(char::is_whitespace) { "" } else { " " };
    let separator = separator.unwrap_or(default);
    texts.iter().map(|text| format!("{separator}{text}")).collect()
}

fn common_prefix(left: &[u32], right: &[u32]) -> usize {
    left.iter().zip(right).take_while(|(left, right)| left == right).count()
}

/// The first pair of answers with the same tokens.
pub(crate) fn same(answers: &[Vec<u32>]) -> Option<(usize, usize)> {
    pairs(answers.len()).find(|&(first, second)| answers[first] == answers[second])
}

/// The first pair of answers of which one begins with the other.
pub(crate) fn prefix(answers: &[Vec<u32>]) -> Option<(usize, usize)> {
    let begins = |short: usize, long: usize| answers[long].starts_with(&answers[short]);
    pairs(answers.len()).find_map(|(first, second)| {
        if begins(first, second) { Some((first, second)) } else { begins(second, first).then_some((second, first)) }
    })
}

fn pairs(count: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..count).flat_map(move |first| (first + 1..count).map(move |second| (first, second)))
}
