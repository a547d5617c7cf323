//! Hostile `tokenizer.json` files and data files: an answer or an error, no panic, and no more memory than a small bound.
//!
//! Each property runs 256 cases; `PROPTEST_CASES=20000 cargo test -p pemlc-data --test hostile` runs more.

use pemlc_data::{Limits, TaskConfig, Template, Tokenizer, load_tasks};
use pemlc_hostile::{bounded, changes, damage};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::fs;

/// The most that reading one of these small files and encoding a short text may hold at once.
const BOUND: i64 = 64 << 20;

const TEXT: &str = "Review: a dull, 12-minute film\u{e9} \u{1f600} naïve  \n\tA: yes";

/// Tokenizers that together have a part of every kind.
fn tokenizers() -> Vec<Value> {
    let added = json!([{"id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
        {"id": 7, "content": "A:", "single_word": true, "lstrip": true, "rstrip": true, "normalized": true, "special": false}]);
    let split = |pattern: &str, behavior: &str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": false});
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    let template = json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}});
    let whole = |normalizer: Value, before: Value, after: Value, decoder: Value, model: Value| {
        json!({"version": "1.0", "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
            "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": 3, "pad_id": 0, "pad_type_id": 0, "pad_token": "<s>"},
            "added_tokens": added, "normalizer": normalizer, "pre_tokenizer": before, "post_processor": after, "decoder": decoder, "model": model})
    };
    let sequence = |list: &str, kind: &str, parts: Vec<Value>| json!({"type": kind, list: parts});
    let bpe = json!({"type": "BPE", "dropout": null, "unk_token": "<s>", "continuing_subword_prefix": null, "end_of_word_suffix": null,
        "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
        "vocab": {"<s>": 0, "a": 1, "e": 2, "i": 3, "Ġ": 4, "ae": 5, "<0x0A>": 6}, "merges": [["a", "e"]]});
    let unigram = json!({"type": "Unigram", "unk_id": 0, "vocab": [["<s>", 0.0], ["▁", -2.0], ["a", -1.5], ["e", -3.25]], "byte_fallback": false});
    let word_piece = json!({"type": "WordPiece", "unk_token": "<s>", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
        "vocab": {"<s>": 0, "a": 1, "##e": 2, "film": 3}});
    let word_level = json!({"type": "WordLevel", "unk_token": "<s>", "vocab": {"<s>": 0, "a": 1, "film": 2}});
    vec![
        whole(
            sequence(
                "normalizers",
                "Sequence",
                vec![
                    json!({"type": "NFC"}),
                    json!({"type": "Prepend", "prepend": "_"}),
                    json!({"type": "Replace", "pattern": {"String": " "}, "content": "Ġ"}),
                    json!({"type": "Strip", "strip_left": true, "strip_right": false}),
                ],
            ),
            sequence(
                "pretokenizers",
                "Sequence",
                vec![
                    split(r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|\s+(?!\S)|\s+", "Isolated"),
                    json!({"type": "Digits", "individual_digits": true}),
                    byte_level.clone(),
                ],
            ),
            sequence("processors", "Sequence", vec![byte_level.clone(), template.clone()]),
            byte_level,
            bpe,
        ),
        whole(
            json!({"type": "Replace", "pattern": {"Regex": "[aeiou]+"}, "content": "e"}),
            json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true}),
            template,
            sequence(
                "decoders",
                "Sequence",
                vec![
                    json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
                    json!({"type": "ByteFallback"}),
                    json!({"type": "Fuse"}),
                    json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}),
                ],
            ),
            unigram,
        ),
        whole(
            json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true}),
            json!({"type": "BertPreTokenizer"}),
            json!({"type": "BertProcessing", "sep": ["a", 1], "cls": ["<s>", 0]}),
            json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
            word_piece,
        ),
        whole(
            sequence(
                "normalizers",
                "Sequence",
                vec![json!({"type": "NFKD"}), json!({"type": "StripAccents"}), json!({"type": "Lowercase"})],
            ),
            sequence(
                "pretokenizers",
                "Sequence",
                vec![
                    json!({"type": "WhitespaceSplit"}),
                    json!({"type": "Punctuation", "behavior": "Contiguous"}),
                    json!({"type": "CharDelimiterSplit", "delimiter": "-"}),
                ],
            ),
            json!({"type": "RobertaProcessing", "sep": ["a", 1], "cls": ["<s>", 0], "trim_offsets": true, "add_prefix_space": true}),
            json!({"type": "CTC", "pad_token": "<s>", "word_delimiter_token": "a", "cleanup": true}),
            word_level,
        ),
    ]
}

