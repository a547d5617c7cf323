//! Weights and shapes from GGUF.

use super::support::{Gguf, Meta, VOCABULARY, error, numbers, tiny_gguf};
use crate::checkpoint::{Checkpoint, StoredType};
use crate::config::RopeScaling;

fn open(gguf: &Gguf) -> (tempfile::TempDir, Checkpoint) {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = Checkpoint::open(&gguf.write(folder.path())).unwrap();
    (folder, checkpoint)
}

fn refused(edit: impl FnOnce(&mut Gguf) -> &mut Gguf) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut gguf = tiny_gguf();
    edit(&mut gguf);
    error(&gguf.write(folder.path()), folder.path())
}

#[test]
fn shape_of_the_model() {
    let (_folder, checkpoint) = open(&tiny_gguf());
    insta::assert_json_snapshot!(checkpoint.config(), @r#"
{
  "family": "llama",
  "hidden_size": 8,
  "intermediate_size": 12,
  "num_hidden_layers": 1,
  "num_attention_heads": 2,
  "num_key_value_heads": 1,
  "head_dim": 4,
  "vocab_size": 265,
  "max_position_embeddings": 64,
  "rms_norm_eps": 0.00001,
  "rope_theta": 100000.0,
  "rope_scaling": null,
  "tie_word_embeddings": true,
  "bos_token_id": 0,
  "eos_token_ids": [
    1
  ],
  "pad_token_id": 1
}
"#);
}

#[test]
fn tensors_have_hugging_face_names() {
    let (_folder, checkpoint) = open(&tiny_gguf());
    insta::assert_snapshot!(checkpoint.names().join("\n"), @"
model.embed_tokens.weight
model.layers.0.input_layernorm.weight
model.layers.0.mlp.down_proj.weight
model.layers.0.mlp.gate_proj.weight
model.layers.0.mlp.up_proj.weight
model.layers.0.post_attention_layernorm.weight
model.layers.0.self_attn.k_proj.weight
model.layers.0.self_attn.o_proj.weight
model.layers.0.self_attn.q_proj.weight
model.layers.0.self_attn.v_proj.weight
model.norm.weight
");
    assert_eq!(checkpoint.output_head().unwrap().name, "model.embed_tokens.weight");
    let error = checkpoint.tensor("model.layers.0.self_attn.q_proj").unwrap_err().to_string();
    assert!(error.contains("near names: model.layers.0.self_attn.q_proj.weight"), "{error}");
}

#[test]
fn query_and_key_rows_are_put_back_for_llama() {
    let (_folder, checkpoint) = open(&tiny_gguf());
    let rows = |name: &str, rows| -> Vec<f32> {
        let values = checkpoint.tensor(name).unwrap().rows_f32(rows);
        values.chunks(8).map(|row| row[0]).collect()
    };
    // Tensor 4 in rows of 8: the file's rows 0 1 2 3 of a head are rows 0 2 1 3 of the rotate-half order.
    assert_eq!(
        rows("model.layers.0.self_attn.q_proj.weight", 0..8),
        [0, 2, 1, 3, 4, 6, 5, 7].map(|n| 40_000.0 + 8.0 * n as f32)
    );
    assert_eq!(rows("model.layers.0.self_attn.q_proj.weight", 5..7), [6, 5].map(|n| 40_000.0 + 8.0 * n as f32));
    assert_eq!(rows("model.layers.0.self_attn.k_proj.weight", 0..4), [0, 2, 1, 3].map(|n| 50_000.0 + 8.0 * n as f32));
    assert_eq!(rows("model.layers.0.self_attn.v_proj.weight", 0..4), [0, 1, 2, 3].map(|n| 60_000.0 + 8.0 * n as f32));
}

#[test]
fn qwen2_has_biases_and_its_own_row_order() {
    let mut gguf = tiny_gguf();
    gguf.meta = gguf.meta.into_iter().map(|(key, value)| (key.replace("llama.", "qwen2."), value)).collect();
    gguf.set("general.architecture", Meta::text("qwen2"));
    for (name, size) in [("q", 8), ("k", 4), ("v", 4)] {
        gguf.f32_tensor(&format!("blk.0.attn_{name}.bias"), &[size], &numbers(20, size));
    }
    let (_folder, checkpoint) = open(&gguf);
    assert!(checkpoint.config().has_qkv_bias());
    assert_eq!(checkpoint.tensor("model.layers.0.self_attn.q_proj.weight").unwrap().to_f32(), numbers(4, 64));
    assert_eq!(checkpoint.tensor("model.layers.0.self_attn.k_proj.bias").unwrap().to_f32(), numbers(20, 4));
}

#[test]
fn quantised_rows_are_decoded_by_range() {
    let mut gguf = tiny_gguf();
    // An output head of 8-number rows cannot be in blocks of 32, so the whole model gets 32 wide.
    let shapes: [(&str, &[usize]); 10] = [
        ("output_norm.weight", &[32]),
        ("blk.0.attn_norm.weight", &[32]),
        ("blk.0.ffn_norm.weight", &[32]),
        ("blk.0.attn_q.weight", &[32, 32]),
        ("blk.0.attn_k.weight", &[16, 32]),
        ("blk.0.attn_v.weight", &[16, 32]),
        ("blk.0.attn_output.weight", &[32, 32]),
        ("blk.0.ffn_gate.weight", &[12, 32]),
        ("blk.0.ffn_up.weight", &[12, 32]),
        ("blk.0.ffn_down.weight", &[32, 12]),
    ];
    for (index, (name, shape)) in shapes.into_iter().enumerate() {
        gguf.f32_tensor(name, shape, &numbers(index, shape.iter().product()));
    }
    // Q8_0: scale 1, then the row's number repeated.
    let block = |row: usize| [0x00, 0x3c].into_iter().chain([row as u8 & 0x7f; 32]);
    gguf.set("llama.embedding_length", Meta::U32(32));
    gguf.tensor("token_embd.weight", &[VOCABULARY, 32], 8, (0..VOCABULARY).flat_map(block).collect());
    gguf.tensor("blk.0.attn_q.weight", &[32, 32], 8, (0..32).flat_map(block).collect());
    let (_folder, checkpoint) = open(&gguf);
    let embedding = checkpoint.tensor("model.embed_tokens.weight").unwrap();
    assert_eq!(embedding.stored, StoredType::Q8_0);
    assert_eq!(embedding.rows_f32(5..7), [[5.0; 32], [6.0; 32]].concat());
    assert_eq!(embedding.to_f32().len(), VOCABULARY * 32);
    // Heads of 16: row 9 of the rotate-half order is the second half's second, row 3 in the file.
    assert_eq!(checkpoint.tensor("model.layers.0.self_attn.q_proj.weight").unwrap().rows_f32(9..10), [3.0; 32]);
}

#[test]
fn llama3_scaling_is_found_again_from_its_divisors() {
    let scaling = RopeScaling::Llama3 {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    let mut gguf = tiny_gguf();
    gguf.set("llama.rope.freq_base", Meta::F32(500_000.0));
    let (_folder, plain) = open(&gguf);
    let mut config = plain.config().clone();
    let frequencies = config.rope_inverse_frequencies();
    config.rope_scaling = Some(scaling.clone());
    let divisors: Vec<f32> =
        frequencies.iter().zip(config.rope_inverse_frequencies()).map(|(plain, scaled)| plain / scaled).collect();
    gguf.f32_tensor("rope_freqs.weight", &[2], &divisors);
    // Two frequencies of four-wide heads: 1 is kept, 1/707 (wavelength 4443) is between the bounds.
    assert_eq!(divisors[0], 1.0);
    assert!(divisors[1] > 1.0 && divisors[1] < 32.0);
    let folder = tempfile::tempdir().unwrap();
    let error = error(&gguf.write(folder.path()), folder.path());
    assert_eq!(
        error,
        "FOLDER/tiny.gguf: tensor `rope_freqs.weight` is not Llama 3's rope scaling, the only one known in this form"
    );
    // With a base at which the slowest frequency is divided in full, the factor can be read off.
    gguf.set("llama.rope.freq_base", Meta::F32(5e8)).f32_tensor("rope_freqs.weight", &[2], &[1.0, 32.0]);
    assert_eq!(open(&gguf).1.config().rope_scaling, Some(scaling));
}

#[test]
fn linear_scaling_is_read() {
    let mut gguf = tiny_gguf();
    gguf.set("llama.rope.scaling.type", Meta::text("linear")).set("llama.rope.scaling.factor", Meta::F32(2.0));
    assert_eq!(open(&gguf).1.config().rope_scaling, Some(RopeScaling::Linear { factor: 2.0 }));
}

#[test]
fn what_cannot_be_read_is_named() {
    insta::assert_snapshot!(
        [
            refused(|gguf| gguf.set("general.architecture", Meta::text("gemma2"))),
            refused(|gguf| gguf.tensor("blk.0.attn_v.weight", &[4, 8], 12, vec![0; 144])),
            refused(|gguf| gguf.tensor("blk.0.attn_v.weight", &[4, 8], 99, vec![])),
            refused(|gguf| gguf.f32_tensor("blk.0.attn_v.weight", &[5, 8], &[0.0; 40])),
            refused(|gguf| gguf.f32_tensor("blk.0.attn_v.bias", &[4], &[0.0; 4])),
            refused(|gguf| gguf.remove_tensor("blk.0.ffn_up.weight")),
            refused(|gguf| gguf.set("llama.block_count", Meta::U32(2))),
            refused(|gguf| gguf.set("llama.block_count", Meta::U32(0))),
            refused(|gguf| gguf.set("llama.attention.head_count_kv", Meta::U32(3))),
            refused(|gguf| gguf.set("llama.attention.head_count", Meta::text("two"))),
            refused(|gguf| gguf.remove("llama.context_length")),
            refused(|gguf| gguf.set("llama.rope.dimension_count", Meta::U32(2))),
            refused(|gguf| gguf.set("llama.rope.scaling.type", Meta::text("yarn")).set("llama.rope.scaling.factor", Meta::F32(4.0))),
            refused(|gguf| gguf.set("llama.expert_count", Meta::U32(8))),
            refused(|gguf| gguf.set("tokenizer.ggml.eos_token_id", Meta::U32(999))),
            refused(|gguf| gguf.tensor("blk.0.attn_v.weight", &[4, 8], 0, vec![0; 16])),
            refused(|gguf| gguf.tensor("blk.0.attn_v.weight", &[4, 8], 3, vec![0; 20])),
        ]
        .join("\n"), @r#"
FOLDER/tiny.gguf: architecture "gemma2" is not supported; `llama` and `qwen2` are
FOLDER/tiny.gguf: tensor `blk.0.attn_v.weight` is stored as Q4_K, which cannot be read; F32, F16, BF16, Q8_0, Q4_0, Q4_1 and Q6_K can: convert the model to one of these
FOLDER/tiny.gguf: tensor `blk.0.attn_v.weight` is stored as ggml type 99, which cannot be read; F32, F16, BF16, Q8_0, Q4_0, Q4_1 and Q6_K can: convert the model to one of these
FOLDER/tiny.gguf: tensor `model.layers.0.self_attn.v_proj.weight` has shape [5, 8], the configuration asks for [4, 8]
FOLDER/tiny.gguf: the llama family does not use these tensors: model.layers.0.self_attn.v_proj.bias
FOLDER/tiny.gguf: tensor `model.layers.0.mlp.up_proj.weight` is missing; near names: model.layers.0.mlp.down_proj.weight, model.layers.0.mlp.gate_proj.weight, model.layers.0.self_attn.k_proj.weight
FOLDER/tiny.gguf: tensor `model.layers.1.input_layernorm.weight` is missing; near names: model.layers.0.input_layernorm.weight, model.layers.0.mlp.up_proj.weight, model.layers.0.mlp.down_proj.weight
FOLDER/tiny.gguf: `llama.block_count` is 0, expected from 1 to 268435456
FOLDER/tiny.gguf: 2 attention heads cannot share 3 key-value heads
FOLDER/tiny.gguf: metadata key `llama.attention.head_count` holds a string, expected a non-negative integer
FOLDER/tiny.gguf: metadata key `llama.context_length` is missing
FOLDER/tiny.gguf: `llama.rope.dimension_count` is 2, but heads are 4 wide: not supported
FOLDER/tiny.gguf: rope scaling "yarn" is not supported; `linear` and Llama 3's are
FOLDER/tiny.gguf: mixtures of experts are not supported; this one has 8
FOLDER/tiny.gguf: `tokenizer.ggml.eos_token_id` is 999, outside the vocabulary of 265 tokens
FOLDER/tiny.gguf: tensor `blk.0.attn_v.weight`: F32 [4, 8] at offset 10368 goes beyond the file's 15600 bytes: is it truncated?
FOLDER/tiny.gguf: tensor `blk.0.attn_v.weight`: rows of 8 numbers are not whole Q4_1 blocks of 32
"#);
}
