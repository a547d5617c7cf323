//! The files beside `tokenizer.json`, from GGUF metadata: special tokens, chat template, when to stop generating.

use super::super::CheckpointError;
use super::tokenizer::Tokenizer;
use super::value::Metadata;
use crate::config::ModelConfig;
use serde_json::{Map, Value, json};

/// `tokenizer_config.json`, `special_tokens_map.json` and `generation_config.json`, as `(file name, contents)`.
pub(super) fn companions(
    metadata: &Metadata<'_>,
    config: &ModelConfig,
    tokenizer: &Tokenizer<'_>,
) -> Result<Vec<(String, String)>, CheckpointError> {
    let unknown = metadata.integer("tokenizer.ggml.unknown_token_id")?.and_then(|id| u32::try_from(id).ok());
    let mut special = Map::new();
    for (name, id) in [
        ("bos_token", config.bos_token_id),
        ("eos_token", config.eos_token_ids.first().copied()),
        ("pad_token", config.pad_token_id),
        ("unk_token", unknown),
    ] {
        if let Some(token) = id.and_then(|id| tokenizer.token(id)) {
            special.insert(name.to_owned(), json!(token));
        }
    }

    let mut settings = Map::new();
    settings.insert("tokenizer_class".to_owned(), json!("PreTrainedTokenizerFast"));
    settings.insert("model_max_length".to_owned(), json!(config.max_position_embeddings));
    settings.insert("clean_up_tokenization_spaces".to_owned(), json!(false));
    settings.insert("add_bos_token".to_owned(), json!(tokenizer.adds_bos()));
    settings.insert("add_eos_token".to_owned(), json!(tokenizer.adds_eos()));
    settings.extend(special.clone());
    settings.insert("added_tokens_decoder".to_owned(), tokenizer.added_tokens_decoder());
    if let Some(template) = metadata.string("tokenizer.chat_template")? {
        settings.insert("chat_template".to_owned(), json!(template));
    }

    let mut generation = Map::new();
    for (name, id) in [("bos_token_id", config.bos_token_id), ("pad_token_id", config.pad_token_id)] {
        if let Some(id) = id {
            generation.insert(name.to_owned(), json!(id));
        }
    }
    match config.eos_token_ids.as_slice() {
        [] => {}
        [id] => drop(generation.insert("eos_token_id".to_owned(), json!(id))),
        several => drop(generation.insert("eos_token_id".to_owned(), json!(several))),
    }
    let text = |fields: Map<String, Value>| format!("{:#}\n", Value::Object(fields));
    Ok(vec![
        ("generation_config.json".to_owned(), text(generation)),
        ("special_tokens_map.json".to_owned(), text(special)),
        ("tokenizer_config.json".to_owned(), text(settings)),
    ])
}