fn tokenize(json: &str) {
    bounded(BOUND, json.len(), || {
        let Ok(tokenizer) = Tokenizer::from_json(json) else { return };
        for text in [TEXT, "", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!"] {
            if let Ok(tokens) = tokenizer.encode(text) {
                let _ = tokenizer.decode(&tokens);
            }
        }
        let _ = tokenizer.decode(&[0, 1, 2, 3, 4, 5, 6, 7, 8, u32::MAX]);
        let _ = tokenizer.vocabulary_size();
    });
}

#[test]
fn the_tokenizers_to_be_damaged_are_good() {
    for (index, tokenizer) in tokenizers().iter().enumerate() {
        let tokenizer = Tokenizer::from_json(&tokenizer.to_string()).unwrap_or_else(|error| panic!("{index}: {error}"));
        let tokens = tokenizer.encode(TEXT).unwrap();
        assert!(!tokens.is_empty(), "{index}");
        tokenizer.decode(&tokens).unwrap();
    }
}

/// Patterns that take long to match or much memory to compile, and normalisers that make a text longer each in turn.
#[test]
fn costly_tokenizers_are_bounded() {
    for pattern in [
        "(a*)*(a*)*(a*)*b".to_owned(),
        r"(.*)(?=.*)(.*)(?=.*)(.*)(?=.*)(.*)\1\2\3x".to_owned(),
        r"(?=\w{90})".repeat(300),
        r"((\w{50}){50}){50}".to_owned(),
        "(".repeat(2_000),
        String::new(),
        "(?:)*".to_owned(),
        r"(?:(?=x)x){1000000000}".to_owned(),
    ] {
        let mut tokenizer = tokenizers().swap_remove(0);
        tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!(pattern);
        tokenize(&tokenizer.to_string());
        let mut tokenizer = tokenizers().swap_remove(1);
        tokenizer["normalizer"]["pattern"]["Regex"] = json!(pattern);
        tokenize(&tokenizer.to_string());
    }
    let double = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
    for place in ["normalizer", "decoder"] {
        let (mut tokenizer, key) = (tokenizers().swap_remove(0), format!("{place}s"));
        tokenizer[place] = json!({"type": "Sequence", key: vec![double.clone(); 60]});
        tokenize(&tokenizer.to_string());
        let error =
            Tokenizer::from_json(&tokenizer.to_string()).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("could make a text"), "{place}: {error}");
    }
}

proptest! {
    #[test]
    fn changed_tokenizers(which in 0..4usize, changes in changes()) {
        let mut document = tokenizers().swap_remove(which);
        changes.iter().for_each(|change| change.apply(&mut document));
        tokenize(&document.to_string());
    }

    #[test]
    fn damaged_tokenizers(which in 0..4usize, damage in damage()) {
        let text = damage.apply(tokenizers()[which].to_string().as_bytes());
        tokenize(&String::from_utf8_lossy(&text));
    }

    /// A part of one tokenizer in another.
    #[test]
    fn mixed_tokenizers(one in 0..4usize, other in 0..4usize, parts in proptest::collection::vec(0..5usize, 1..4)) {
        let (mut document, other) = (tokenizers().swap_remove(one), tokenizers().swap_remove(other));
        for part in parts {
            let key = ["normalizer", "pre_tokenizer", "post_processor", "decoder", "model"][part];
            document[key] = other[key].clone();
        }
        tokenize(&document.to_string());
    }

    #[test]
    fn patterns(pattern in r"(\.|\*|\+|\(|\)|\(\?!|\(\?<=|\[|\]|\||\{2,9\}|\\1|\\p\{L\}|\\s|[a-z_.]|\PC){0,16}") {
        let mut tokenizer = tokenizers().swap_remove(0);
        tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!(pattern);
        tokenize(&tokenizer.to_string());
    }
}

