//! Broken and hostile files give errors: never a panic, nor memory for what a file only claims to hold.

use super::support::{Gguf, Meta, tiny_gguf};
use crate::checkpoint::Checkpoint;
use pemlc_hostile::{bounded, damage};
use proptest::prelude::*;
use proptest::sample::Index;
use std::path::Path;
use std::sync::LazyLock;

/// The most that reading one of these small files may hold at once.
const BOUND: i64 = 32 << 20;

static TINY: LazyLock<Vec<u8>> = LazyLock::new(|| tiny_gguf().bytes());

/// Reads everything that can be read.
fn read_all(path: &Path) {
    let Ok(checkpoint) = Checkpoint::open(path) else { return };
    for name in checkpoint.names() {
        if let Ok(tensor) = checkpoint.tensor(name) {
            let _ = tensor.to_f32();
        }
    }
    let _ = checkpoint.output_head().map(|head| head.rows_f32(0..1));
    let _ = checkpoint.tokenizer_json();
    let _ = checkpoint.companion_files();
    let _ = checkpoint.licence();
    let _ = checkpoint.config_json();
    let _ = checkpoint.config().rope_inverse_frequencies();
}

fn read_bytes(bytes: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostile.gguf");
    std::fs::write(&path, bytes).unwrap();
    bounded(BOUND, bytes.len(), || read_all(&path));
}

#[test]
fn false_lengths_allocate_nothing() {
    let header = |tensors: u64, values: u64| {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3u32.to_le_bytes());
        bytes.extend(tensors.to_le_bytes());
        bytes.extend(values.to_le_bytes());
        bytes
    };
    read_bytes(&header(u64::MAX, 0));
    read_bytes(&header(0, u64::MAX));
    let mut array = header(0, 1);
    array.extend(1u64.to_le_bytes());
    array.push(b'k');
    array.extend(9u32.to_le_bytes());
    for element in 0..14u32 {
        let mut bytes = array.clone();
        bytes.extend(element.to_le_bytes());
        bytes.extend(u64::MAX.to_le_bytes());
        read_bytes(&bytes);
    }
    // Arrays of arrays, as deep as the file is long.
    for _ in 0..100_000 {
        array.extend(9u32.to_le_bytes());
        array.extend(1u64.to_le_bytes());
    }
    read_bytes(&array);
}

#[test]
fn an_empty_file_and_a_missing_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("empty.gguf");
    std::fs::write(&path, "").unwrap();
    assert!(Checkpoint::open(&path).err().unwrap().to_string().ends_with("neither a folder nor a GGUF file"));
    assert!(Checkpoint::open(&folder.path().join("none")).is_err());
}

/// Two kilobytes that would be tables of gigabytes: nothing but the file says how wide a head is.
#[test]
fn a_false_head_width_makes_no_table() {
    let mut gguf = tiny_gguf();
    gguf.set("llama.attention.key_length", Meta::U32(1 << 28)).f32_tensor("rope_freqs.weight", &[2], &[1.0, 8.0]);
    read_bytes(&gguf.bytes());
    let folder = tempfile::tempdir().unwrap();
    let error = Checkpoint::open(&gguf.write(folder.path())).err().unwrap().to_string();
    assert!(error.ends_with("`head_dim` is 268435456, expected from 1 to 65536"), "{error}");
}

#[test]
fn tensors_that_share_bytes_are_refused() {
    let mut bytes = tiny_gguf().bytes();
    // The offset of the last tensor in the header, `blk.0.ffn_down.weight`, becomes that of the first.
    let name = bytes.windows(21).position(|name| name == b"blk.0.ffn_down.weight").unwrap();
    let offset = name + 21 + 4 + 2 * 8 + 4;
    bytes[offset..offset + 8].copy_from_slice(&0u64.to_le_bytes());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shared.gguf");
    std::fs::write(&path, bytes).unwrap();
    let error = Checkpoint::open(&path).err().unwrap().to_string();
    assert!(error.ends_with("tensors `blk.0.ffn_down.weight` and `token_embd.weight` share bytes"), "{error}");
}

