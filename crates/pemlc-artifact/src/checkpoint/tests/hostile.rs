//! Broken and hostile files give errors: never a panic, nor memory for what a file only claims to hold.

use super::support::{Gguf, Meta, tiny_config, tiny_folder, tiny_gguf};
use crate::checkpoint::Checkpoint;
use proptest::prelude::*;
use std::path::Path;
use std::sync::LazyLock;

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
}

fn read_bytes(bytes: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostile.gguf");
    std::fs::write(&path, bytes).unwrap();
    read_all(&path);
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
    fn gguf_with_changed_bytes(changes in proptest::collection::vec((any::<u16>(), any::<u8>()), 1..8)) {
        let mut bytes = TINY.clone();
        let length = bytes.len();
        for (place, byte) in changes {
            bytes[place as usize % length] = byte;
        }
        read_bytes(&bytes);
    }

    #[test]
    fn gguf_with_changed_numbers(key in 0usize..6, value in any::<u32>()) {
        let keys = ["embedding_length", "feed_forward_length", "block_count", "attention.head_count", "attention.head_count_kv", "context_length"];
        let mut gguf: Gguf = tiny_gguf();
        gguf.set(&format!("llama.{}", keys[key]), Meta::U32(value));
        read_bytes(&gguf.bytes());
    }

    #[test]
    fn folder_with_a_changed_header(changes in proptest::collection::vec((0usize..1500, any::<u8>()), 1..6)) {
        let folder = tempfile::tempdir().unwrap();
        tiny_folder(folder.path(), &tiny_config());
        let path = folder.path().join("model.safetensors");
        let mut bytes = std::fs::read(&path).unwrap();
        for (place, byte) in changes {
            bytes[place] = byte;
        }
        std::fs::write(&path, bytes).unwrap();
        read_all(folder.path());
    }

    #[test]
    fn folder_with_a_changed_configuration(place in 0usize..400, text in "[-0-9a-z\"{}\\[\\],:.]{0,6}") {
        let folder = tempfile::tempdir().unwrap();
        tiny_folder(folder.path(), &tiny_config());
        let mut config = tiny_config().to_string();
        let place = place.min(config.len());
        let end = (place + text.len()).min(config.len());
        config.replace_range(place..end, &text);
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        read_all(folder.path());
    }
}