const LINES: [&str; 3] = [
    "{\"text\": \"good\", \"label\": 1, \"choices\": [\"a\", \"b\"], \"score\": 0.5, \"inner\": {\"text\": \"x\"}}\n{\"text\": \"bad\", \"label\": \" no\", \"choices\": [\"a\", \"b\"], \"score\": 2, \"inner\": {\"text\": \"y\"}}\n",
    "text,label,choices,score\ngood,1,\"[\"\"a\"\", \"\"b\"\"]\",0.5\n\"bad, \nvery\",0,\"[\"\"a\"\", \"\"b\"\"]\",1\n",
    "text\tlabel\tchoices\tscore\ngood\t1\t[\"a\", \"b\"]\t0.5\nbad\t0\t[\"a\", \"b\"]\t1\n",
];
const EXTENSIONS: [&str; 3] = ["jsonl", "csv", "tsv"];

fn task(kind: usize, extension: &str) -> TaskConfig {
    let file = format!("data.{extension}");
    let mut settings =
        json!({"name": "t", "train": file, "validation": file, "template": "T: {text} A:", "on_long": "truncate"});
    let more = match kind {
        0 => json!({"verbalizers": [" no", " yes"]}),
        1 => json!({"choices": "choices"}),
        2 => json!({"answer": "text"}),
        3 => json!({"verbalizers": [" no", " yes"], "metric": "pearson", "score": "score"}),
        _ => json!({"fields": "inner", "verbalizers": [" no", " yes"]}),
    };
    settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(settings).unwrap()
}

thread_local! {
    static TOKENIZER: Tokenizer = Tokenizer::from_json(
        &fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tiny-model/tokenizer.json")).unwrap()
    ).unwrap();
    static FOLDER: tempfile::TempDir = tempfile::tempdir().unwrap();
}

fn load(kind: usize, format: usize, bytes: &[u8]) {
    FOLDER.with(|folder| {
        let path = folder.path().join(format!("data.{}", EXTENSIONS[format]));
        fs::write(&path, bytes).unwrap();
        let limits = Limits { max_length: 48, train_limit: None, validation_limit: Some(1) };
        bounded(BOUND, bytes.len(), || {
            TOKENIZER.with(|tokenizer| {
                let config = task(kind, EXTENSIONS[format]);
                if let Err(error) = load_tasks(&[config], folder.path(), tokenizer, &limits) {
                    let error = error.to_string();
                    assert!(error.contains("data."), "{error}");
                }
            });
        });
    });
}

proptest! {
    #[test]
    fn damaged_data(kind in 0..5usize, format in 0..3usize, damage in damage()) {
        load(kind, format, &damage.apply(LINES[format].as_bytes()));
    }

    #[test]
    fn changed_lines(kind in 0..5usize, changes in changes()) {
        let lines = LINES[0].lines().map(|line| {
            let mut document: Value = serde_json::from_str(line).unwrap();
            changes.iter().for_each(|change| change.apply(&mut document));
            document.to_string()
        });
        load(kind, 0, lines.collect::<Vec<_>>().join("\n").as_bytes());
    }

    #[test]
    fn any_template(text in r"(\{|\}|\{\{|\}\}|choices|text|\PC){0,12}") {
        let _ = Template::parse(&text);
    }
}
