//! Writers of tiny checkpoints.

use crate::checkpoint::{Checkpoint, StoredType};
use crate::tensors::{NamedTensor, TensorMap};
use std::path::{Path, PathBuf};

/// A metadata value to write.
#[derive(Debug, Clone)]
pub(super) enum Meta {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    I32s(Vec<i32>),
}

impl Meta {
    pub(super) fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// A GGUF file in the making.
#[derive(Clone)]
pub(super) struct Gguf {
    pub(super) meta: Vec<(String, Meta)>,
    /// Name, shape (slowest dimension first), ggml type number, bytes.
    pub(super) tensors: Vec<(String, Vec<usize>, u32, Vec<u8>)>,
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

impl Gguf {
    pub(super) fn set(&mut self, key: &str, value: Meta) -> &mut Self {
        self.meta.retain(|(other, _)| other != key);
        self.meta.push((key.to_owned(), value));
        self
    }

    pub(super) fn remove(&mut self, key: &str) -> &mut Self {
        self.meta.retain(|(other, _)| other != key);
        self
    }

    pub(super) fn f32_tensor(&mut self, name: &str, shape: &[usize], values: &[f32]) -> &mut Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.tensor(name, shape, 0, bytes)
    }

    pub(super) fn tensor(&mut self, name: &str, shape: &[usize], kind: u32, bytes: Vec<u8>) -> &mut Self {
        self.remove_tensor(name);
        self.tensors.push((name.to_owned(), shape.to_vec(), kind, bytes));
        self
    }

    pub(super) fn remove_tensor(&mut self, name: &str) -> &mut Self {
        self.tensors.retain(|(other, ..)| other != name);
        self
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.meta.len() as u64).to_le_bytes());
        for (key, value) in &self.meta {
            string(&mut out, key);
            let kind: u32 = match value {
                Meta::U32(_) => 4,
                Meta::F32(_) => 6,
                Meta::Bool(_) => 7,
                Meta::Text(_) => 8,
                Meta::Texts(_) | Meta::I32s(_) => 9,
            };
            out.extend(kind.to_le_bytes());
            match value {
                Meta::U32(value) => out.extend(value.to_le_bytes()),
                Meta::F32(value) => out.extend(value.to_le_bytes()),
                Meta::Bool(value) => out.push(u8::from(*value)),
                Meta::Text(text) => string(&mut out, text),
                Meta::Texts(texts) => {
                    out.extend(8u32.to_le_bytes());
                    out.extend((texts.len() as u64).to_le_bytes());
                    texts.iter().for_each(|text| string(&mut out, text));
                }
                Meta::I32s(numbers) => {
                    out.extend(5u32.to_le_bytes());
                    out.extend((numbers.len() as u64).to_le_bytes());
                    numbers.iter().for_each(|number| out.extend(number.to_le_bytes()));
                }
            }
        }
        let mut data: Vec<u8> = Vec::new();
        for (name, shape, kind, bytes) in &self.tensors {
            string(&mut out, name);
            out.extend((shape.len() as u32).to_le_bytes());
            shape.iter().rev().for_each(|size| out.extend((*size as u64).to_le_bytes()));
            out.extend(kind.to_le_bytes());
            data.resize(data.len().next_multiple_of(32), 0);
            out.extend((data.len() as u64).to_le_bytes());
            data.extend(bytes);
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(data);
        out
    }

    pub(super) fn write(&self, folder: &Path) -> PathBuf {
        let path = folder.join("tiny.gguf");
        std::fs::write(&path, self.bytes()).unwrap();
        path
    }
}

/// Numbers that differ everywhere: element `n` of tensor number `tensor`.
pub(super) fn numbers(tensor: usize, count: usize) -> Vec<f32> {
    (0..count).map(|n| (tensor * 10_000 + n) as f32).collect()
}

/// GPT-2's printable stand-ins of the 256 bytes.
pub(super) fn byte_characters() -> Vec<char> {
    let printable =
        |byte: u32| (33..=126).contains(&byte) || (161..=172).contains(&byte) || (174..=255).contains(&byte);
    let mut next = 256;
    (0..256u32)
        .map(|byte| {
            let code = if printable(byte) {
                byte
            } else {
                next += 1;
                next - 1
            };
            char::from_u32(code).unwrap()
        })
        .collect()
}

/// Tokens: 0 `<|im_start|>`, 1 `<|im_end|>`, 2 to 257 the bytes, then `he`, `ll`, `llo`, `hello`, `Ġhello`, `12`, `<tool>`.
pub(super) const VOCABULARY: usize = 265;

