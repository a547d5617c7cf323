//! GGUF tokenizer metadata, converted and then run.

use super::support::{Gguf, Meta, byte_characters, tiny_gguf};
use crate::checkpoint::Checkpoint;
use tokenizers::Tokenizer;

fn convert(edit: impl FnOnce(&mut Gguf) -> &mut Gguf) -> Result<String, String> {
    let folder = tempfile::tempdir().unwrap();
    let mut gguf = tiny_gguf();
    edit(&mut gguf);
    let checkpoint = Checkpoint::open(&gguf.write(folder.path())).unwrap();
    let error =
        |error: crate::CheckpointError| error.to_string().replace(&folder.path().display().to_string(), "FOLDER");
    checkpoint.tokenizer_json().map_err(error)
}

fn tokenizer(edit: impl FnOnce(&mut Gguf) -> &mut Gguf) -> Tokenizer {
    convert(edit).unwrap().parse().unwrap()
}

fn tokens(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
    tokenizer.encode(text, true).unwrap().get_tokens().to_vec()
}

#[test]
fn merges_and_special_tokens() {
    let tokenizer = tokenizer(|gguf| gguf);
    let encoding = tokenizer.encode("<|im_start|>hello hello<tool><|im_end|>", true).unwrap();
    assert_eq!(encoding.get_ids(), [0, 261, 262, 264, 1]);
    assert_eq!(tokenizer.decode(&[0, 261, 262, 264, 1], true).unwrap(), "hello hello<tool>");
    // Every byte of any text is a token, and comes back.
    let text = "Ünïcode 你好\n\t🙂 'quoted'  ";
    let encoding = tokenizer.encode(text, true).unwrap();
    assert_eq!(encoding.get_ids().len(), text.len());
    assert_eq!(encoding.get_ids()[0], 2 + 0xc3);
    assert_eq!(tokenizer.decode(encoding.get_ids(), true).unwrap(), text);
    assert_eq!(byte_characters()[0xc3], 'Ã');
}

#[test]
fn each_pre_tokenizer_cuts_digits_its_own_way() {
    let with = |pre: &str| tokenizer(|gguf| gguf.set("tokenizer.ggml.pre", Meta::text(pre)));
    assert_eq!(tokens(&with("smollm"), "x 12"), ["x", "Ġ", "1", "2"]);
    assert_eq!(tokens(&with("gpt-2"), "x 12"), ["x", "Ġ", "12"]);
    assert_eq!(tokens(&with("default"), "x12"), ["x", "12"]);
    assert_eq!(tokens(&with("qwen2"), "x12"), ["x", "1", "2"]);
    let llama3 = tokenizer(|gguf| gguf.set("tokenizer.ggml.pre", Meta::text("llama-bpe")));
    // Runs of three digits; the first token goes before every text.
    assert_eq!(tokens(&llama3, "x1212"), ["<|im_start|>", "x", "12", "1", "2"]);
}

#[test]
fn qwen2_composes_characters() {
    let tokenizer = tokenizer(|gguf| gguf.set("tokenizer.ggml.pre", Meta::text("qwen2")));
    assert_eq!(tokens(&tokenizer, "e\u{301}"), tokens(&tokenizer, "é"));
}

#[test]
fn first_and_last_tokens_are_added_when_the_file_says_so() {
    let tokenizer = tokenizer(|gguf| {
        gguf.set("tokenizer.ggml.add_bos_token", Meta::Bool(true)).set("tokenizer.ggml.add_eos_token", Meta::Bool(true))
    });
    assert_eq!(tokenizer.encode("hello", true).unwrap().get_ids(), [0, 261, 1]);
    assert_eq!(tokenizer.encode("hello", false).unwrap().get_ids(), [261]);
}

#[test]
fn what_cannot_be_converted_is_named() {
    let refused = |edit: &dyn Fn(&mut Gguf) -> &mut Gguf| convert(|gguf| edit(gguf)).unwrap_err();
    insta::assert_snapshot!(
        [
            refused(&|gguf| gguf.set("tokenizer.ggml.model", Meta::text("llama"))),
            refused(&|gguf| gguf.set("tokenizer.ggml.pre", Meta::text("tekken"))),
            refused(&|gguf| gguf.remove("tokenizer.ggml.tokens")),
            refused(&|gguf| gguf.remove("tokenizer.ggml.merges")),
            refused(&|gguf| gguf.set("tokenizer.ggml.merges", Meta::Texts(vec!["he o".to_owned()]))),
            refused(&|gguf| gguf.set("tokenizer.ggml.merges", Meta::I32s(vec![1]))),
            refused(&|gguf| gguf.set("tokenizer.ggml.token_type", Meta::I32s(vec![1]))),
            refused(&|gguf| gguf.set("tokenizer.ggml.tokens", Meta::Texts(vec!["a".to_owned(); 265]))),
            refused(&|gguf| gguf.set("tokenizer.ggml.add_bos_token", Meta::Bool(true)).remove("tokenizer.ggml.bos_token_id")),
        ]
        .join("\n"), @r#"
FOLDER/tiny.gguf: tokenizer model "llama" is not supported; `gpt2` (byte-level BPE) is: use the model's Hugging Face folder
FOLDER/tiny.gguf: pre-tokenizer "tekken" is not supported; `default`, `gpt-2`, `smollm`, `llama-bpe` and `qwen2` are: use the model's Hugging Face folder
FOLDER/tiny.gguf: metadata key `tokenizer.ggml.tokens` is missing
FOLDER/tiny.gguf: metadata key `tokenizer.ggml.merges` is missing
FOLDER/tiny.gguf: merge "he o" is not two tokens whose concatenation is a token
FOLDER/tiny.gguf: metadata key `tokenizer.ggml.merges` holds an array, expected an array of strings
FOLDER/tiny.gguf: 1 token types for 265 tokens
FOLDER/tiny.gguf: token "a" occurs twice
FOLDER/tiny.gguf: `tokenizer.ggml.add_bos_token` is set, but `bos_token_id` is no token
"#);
}
