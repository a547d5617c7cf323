//! GGUF's tokenizer metadata as a Hugging Face `tokenizer.json`: byte-level BPE.

use super::super::CheckpointError;
use super::value::Metadata;
use serde_json::{Map, Value, json};

/// Splits text into words as Llama 3 does; Qwen2's differs in taking digits one by one.
const LLAMA3_WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2_WORDS: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// GGUF's token types that matter here.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// How text is cut before merging.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Words {
    /// GPT-2's own expression.
    Gpt2,
    /// Single digits, then GPT-2's expression.
    Digits,
    Llama3,
    Qwen2,
}

/// A byte-level BPE tokenizer.
pub(super) struct Tokenizer<'a> {
    tokens: Vec<&'a str>,
    types: Vec<i64>,
    merges: Vec<(&'a str, &'a str)>,
    words: Words,
    /// Ids put before and after every text.
    before: Option<usize>,
    after: Option<usize>,
}

pub(super) fn read<'a>(metadata: &Metadata<'a>) -> Result<Tokenizer<'a>, CheckpointError> {
    let unsupported = |reason: String| Err(CheckpointError::unsupported(metadata.path, reason));
    match metadata.string("tokenizer.ggml.model")?.ok_or_else(|| metadata.missing("tokenizer.ggml.model"))? {
        "gpt2" => {}
        other => {
            return unsupported(format!(
                "tokenizer model {other:?} is not supported; `gpt2` (byte-level BPE) is: use the model's Hugging Face folder"
            ));
        }
    }
    let words = match metadata.string("tokenizer.ggml.pre")?.unwrap_or("default") {
        "default" | "gpt-2" | "gpt2" => Words::Gpt2,
        "smollm" => Words::Digits,
        "llama-bpe" | "llama3" | "llama-v3" => Words::Llama3,
        "qwen2" => Words::Qwen2,
        other => {
            return unsupported(format!(
                "pre-tokenizer {other:?} is not supported; `default`, `gpt-2`, `smollm`, `llama-bpe` and `qwen2` are: use the \
                 model's Hugging Face folder"
            ));
        }
    };
    let tokens = metadata.strings("tokenizer.ggml.tokens")?.ok_or_else(|| metadata.missing("tokenizer.ggml.tokens"))?;
    let types = metadata.integers("tokenizer.ggml.token_type")?.unwrap_or_else(|| vec![1; tokens.len()]);
    if types.len() != tokens.len() {
        return Err(metadata.malformed(format!("{} token types for {} tokens", types.len(), tokens.len())));
    }
    let mut seen = std::collections::HashSet::with_capacity(tokens.len());
    if let Some(twice) = tokens.iter().find(|token| !seen.insert(**token)) {
        return Err(metadata.malformed(format!("token {twice:?} occurs twice")));
    }
    let merges = metadata.strings("tokenizer.ggml.merges")?.ok_or_else(|| metadata.missing("tokenizer.ggml.merges"))?;
    let merges: Result<Vec<_>, _> = merges
        .into_iter()
        .map(|merge| {
            let known = |(left, right): &(&str, &str)| {
                seen.contains(left) && seen.contains(right) && seen.contains(format!("{left}{right}").as_str())
            };
            merge.split_once(' ').filter(known).ok_or_else(|| {
                metadata.malformed(format!("merge {merge:?} is not two tokens whose concatenation is a token"))
            })
        })
        .collect();
    let token = |flag: &str, id: &str, default: bool| -> Result<Option<usize>, CheckpointError> {
        if !metadata.bool(&format!("tokenizer.ggml.{flag}"))?.unwrap_or(default) {
            return Ok(None);
        }
        match metadata.integer(&format!("tokenizer.ggml.{id}"))?.map(usize::try_from) {
            Some(Ok(id)) if id < tokens.len() => Ok(Some(id)),
            _ => Err(metadata.malformed(format!("`tokenizer.ggml.{flag}` is set, but `{id}` is no token"))),
        }
    };
    let has_bos = metadata.integer("tokenizer.ggml.bos_token_id")?.is_some();
    Ok(Tokenizer {
        // Llama 3's tokenizer puts its first token before every text, whether or not the file says so.
        before: token("add_bos_token", "bos_token_id", words == Words::Llama3 && has_bos)?,
        after: token("add_eos_token", "eos_token_id", false)?,
        merges: merges?,
        tokens,
        types,
        words,
    })
}

