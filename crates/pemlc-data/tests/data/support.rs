//! A small tokenizer and a folder of data files.

use pemlc_data::{DataError, Limits, TaskConfig, TaskSet, Tokenizer, load_tasks};
use std::path::Path;
use tempfile::TempDir;

/// Byte-level BPE with the tokens `<s>` (0, put before every text), `</s>` (1), each printable ASCII character (`!` is 2), and the
/// merges named in `MERGES`. `Ġ` is a space.
pub(crate) fn tokenizer() -> Tokenizer {
    const MERGES: [(&str, &str); 6] = [("Ġ", "y"), ("Ġy", "e"), ("Ġye", "s"), ("Ġ", "n"), ("Ġn", "o"), ("o", "k")];
    let mut tokens: Vec<String> = vec!["<s>".to_owned(), "</s>".to_owned()];
    tokens.extend((b'!'..=b'~').map(|byte| char::from(byte).to_string()));
    tokens.extend(["Ġ".to_owned(), "Ċ".to_owned()]);
    tokens.extend(MERGES.iter().map(|(left, right)| format!("{left}{right}")));
    let vocab: serde_json::Map<String, serde_json::Value> =
        tokens.into_iter().enumerate().map(|(id, token)| (token, id.into())).collect();
    let byte_level =
        serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let special = |id: u32, content: &str| {
        serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let json = serde_json::json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "padding": null,
        "added_tokens": [special(0, "<s>"), special(1, "</s>")],
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}
        },
        "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "vocab": vocab,
            "merges": MERGES.map(|(left, right)| format!("{left} {right}"))}
    });
    Tokenizer::from_json(&json.to_string()).unwrap()
}

/// Tasks as a run file writes them.
pub(crate) fn configs(toml: &str) -> Vec<TaskConfig> {
    #[derive(serde::Deserialize)]
    struct File {
        tasks: Vec<TaskConfig>,
    }
    toml::from_str::<File>(toml).unwrap().tasks
}

/// A folder with the named files.
pub(crate) fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

/// 64 tokens, no other limit.
pub(crate) const LIMITS: Limits = Limits { max_length: 64, train_limit: None, validation_limit: None };

/// Loads the tasks of a run file that lies in `folder`.
pub(crate) fn load(folder: &Path, toml: &str) -> Result<TaskSet, DataError> {
    load_tasks(&configs(toml), folder, &tokenizer(), &LIMITS)
}

/// A yes-no task named `t` over `train.jsonl` and `validation.jsonl`, with further settings.
pub(crate) fn yes_no(settings: &str) -> String {
    format!(
        "[[tasks]]\nname = 't'\ntrain = 'train.jsonl'\nvalidation = 'validation.jsonl'\ntemplate = 'T: {{text}} A:'\n\
         verbalizers = [' no', ' yes']\n{settings}\n"
    )
}
