//! Passes as texts: each file of `filetests/` names passes, holds a graph, and after `; expect` the graph and what the passes said.
//! `PEMLC_FILETESTS=accept cargo test -p pemlc-compiler --test filetests` writes what is found into the files; read the change then.

use pemlc_artifact::{Checkpoint, Projection};
use pemlc_compiler::ir::{Tensor, parse, verify};
use pemlc_compiler::lower::lower_decoder;
use pemlc_compiler::normal_form::{LowRank, NormalForm};
use pemlc_compiler::passes::{FoldSoftPrompt, Pass, PipelineOptions, Precision, by_name, decoder_passes, run_passes};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const EXPECT: &str = "; expect\n";

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("filetests");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "ir"));
    files.sort();
    files
}

fn tiny_model() -> Checkpoint {
    Checkpoint::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tiny-model")).unwrap()
}

/// The pass `name`; those that read a base model read the tiny one.
fn pass<'a>(name: &str, checkpoint: &'a Checkpoint) -> Box<dyn Pass + 'a> {
    match name {
        "fold_soft_prompt" => Box::new(FoldSoftPrompt { checkpoint }),
        _ => by_name(name).unwrap_or_else(|| panic!("no pass `{name}`")),
    }
}

/// What the passes that `text` names make of its graph.
fn found(text: &str) -> String {
    let named = text.lines().next().and_then(|line| line.strip_prefix("; passes: ")).expect("`; passes: ` first");
    let checkpoint = tiny_model();
    let passes: Vec<_> = named.split(", ").map(|name| pass(name, &checkpoint)).collect();
    let mut graph = parse(text, &BTreeMap::new()).unwrap();
    verify(&graph).unwrap();
    assert_eq!(parse(&graph.to_string(), &graph.constants()).unwrap().to_string(), graph.to_string());
    let outcomes = run_passes(&mut graph, &passes).unwrap();
    let mut found = graph.to_string();
    for outcome in outcomes {
        outcome.changed.iter().for_each(|line| writeln!(found, "; {}: {line}", outcome.pass).unwrap());
        outcome.declined.iter().for_each(|line| writeln!(found, "; {} declined: {line}", outcome.pass).unwrap());
    }
    found
}

#[test]
fn passes_do_what_the_files_say() {
    let accept = std::env::var("PEMLC_FILETESTS").is_ok_and(|value| value == "accept");
    let mut wrong = String::new();
    let files = files();
    assert!(files.len() >= 49, "{} files", files.len());
    for path in files {
        let whole = std::fs::read_to_string(&path).unwrap();
        let (text, expected) = whole.split_once(EXPECT).unwrap_or((&whole, ""));
        let found = found(text);
        if found == expected {
            continue;
        }
        if accept {
            std::fs::write(&path, format!("{text}{EXPECT}{found}")).unwrap();
        } else {
            let diff = similar::TextDiff::from_lines(expected, &found);
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            write!(wrong, "{}", diff.unified_diff().header(&name, "found")).unwrap();
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

proptest! {
    /// Whatever is done to a text, reading it ends in a graph or an error, and a graph is read back from its own text.
    #[test]
    fn mutated_texts_are_read_or_refused(file in any::<prop::sample::Index>(), cuts in prop::collection::vec((0.0f64..1.0, 0usize..12, ".{0,6}"), 1..6)) {
        let mut text = std::fs::read_to_string(file.get(&files())).unwrap();
        for (place, length, insertion) in cuts {
            let mut start = (place * text.len() as f64) as usize;
            while !text.is_char_boundary(start) { start -= 1; }
            let mut end = (start + length).min(text.len());
            while !text.is_char_boundary(end) { end += 1; }
            text.replace_range(start..end, &insertion);
        }
        if let Ok(graph) = parse(&text, &BTreeMap::new()) {
            let printed = graph.to_string();
            let again = parse(&printed, &graph.constants());
            prop_assert!(again.is_ok(), "{printed}\n{again:?}");
            prop_assert_eq!(again.unwrap().to_string(), printed);
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in "(graph g\n)?(.|\n){0,200}") {
        let _ = parse(&text, &BTreeMap::new());
    }
}

#[test]
fn errors_say_where_and_what() {
    let error = |text: &str| parse(text, &BTreeMap::new()).unwrap_err().to_string();
    let nested = format!("graph g\n  weight w: f32[1] = {}", "transpose(".repeat(100));
    let texts = [
        "",
        "graph g\n  input x: f32[2",
        "graph g\n  input x: f33[2]",
        "graph g\n  y: f32[2] = Sqrt(x)\n  return y",
        "graph g\n  input x: f32[2]\n  input x: f32[2]",
        "graph g\n  input x: f32[2]\n  y: f32[2] = Sqroot(x)",
        "graph g\n  weight w: f32[2] = f32[2] {1.0}",
        "graph g\n  weight w: f32[900] = f32[900] #0123456789abcdef",
        "graph g\n  return\ngraph h",
        &nested,
    ];
    insta::assert_snapshot!(texts.map(error).join("\n"));
}

/// The graph of a whole model, whose large constants are digests in the text.
#[test]
fn a_decoder_is_read_back_from_its_text() {
    let checkpoint = tiny_model();
    let config = checkpoint.config();
    let stack = |shape: [usize; 3]| Arc::new(Tensor::f32_from_fn(shape.to_vec(), |place| place as f32 * 0.1 - 3.0));
    let (inputs, outputs) = Projection::QProj.features(config);
    let delta = LowRank { down: stack([2, inputs, 4]), up: stack([2, 4, outputs]) };
    let private = [((0, Projection::QProj), delta)].into_iter().collect();
    let normal_form = NormalForm { tasks: 2, private, ..NormalForm::default() };
    let mut graph = lower_decoder(config, &normal_form).unwrap();
    run_passes(&mut graph, &decoder_passes(&PipelineOptions { precision: Precision::F16, ..Default::default() }))
        .unwrap();
    let text = graph.to_string();
    assert!(text.contains(" #") && graph.constants().len() >= 2);
    let read = parse(&text, &graph.constants()).unwrap();
    verify(&read).unwrap();
    assert_eq!(read.to_string(), text);
    let error = parse(&text, &BTreeMap::new()).unwrap_err().to_string();
    assert!(error.contains("were not given"), "{error}");
}