impl<'a> Tokenizer<'a> {
    /// The text of token `id`.
    pub(super) fn token(&self, id: u32) -> Option<&'a str> {
        self.tokens.get(id as usize).copied()
    }

    /// Whether texts get the first token put before them.
    pub(super) fn adds_bos(&self) -> bool {
        self.before.is_some()
    }

    /// Whether texts get the last token put after them.
    pub(super) fn adds_eos(&self) -> bool {
        self.after.is_some()
    }

    /// Control tokens and those that its maker added: matched in text before anything else. `(id, text, special)`.
    fn added(&self) -> impl Iterator<Item = (usize, &'a str, bool)> {
        let typed = self.tokens.iter().zip(&self.types).enumerate();
        typed.filter_map(|(id, (token, kind))| match *kind {
            CONTROL => Some((id, *token, true)),
            USER_DEFINED => Some((id, *token, false)),
            _ => None,
        })
    }

    /// `added_tokens_decoder` of `tokenizer_config.json`.
    pub(super) fn added_tokens_decoder(&self) -> Value {
        let entries = self.added().map(|(id, content, special)| {
            let entry = json!({
                "content": content, "lstrip": false, "normalized": false, "rstrip": false, "single_word": false, "special": special,
            });
            (id.to_string(), entry)
        });
        Value::Object(entries.collect())
    }

    /// `tokenizer.json`.
    pub(super) fn to_json(&self) -> String {
        let added: Vec<Value> = self
            .added()
            .map(|(id, content, special)| {
                json!({
                    "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                    "special": special,
                })
            })
            .collect();
        let vocabulary: Map<String, Value> =
            self.tokens.iter().enumerate().map(|(id, token)| ((*token).to_owned(), json!(id))).collect();
        let merges: Vec<[&str; 2]> = self.merges.iter().map(|(left, right)| [*left, *right]).collect();
        let normalizer = if self.words == Words::Qwen2 { json!({"type": "NFC"}) } else { Value::Null };
        let tokenizer = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": normalizer,
            "pre_tokenizer": self.pre_tokenizer(),
            "post_processor": self.post_processor(),
            "decoder": byte_level(true),
            "model": {
                "type": "BPE",
                "dropout": null,
                "unk_token": null,
                "continuing_subword_prefix": null,
                "end_of_word_suffix": null,
                "fuse_unk": false,
                "byte_fallback": false,
                "ignore_merges": self.words == Words::Llama3,
                "vocab": vocabulary,
                "merges": merges,
            },
        });
        format!("{tokenizer:#}\n")
    }

    fn pre_tokenizer(&self) -> Value {
        let split = |words: &str| json!({"type": "Split", "pattern": {"Regex": words}, "behavior": "Isolated", "invert": false});
        let sequence = |first: Value, last: Value| json!({"type": "Sequence", "pretokenizers": [first, last]});
        match self.words {
            Words::Gpt2 => byte_level(true),
            Words::Digits => sequence(json!({"type": "Digits", "individual_digits": true}), byte_level(true)),
            Words::Llama3 => sequence(split(LLAMA3_WORDS), byte_level(false)),
            Words::Qwen2 => sequence(split(QWEN2_WORDS), byte_level(false)),
        }
    }

    fn post_processor(&self) -> Value {
        let special = |id: Option<usize>| id.and_then(|id| Some((id, *self.tokens.get(id)?)));
        let (before, after) = (special(self.before), special(self.after));
        if before.is_none() && after.is_none() {
            return byte_level(true);
        }
        let around = |sequence: &str, kind: u32| {
            let token = |(_, content): (usize, &str)| json!({"SpecialToken": {"id": content, "type_id": kind}});
            let text = json!({"Sequence": {"id": sequence, "type_id": kind}});
            before.map(token).into_iter().chain([text]).chain(after.map(token)).collect::<Vec<_>>()
        };
        let specials: Map<String, Value> = before
            .into_iter()
            .chain(after)
            .map(|(id, content)| (content.to_owned(), json!({"id": content, "ids": [id], "tokens": [content]})))
            .collect();
        let pair: Vec<Value> = around("A", 0).into_iter().chain(around("B", 1)).collect();
        json!({"type": "Sequence", "processors": [
            byte_level(true),
            {"type": "TemplateProcessing", "single": around("A", 0), "pair": pair, "special_tokens": specials},
        ]})
    }
}

/// Bytes as printable characters; `words` also splits by GPT-2's expression.
fn byte_level(words: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": words})
}
