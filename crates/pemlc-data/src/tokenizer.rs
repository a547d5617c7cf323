//! The base model's own tokenizer.

mod guard;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Why a tokenizer cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// Not a `tokenizer.json`.
    #[error("tokenizer.json cannot be read: {0}")]
    Json(String),
    /// A text cannot be encoded.
    #[error("the tokenizer cannot encode {text:?}: {message}")]
    Encode {
        /// Beginning of the text.
        text: String,
        /// The tokenizer's words.
        message: String,
    },
    /// Tokens cannot be decoded.
    #[error("the tokenizer cannot decode {0}")]
    Decode(String),
    /// The file cannot be written.
    #[error("{path}: cannot write the tokenizer: {error}")]
    Save {
        /// The file.
        path: std::path::PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
}

/// A Hugging Face tokenizer, used as causal language models use it: special tokens that its post-processor adds (a
/// beginning-of-sequence token, if any) are added; padding and truncation that its file may ask for are not.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    json: String,
    end_of_text: Option<u32>,
}

impl Tokenizer {
    /// A tokenizer of the text of a `tokenizer.json`.
    pub fn from_json(json: &str) -> Result<Self, TokenizerError> {
        guard::check(json).map_err(TokenizerError::Json)?;
        let parsed = caught(|| {
            let mut inner: tokenizers::Tokenizer = json.parse()?;
            inner.with_padding(None);
            inner.with_truncation(None)?;
            Ok(inner)
        });
        Ok(Self { inner: parsed.map_err(TokenizerError::Json)?, json: json.to_owned(), end_of_text: None })
    }

    /// The same, with the token that ends a free-text answer (`eos_token_id` of the model's configuration).
    #[must_use]
    pub fn with_end_of_text(mut self, token: Option<u32>) -> Self {
        self.end_of_text = token;
        self
    }

    /// The token that ends a free-text answer.
    pub fn end_of_text(&self) -> Option<u32> {
        self.end_of_text
    }

    /// Token ids of a text, with the special tokens that the post-processor adds.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoded = caught(|| self.inner.encode_fast(text, true).map(|encoding| encoding.get_ids().to_vec()));
        encoded.map_err(|message| TokenizerError::Encode { text: text.chars().take(60).collect(), message })
    }

    /// Text of token ids, special tokens left out.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, TokenizerError> {
        caught(|| self.inner.decode(tokens, true)).map_err(TokenizerError::Decode)
    }

    /// One past the largest token id, added tokens included.
    pub fn vocabulary_size(&self) -> usize {
        self.inner.get_vocab(true).values().max().map_or(0, |&largest| largest as usize + 1)
    }

    /// The text of its `tokenizer.json`, as it was given.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// Writes its `tokenizer.json`.
    pub fn save(&self, path: &Path) -> Result<(), TokenizerError> {
        std::fs::write(path, &self.json).map_err(|error| TokenizerError::Save { path: path.to_owned(), error })
    }
}

/// What `run` gives. The crate that it calls panics on some tokenizers that it has accepted: that is an error like any other.
fn caught<T>(run: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(panic) => Err(format!("it makes the tokenizers crate panic: {}", message(panic.as_ref()))),
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("(no message)")
}
