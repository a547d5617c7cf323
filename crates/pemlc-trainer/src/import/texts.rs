//! Texts to probe with.

use super::error::ImportError;
use crate::error::TrainError;
use pemlc_data::Tokenizer;
use std::path::{Path, PathBuf};

pub(super) use crate::run::{LENGTH, PER_TASK};

/// Sentences of no task in particular.
const BUILT_IN: [&str; 7] = [
    "The train to the coast leaves at half past seven, and the tickets are sold at the station.",
    "Question: Which of the two boxes is heavier, the red one or the blue one? Answer:",
    "She opened the letter, read it twice, and put it back on the table without a word.",
    "In 1998 the company had 42 employees; ten years later there were more than 300.",
    "def total(values):\n    return sum(value for value in values if value > 0)",
    "It was, all things considered, a pleasant film, although nobody in the room laughed once.",
    "Water boils at a lower temperature in the mountains because the air pressure is lower there.",
];

/// Token ids of the texts in `path`, one a line, or of those that are built in.
pub(super) fn read(
    path: Option<&Path>,
    tokenizer: &Tokenizer,
    vocabulary: usize,
) -> Result<Vec<Vec<u32>>, ImportError> {
    let (name, texts): (PathBuf, Vec<String>) = match path {
        None => ("built-in probe texts".into(), BUILT_IN.map(str::to_owned).to_vec()),
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(TrainError::io(path))?;
            (path.to_owned(), text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect())
        }
    };
    let refused = |reason: String| ImportError::ProbeText { path: name.clone(), reason };
    let mut all = Vec::with_capacity(texts.len());
    for text in &texts {
        let tokens = tokenizer.encode(text).map_err(TrainError::from)?;
        if let Some(token) = tokens.iter().find(|token| **token as usize >= vocabulary) {
            let reason = format!(
                "token {token} of {text:?} is outside the model's vocabulary of {vocabulary}: tokenizer and model do not belong together"
            );
            return Err(refused(reason));
        }
        if tokens.is_empty() {
            return Err(refused(format!("{text:?} has no tokens; give texts that have some with --probe-text FILE")));
        }
        all.push(tokens);
    }
    if all.is_empty() {
        return Err(refused("holds no text; write one a line".to_owned()));
    }
    Ok(all)
}
