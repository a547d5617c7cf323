//! The base model's own tokenizer.

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
        let mut inner: tokenizers::Tokenizer =
            json.parse().map_err(|error: tokenizers::Error| TokenizerError::Json(error.to_string()))?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| TokenizerError::Json(error.to_string()))?;
        Ok(Self { inner, json: json.to_owned(), end_of_text: None })
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
        match self.inner.encode_fast(text, true) {
            Ok(encoding) => Ok(encoding.get_ids().to_vec()),
            Err(error) => {
                Err(TokenizerError::Encode { text: text.chars().take(60).collect(), message: error.to_string() })
            }
        }
    }

    /// Text of token ids, special tokens left out.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, TokenizerError> {
        self.inner.decode(tokens, true).map_err(|error| TokenizerError::Decode(error.to_string()))
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
