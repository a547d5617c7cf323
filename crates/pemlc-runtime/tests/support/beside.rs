//! Graphs beside the toy's `model.onnx`, right or with a fault, listed in its manifest.

use super::artifact::{edit, task_name};
use super::builder::{Dim, FLOAT, GraphBuilder};
use super::fault::Fault;
use super::oracle::{PREFIX, WIDTH, toy_weights};
use super::ort_adapter::adapter;
use super::toy::{Form, TASKS, Told, declare, decoder, trunk};
use pemlc_artifact::artifact::{GraphProfile, GraphRecord};
use pemlc_artifact::hash::hash_file;
use std::path::Path;

type Written = Result<(), Box<dyn std::error::Error>>;

/// Tokens of each task's answers, one token each.
const ANSWERS: [&[u32]; TASKS] = [&[5, 6], &[11, 12, 13], &[20]];

/// What is wrong with a scorer's answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scores {
    /// Nothing.
    Right,
    /// The second task's first two answers have changed places.
    Swapped,
    /// Answers that a task does not have are scored too.
    WithAbsent,
}

/// Adds `task.NAME.onnx` of `task`, into which the task `merged` was merged.
pub(crate) fn add_pinned(dir: &Path, task: usize, merged: usize) -> Written {
    let file = format!("task.{}.onnx", task_name(task));
    let form = Form { tasks: TASKS, told: Told::Pinned(merged), cached: true, fault: Fault::None };
    decoder(form).write(dir, &file)?;
    list(dir, GraphProfile::PinnedCausalLm, file, Some(task_name(task)), Vec::new())
}

/// Adds `adapters.onnx` and an adapter of each task; the graph may ignore the prefix that an adapter brings.
pub(crate) fn add_adapters(dir: &Path, ignores_prefix: bool) -> Written {
    let file = "adapters.onnx".to_owned();
    let told = Told::Adapted { ignores_prefix };
    decoder(Form { tasks: TASKS, told, cached: true, fault: Fault::None }).write(dir, &file)?;
    let (weights, folder) = (toy_weights(TASKS), dir.join("onnx_adapters"));
    std::fs::create_dir_all(&folder)?;
    let rows = PREFIX * WIDTH;
    for task in 0..TASKS {
        let bytes = adapter(&[
            ("task", &[1, WIDTH], &weights.task[task * WIDTH..(task + 1) * WIDTH]),
            ("prefix_key", &[1, 1, PREFIX, WIDTH], &weights.prefix_key[task * rows..(task + 1) * rows]),
            ("prefix_value", &[1, 1, PREFIX, WIDTH], &weights.prefix_value[task * rows..(task + 1) * rows]),
        ]);
        std::fs::write(folder.join(format!("{}.onnx_adapter", task_name(task))), bytes)?;
    }
    list(dir, GraphProfile::AdapterCausalLm, file, None, Vec::new())
}

/// Adds `scorer.onnx` on top of a decoder with `fault`.
pub(crate) fn add_scorer(dir: &Path, scores: Scores, fault: Fault) -> Written {
    let file = "scorer.onnx".to_owned();
    scorer(scores, fault).write(dir, &file)?;
    let answers = |tokens: &&[u32]| -> Vec<Vec<u32>> { tokens.iter().map(|token| vec![*token]).collect() };
    list(dir, GraphProfile::Scorer, file, None, ANSWERS.iter().map(answers).collect())
}

/// Log-likelihoods of the answers behind each prompt's last token.
fn scorer(scores: Scores, fault: Fault) -> GraphBuilder {
    let mut graph = GraphBuilder::default();
    let form = Form { tasks: TASKS, told: Told::ByRow, cached: false, fault };
    declare(&mut graph, form);
    let most = ANSWERS.iter().map(|answers| answers.len()).max().unwrap_or(0);
    graph.output("scores", &[Dim::Named("batch_size"), Dim::Fixed(most as i64)]);
    let safe = trunk(&mut graph, form, "all_logits");

    let (mut tokens, mut absent) = (Vec::new(), Vec::new());
    for place in (0..TASKS * most).map(|place| (place / most, place % most)) {
        let answers = ANSWERS[place.0];
        let column = if scores == Scores::Swapped && place.0 == 1 && place.1 < 2 { 1 - place.1 } else { place.1 };
        tokens.push(answers.get(column).copied().map_or(0, i64::from));
        let has = column < answers.len() || scores == Scores::WithAbsent;
        absent.push(if has { 0.0 } else { f32::NEG_INFINITY });
    }
    graph.integers("answers", &[TASKS, most], &tokens);
    graph.floats("absent", &[TASKS, most], &absent);

    // 1 at each prompt's last token: as many tokens up to it as there are.
    let count = graph.node("ReduceSum", &["attention_mask", "axis_1"], "count", &[("keepdims", &[1])]);
    let early = graph.node("Less", &["seen", &count], "early", &[]);
    let late = graph.node("Not", &[&early], "late", &[]);
    let last = graph.node("And", &[&late, "is_token"], "is_last_token", &[]);
    let last = graph.node("Cast", &[&last], "last_token_one", &[("to", &[i64::from(FLOAT)])]);
    let last = graph.node("Unsqueeze", &[&last, "axis_1"], "last_token_row", &[]);
    let asked = graph.node("MatMul", &[&last, "all_logits"], "asked_logits", &[]);
    let likelihoods = graph.node("LogSoftmax", &[&asked], "log_probabilities", &[("axis", &[2])]);
    let answers = graph.node("Gather", &["answers", &safe], "answers_of_row", &[("axis", &[0])]);
    let answers = graph.node("Unsqueeze", &[&answers, "axis_1"], "answers_row", &[]);
    let picked = graph.node("GatherElements", &[&likelihoods, &answers], "picked_row", &[("axis", &[2])]);
    let picked = graph.node("Squeeze", &[&picked, "axis_1"], "picked", &[]);
    let absent = graph.node("Gather", &["absent", &safe], "absent_of_row", &[("axis", &[0])]);
    graph.node("Add", &[&picked, &absent], "scores", &[]);
    graph
}

/// Lists `file` and its data in the manifest.
fn list(dir: &Path, profile: GraphProfile, file: String, task: Option<String>, answers: Vec<Vec<Vec<u32>>>) -> Written {
    let mut files = Vec::new();
    for name in [file.clone(), format!("{file}.data")] {
        files.push(hash_file(&dir.join(&name), &name)?);
    }
    edit(dir, |manifest| {
        manifest.graphs.push(GraphRecord { file, profile, task, answers });
        manifest.files.extend(files);
    })
}
