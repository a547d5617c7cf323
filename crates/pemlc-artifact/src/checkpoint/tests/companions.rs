//! The text files made from GGUF metadata.

use super::support::tiny_gguf;
use crate::checkpoint::Checkpoint;

#[test]
fn made_from_gguf() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = Checkpoint::open(&tiny_gguf().write(folder.path())).unwrap();
    assert_eq!(checkpoint.licence().unwrap().as_deref(), Some("apache-2.0"));
    let mut text = format!("config.json\n{}", checkpoint.config_json().unwrap());
    for (name, contents) in checkpoint.companion_files().unwrap() {
        text += &format!("{name}\n{contents}");
    }
    insta::assert_snapshot!(text, @r#"
config.json
{
  "architectures": [
    "LlamaForCausalLM"
  ],
  "model_type": "llama",
  "hidden_size": 8,
  "intermediate_size": 12,
  "num_hidden_layers": 1,
  "num_attention_heads": 2,
  "num_key_value_heads": 1,
  "head_dim": 4,
  "vocab_size": 265,
  "max_position_embeddings": 64,
  "hidden_act": "silu",
  "rms_norm_eps": 0.00001,
  "rope_theta": 100000.0,
  "rope_scaling": null,
  "tie_word_embeddings": true,
  "attention_bias": false,
  "mlp_bias": false,
  "bos_token_id": 0,
  "eos_token_id": 1,
  "pad_token_id": 1,
  "torch_dtype": "float32"
}
generation_config.json
{
  "bos_token_id": 0,
  "pad_token_id": 1,
  "eos_token_id": 1
}
special_tokens_map.json
{
  "bos_token": "<|im_start|>",
  "eos_token": "<|im_end|>",
  "pad_token": "<|im_end|>"
}
tokenizer_config.json
{
  "tokenizer_class": "PreTrainedTokenizerFast",
  "model_max_length": 64,
  "clean_up_tokenization_spaces": false,
  "add_bos_token": false,
  "add_eos_token": false,
  "bos_token": "<|im_start|>",
  "eos_token": "<|im_end|>",
  "pad_token": "<|im_end|>",
  "added_tokens_decoder": {
    "0": {
      "content": "<|im_start|>",
      "lstrip": false,
      "normalized": false,
      "rstrip": false,
      "single_word": false,
      "special": true
    },
    "1": {
      "content": "<|im_end|>",
      "lstrip": false,
      "normalized": false,
      "rstrip": false,
      "single_word": false,
      "special": true
    },
    "264": {
      "content": "<tool>",
      "lstrip": false,
      "normalized": false,
      "rstrip": false,
      "single_word": false,
      "special": false
    }
  },
  "chat_template": "{{ messages }}"
}
"#);
    let hashes = checkpoint.file_hashes().unwrap();
    assert_eq!(hashes.len(), 1);
    assert_eq!(hashes[0].path, "tiny.gguf");
}

#[test]
fn the_made_configuration_says_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let gguf = Checkpoint::open(&tiny_gguf().write(folder.path())).unwrap();
    let config: serde_json::Value = serde_json::from_str(&gguf.config_json().unwrap()).unwrap();
    super::support::tiny_folder(folder.path(), &config);
    assert_eq!(Checkpoint::open(folder.path()).unwrap().config(), gguf.config());
}
