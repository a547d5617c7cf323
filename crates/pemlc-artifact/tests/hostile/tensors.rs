//! The tensor files of a run: probes, prefix rows, soft prompts, an encoder's weights.

use super::{BOUND, names_its_file};
use pemlc_artifact::probes::Probes;
use pemlc_artifact::prompt::{Prefix, PrefixLayer, SoftPrompts};
use pemlc_artifact::tensors;
use pemlc_hostile::{bounded, damage, header_changes};
use proptest::prelude::*;
use std::fs;
use std::path::Path;

fn probes(path: &Path) {
    let probes = Probes {
        count: 2,
        length: 3,
        scored: 1,
        vocab_size: 4,
        input_ids: vec![1, 2, 3, 3, 1, 0],
        attention_mask: vec![1, 1, 1, 1, 1, 0],
        task_id: vec![0, 1],
        positions: vec![2, 1],
        logits: (0..8).map(|n| n as f32).collect(),
        base_logits: vec![0.25; 8],
        f32_rounding: Some(vec![1e-5; 2]),
    };
    probes.write(path).unwrap();
}

fn prefix(path: &Path) {
    let layer = |n: usize| PrefixLayer {
        key: (n..n + 12).map(|n| n as f32).collect(),
        value: (n + 100..n + 112).map(|n| n as f32).collect(),
        log_gate: vec![0.0; 3],
    };
    let tasks = (0..2).map(|task| (0..2).map(|index| layer(40 * task + 20 * index)).collect()).collect();
    Prefix { kv_heads: 2, length: 3, head_dim: 2, tasks }.write(path).unwrap();
}

fn soft_prompts(path: &Path) {
    SoftPrompts { hidden: 3, tasks: vec![vec![], vec![1.0; 6], vec![2.0; 12]] }.write(path).unwrap();
}

struct Folder {
    folder: tempfile::TempDir,
    files: Vec<Vec<u8>>,
}

thread_local! {
    static FOLDER: Folder = {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("good");
        let files = [probes, prefix, soft_prompts].map(|write| {
            write(&path);
            fs::read(&path).unwrap()
        });
        Folder { folder, files: files.to_vec() }
    };
}

/// By every reader: what is good for one is foreign to the others.
fn read(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
    bounded(BOUND, bytes.len(), || {
        names_its_file(&tensors::read(path), path);
        names_its_file(&Prefix::read(path), path);
        names_its_file(&SoftPrompts::read(path), path);
        let probes = Probes::read(path);
        names_its_file(&probes, path);
        if let Ok(probes) = probes {
            let _ = (0..probes.count).map(|probe| probes.tokens(probe).len()).sum::<usize>();
        }
    });
}

proptest! {
    #[test]
    fn other_headers(which in 0..3usize, change in header_changes()) {
        FOLDER.with(|folder| read(&folder.folder.path().join("file"), &change.apply(&folder.files[which])));
    }

    #[test]
    fn damaged(which in 0..3usize, damage in damage()) {
        FOLDER.with(|folder| read(&folder.folder.path().join("file"), &damage.apply(&folder.files[which])));
    }

    #[test]
    fn arbitrary_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        FOLDER.with(|folder| read(&folder.folder.path().join("file"), &bytes));
    }
}
