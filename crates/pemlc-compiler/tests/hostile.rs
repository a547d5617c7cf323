//! Hostile run directories through `export`, and hostile texts of graphs through parser, verifier and passes: a result or an error, no panic,
//! and no more memory than a small bound.
//!
//! Each property runs 256 cases; `PROPTEST_CASES=20000 cargo test -p pemlc-compiler --test hostile` runs more.

#[allow(unreachable_pub, reason = "shared by several test files")]
mod support;

use pemlc_compiler::ir::{parse, verify};
use pemlc_compiler::passes::{by_name, run_passes};
use pemlc_compiler::{ExportOptions, export};
use pemlc_hostile::{bounded, changes, damage, header_changes};
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use support::fixture::{Fixture, PrefixKind, Spec};

/// The most that one thread may hold at once. The writer's workers hold blocks of fixed size.
const BOUND: i64 = 64 << 20;

/// Files of a run, and what they hold.
type Files = Vec<(PathBuf, Vec<u8>)>;

/// Runs that together have every file, and their files by path.
struct Runs {
    runs: Vec<(Fixture, Files)>,
}

fn files_below(folder: &Path, files: &mut Vec<(PathBuf, Vec<u8>)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, files);
        } else {
            let contents = fs::read(&path).unwrap();
            files.push((path, contents));
        }
    }
}

impl Runs {
    fn new() -> Self {
        let specs = [
            Spec { shared: true, private: true, prefix: Some(PrefixKind::Encoder), tasks: 2, ..Spec::default() },
            Spec { private: true, mixed: true, prefix: Some(PrefixKind::Table), tasks: 2, ..Spec::default() },
            Spec { shared: true, magnitudes: true, tasks: 1, ..Spec::default() },
            Spec { shared: true, prefix: Some(PrefixKind::SoftPrompts), tasks: 2, ..Spec::default() },
        ];
        let runs = specs.map(|spec| {
            let fixture = Fixture::new(spec);
            if spec.prefix == Some(PrefixKind::SoftPrompts) {
                // The trainer's rows would say how many there are.
                fs::remove_file(fixture.run().join("prompt/prefix.safetensors")).unwrap();
            }
            let mut files = Vec::new();
            files_below(&fixture.run(), &mut files);
            files.sort();
            (fixture, files)
        });
        Self { runs: runs.into() }
    }

    /// Exports a run with one of its files changed, and puts the file back.
    fn with(&self, run: usize, at: &Index, change: impl Fn(&Path, &[u8]) -> Vec<u8>) {
        let (fixture, files) = &self.runs[run];
        let (path, contents) = &files[at.index(files.len())];
        let changed = change(path, contents);
        fs::write(path, &changed).unwrap();
        let out = fixture.folder.path().join("hostile");
        let options = ExportOptions { force: true, ..ExportOptions::default() };
        bounded(BOUND, changed.len(), || {
            if let Err(error) = export(&fixture.run(), None, &out, &options, &mut |_| {}) {
                assert!(!error.to_string().is_empty());
            }
        });
        let _ = fs::remove_dir_all(&out);
        fs::write(path, contents).unwrap();
    }
}

thread_local! {
    static RUNS: Runs = Runs::new();
}

fn is_json(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "json")
}

#[test]
fn the_runs_to_be_damaged_are_good() {
    for (fixture, _) in &Runs::new().runs {
        let out = fixture.folder.path().join("good");
        export(&fixture.run(), None, &out, &ExportOptions::default(), &mut |_| {}).unwrap();
    }
}