/// A llama of one layer, 8 wide, 2 heads of 4, 1 key-value head, 12 in the MLP, tied.
pub(super) fn tiny_gguf() -> Gguf {
    let mut gguf = Gguf { meta: Vec::new(), tensors: Vec::new() };
    let mut tokens = vec!["<|im_start|>".to_owned(), "<|im_end|>".to_owned()];
    tokens.extend(byte_characters().into_iter().map(String::from));
    tokens.extend(["he", "ll", "llo", "hello", "Ġhello", "12", "<tool>"].map(str::to_owned));
    let merges = ["h e", "l l", "ll o", "he llo", "Ġ hello", "1 2"].map(str::to_owned).to_vec();
    let types = (0..VOCABULARY as i32)
        .map(|id| {
            if id < 2 {
                3
            } else if id == 264 {
                4
            } else {
                1
            }
        })
        .collect();
    gguf.set("general.architecture", Meta::text("llama"))
        .set("general.license", Meta::text("apache-2.0"))
        .set("llama.embedding_length", Meta::U32(8))
        .set("llama.feed_forward_length", Meta::U32(12))
        .set("llama.block_count", Meta::U32(1))
        .set("llama.attention.head_count", Meta::U32(2))
        .set("llama.attention.head_count_kv", Meta::U32(1))
        .set("llama.context_length", Meta::U32(64))
        .set("llama.attention.layer_norm_rms_epsilon", Meta::F32(1e-5))
        .set("llama.rope.freq_base", Meta::F32(100_000.0))
        .set("tokenizer.ggml.model", Meta::text("gpt2"))
        .set("tokenizer.ggml.pre", Meta::text("smollm"))
        .set("tokenizer.ggml.tokens", Meta::Texts(tokens))
        .set("tokenizer.ggml.token_type", Meta::I32s(types))
        .set("tokenizer.ggml.merges", Meta::Texts(merges))
        .set("tokenizer.ggml.bos_token_id", Meta::U32(0))
        .set("tokenizer.ggml.eos_token_id", Meta::U32(1))
        .set("tokenizer.ggml.padding_token_id", Meta::U32(1))
        .set("tokenizer.chat_template", Meta::text("{{ messages }}"));
    let shapes: [(&str, &[usize]); 11] = [
        ("token_embd.weight", &[VOCABULARY, 8]),
        ("output_norm.weight", &[8]),
        ("blk.0.attn_norm.weight", &[8]),
        ("blk.0.ffn_norm.weight", &[8]),
        ("blk.0.attn_q.weight", &[8, 8]),
        ("blk.0.attn_k.weight", &[4, 8]),
        ("blk.0.attn_v.weight", &[4, 8]),
        ("blk.0.attn_output.weight", &[8, 8]),
        ("blk.0.ffn_gate.weight", &[12, 8]),
        ("blk.0.ffn_up.weight", &[12, 8]),
        ("blk.0.ffn_down.weight", &[8, 12]),
    ];
    for (index, (name, shape)) in shapes.into_iter().enumerate() {
        gguf.f32_tensor(name, shape, &numbers(index, shape.iter().product()));
    }
    gguf
}

/// The same model's tensors under their Hugging Face names, as f32.
pub(super) fn tiny_tensors() -> TensorMap {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = Checkpoint::open(&tiny_gguf().write(folder.path())).unwrap();
    let read = |name: &str| {
        let view = checkpoint.tensor(name).unwrap();
        assert_eq!(view.stored, StoredType::F32);
        (name.to_owned(), NamedTensor::f32(view.shape.clone(), view.to_f32()))
    };
    checkpoint.names().into_iter().map(read).collect()
}

/// `config.json` of the same model.
pub(super) fn tiny_config() -> serde_json::Value {
    serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8, "intermediate_size": 12,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": VOCABULARY,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 100_000.0, "tie_word_embeddings": true,
        "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "hidden_act": "silu",
    })
}

/// Writes a folder with `config` and the tiny model's tensors in one file.
pub(super) fn tiny_folder(folder: &Path, config: &serde_json::Value) {
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    crate::tensors::write(&folder.join("model.safetensors"), &tiny_tensors()).unwrap();
}

/// The message of opening `path`, which must fail, without the folder's name.
pub(super) fn error(path: &Path, folder: &Path) -> String {
    match Checkpoint::open(path) {
        Ok(_) => "opened".to_owned(),
        Err(error) => error.to_string().replace(&folder.display().to_string(), "FOLDER"),
    }
}
