//! Hostile files through every reader of this crate: an answer or an error that names the file, no panic, and no more memory than a small
//! bound, whatever sizes a file claims. GGUF files are beside their writer, in `src/checkpoint/tests/hostile.rs`.
//!
//! Each property runs 256 cases; `PROPTEST_CASES=20000 cargo test -p pemlc-artifact hostile` runs more.

mod adapters;
mod checkpoints;
mod manifests;
mod tensors;

use std::path::{Path, PathBuf};

/// The most that a reader may hold at once for the small files of these tests.
const BOUND: i64 = 32 << 20;

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(path)
}

/// Errors name what is at fault: the path that was read, or a file below it.
fn names_its_file<T, E: std::fmt::Display>(result: &Result<T, E>, path: &Path) {
    if let Err(error) = result {
        let text = error.to_string();
        assert!(text.starts_with(&path.display().to_string()), "{text}");
    }
}