proptest! {
    /// Documents with other values, tensors with other headers.
    #[test]
    fn changed_runs(run in 0..4usize, at in any::<Index>(), document in changes(), header in header_changes()) {
        RUNS.with(|runs| runs.with(run, &at, |path, contents| {
            if !is_json(path) {
                return header.apply(contents);
            }
            let mut value: Value = serde_json::from_slice(contents).unwrap();
            document.iter().for_each(|change| change.apply(&mut value));
            // Where the base model is, is no part of what is tested: it would be any path of this machine.
            if let Some(base) = value.get_mut("base").and_then(Value::as_object_mut) {
                let whole: Value = serde_json::from_slice(contents).unwrap();
                base.insert("path".to_owned(), whole["base"]["path"].clone());
            }
            value.to_string().into_bytes()
        }));
    }

    #[test]
    fn damaged_runs(run in 0..4usize, at in any::<Index>(), damage in damage()) {
        RUNS.with(|runs| runs.with(run, &at, |path, contents| {
            if path.ends_with("run.json") { contents.to_vec() } else { damage.apply(contents) }
        }));
    }
}

fn texts() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("filetests");
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| fs::read_to_string(file).unwrap()).collect()
}

/// Reads, verifies, prints, reads again, and runs the passes that the first line names.
fn exercise(text: &str) {
    bounded(BOUND, text.len(), || {
        let Ok(mut graph) = parse(text, &BTreeMap::new()) else { return };
        let printed = graph.to_string();
        assert_eq!(parse(&printed, &graph.constants()).unwrap().to_string(), printed);
        if verify(&graph).is_err() {
            return;
        }
        let named = text.lines().next().and_then(|line| line.strip_prefix("; passes: ")).unwrap_or_default();
        let passes: Vec<_> = named.split(", ").filter_map(by_name).collect();
        let _ = run_passes(&mut graph, &passes);
    });
}

proptest! {
    /// Other numbers where sizes, axes and values stand.
    #[test]
    fn graphs_with_other_numbers(
        file in any::<Index>(),
        changes in proptest::collection::vec((any::<Index>(), prop_oneof![(0..40u64).boxed(), Just(u64::MAX).boxed(), Just(1 << 63).boxed(), Just((1 << 32) - 1).boxed(), any::<u64>().boxed()]), 1..5),
    ) {
        let texts = texts();
        let text = &texts[file.index(texts.len())];
        let text = text.split("; expect").next().unwrap_or_default();
        let mut parts: Vec<String> = Vec::new();
        for character in text.chars() {
            match parts.last_mut() {
                Some(part) if part.ends_with(|last: char| last.is_ascii_digit() == character.is_ascii_digit()) => part.push(character),
                _ => parts.push(character.to_string()),
            }
        }
        let numbers: Vec<usize> = (0..parts.len()).filter(|place| parts[*place].starts_with(|c: char| c.is_ascii_digit())).collect();
        for (at, number) in changes {
            parts[numbers[at.index(numbers.len())]] = number.to_string();
        }
        exercise(&parts.concat());
    }

    #[test]
    fn damaged_graphs(file in any::<Index>(), damage in damage()) {
        let texts = texts();
        exercise(&String::from_utf8_lossy(&damage.apply(texts[file.index(texts.len())].as_bytes())));
    }
}

/// Sizes whose sums and products are beyond any number.
#[test]
fn sizes_beyond_numbers_are_refused() {
    let all = "18446744073709551615";
    for (declared, node) in [
        ("f32[4294967295, 4294967295, 4294967295]", format!("Reshape(x) {{shape = [{all}, {all}]}}")),
        ("f32[4294967295, 4294967295]", "Reshape(x) {shape = [9223372036854775808, 2]}".to_owned()),
        ("f32[4294967295, 4294967295, 2]", "Concat(x, x, x) {axis = 2}".to_owned()),
        ("f32[2, 2]", format!("Slice(x) {{axis = 0, start = {all}, end = 1}}")),
        ("f32[2, 2]", format!("Unsqueeze(x) {{axes = [{all}]}}")),
        ("f32[2, 2]", format!("ReduceSum(x) {{axes = [{all}]}}")),
        ("f32[2, 2]", format!("Transpose(x) {{permutation = [{all}, 0]}}")),
    ] {
        exercise(&format!("graph g\n  input x: {declared}\n  y: f32[1] = {node}\n  return y\n"));
    }
}