/// A metadata value of any kind.
fn meta() -> impl Strategy<Value = Meta> {
    let number = || prop_oneof![0..70u32, Just(u32::MAX), Just(1 << 31), Just(1 << 28), any::<u32>()];
    let float = prop_oneof![Just(f32::NAN), Just(f32::INFINITY), Just(-0.0), Just(0.0), any::<f32>()];
    prop_oneof![
        4 => number().prop_map(Meta::U32),
        2 => float.prop_map(Meta::F32),
        1 => any::<bool>().prop_map(Meta::Bool),
        1 => "\\PC{0,6}".prop_map(Meta::Text),
        1 => prop_oneof![Just("qwen2"), Just("llama-bpe"), Just("gpt2"), Just("yarn"), Just("linear")].prop_map(Meta::text),
        1 => proptest::collection::vec("[a-c ]{0,3}", 0..6).prop_map(Meta::Texts),
        1 => proptest::collection::vec(any::<i32>(), 0..6).prop_map(Meta::I32s),
    ]
}

const MORE_KEYS: [&str; 12] = [
    "general.alignment",
    "llama.attention.key_length",
    "llama.attention.value_length",
    "llama.rope.dimension_count",
    "llama.rope.scaling.type",
    "llama.rope.scaling.factor",
    "llama.expert_count",
    "tokenizer.ggml.add_bos_token",
    "tokenizer.ggml.add_eos_token",
    "tokenizer.ggml.unknown_token_id",
    "tokenizer.ggml.eot_token_id",
    "general.license",
];

proptest! {
    /// Metadata of other kinds, and with senseless numbers.
    #[test]
    fn gguf_with_other_metadata(changes in proptest::collection::vec((any::<Index>(), proptest::option::weighted(0.9, meta())), 1..5)) {
        let mut gguf = tiny_gguf();
        let keys: Vec<String> = gguf.meta.iter().map(|(key, _)| key.clone()).chain(MORE_KEYS.map(str::to_owned)).collect();
        for (at, value) in changes {
            let key = &keys[at.index(keys.len())];
            match value {
                Some(value) => gguf.set(key, value),
                None => gguf.remove(key),
            };
        }
        read_bytes(&gguf.bytes());
    }

    /// Tensors of other shapes, types and names.
    #[test]
    fn gguf_with_other_tensors(
        at in any::<Index>(),
        shape in proptest::collection::vec(prop_oneof![0..300usize, Just(usize::MAX), Just(1 << 63), Just(1 << 32), Just(1 << 20)], 0..6),
        kind in prop_oneof![0..45u32, any::<u32>()],
        keep in (any::<bool>(), any::<bool>()),
        name in prop_oneof![3 => Just(None), 1 => Just(Some("rope_freqs.weight")), 1 => Just(Some("output.weight")), 1 => Just(Some("blk.9.attn_q.bias"))],
    ) {
        let mut gguf = tiny_gguf();
        let at = at.index(gguf.tensors.len());
        let tensor = &mut gguf.tensors[at];
        if !keep.0 {
            tensor.1 = shape;
        }
        if !keep.1 {
            tensor.2 = kind;
        }
        if let Some(name) = name {
            tensor.0 = name.to_owned();
        }
        read_bytes(&gguf.bytes());
    }

    #[test]
    fn damaged_gguf(damage in damage()) {
        read_bytes(&damage.apply(&TINY));
    }

    /// What stands before the numbers alone.
    #[test]
    fn damaged_gguf_header(damage in damage()) {
        let end = TINY.len() - tiny_gguf().tensors.iter().map(|(.., bytes)| bytes.len()).sum::<usize>();
        read_bytes(&[damage.apply(&TINY[..end]), TINY[end..].to_vec()].concat());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn truncated_gguf(end in 0usize..20_000) {
        let bytes = &TINY[..end.min(TINY.len() - 1)];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cut.gguf");
        std::fs::write(&path, bytes).unwrap();
        prop_assert!(Checkpoint::open(&path).is_err());
    }

    #[test]
    fn gguf_with_changed_numbers(key in 0usize..6, value in any::<u32>()) {
        let keys = ["embedding_length", "feed_forward_length", "block_count", "attention.head_count", "attention.head_count_kv", "context_length"];
        let mut gguf: Gguf = tiny_gguf();
        gguf.set(&format!("llama.{}", keys[key]), Meta::U32(value));
        read_bytes(&gguf.bytes());
    }
}
