//! The toy decoder: one layer, one head, a table of positions, a task vector added to the embedding and prefix rows per task.
//!
//! ```text
//! x = E[token] + P[position] + tau[task];  q, k, v = x Wq, x Wk, x Wv
//! y = x + softmax([q Kp[task]^T / 2 ; q K^T / 2 + mask]) [Vp[task] ; V];  logits = y U
//! ```

use super::attention::attention;
use super::builder::{Dim, FLOAT, GraphBuilder};
use super::fault::Fault;
use super::oracle::{POSITIONS, PREFIX, VOCABULARY, WIDTH, toy_weights};
use std::path::Path;

/// Tasks of the artifact that most tests take.
pub(crate) const TASKS: usize = 3;

/// Where a row's task comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// From `task_id`.
    ByRow,
    /// It is always this one.
    Pinned(usize),
    /// An adapter brings the task's tensors.
    Adapted {
        /// Prefix rows are those of task 0, whatever the adapter brings.
        ignores_prefix: bool,
    },
}

/// What a graph is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Form {
    pub(crate) tasks: usize,
    pub(crate) told: Told,
    /// Whether it has a cache.
    pub(crate) cached: bool,
    pub(crate) fault: Fault,
}

/// Writes `model.onnx`, with its fault, into `dir`.
pub(crate) fn write(dir: &Path, tasks: usize, fault: Fault) -> Result<(), Box<dyn std::error::Error>> {
    decoder(Form { tasks, told: Told::ByRow, cached: true, fault }).write(dir, "model.onnx")
}

/// A decoder with a cache.
pub(crate) fn decoder(form: Form) -> GraphBuilder {
    let mut graph = GraphBuilder::default();
    let batch = batch(form);
    let sequence = declare(&mut graph, form);
    graph.output("logits", &[batch, sequence, Dim::Fixed(VOCABULARY as i64)]);
    for part in ["key", "value"] {
        let total = Dim::Named("total_sequence_length");
        graph.output(&format!("present.0.{part}"), &[batch, Dim::Fixed(1), total, Dim::Fixed(WIDTH as i64)]);
    }
    trunk(&mut graph, form, "logits");
    graph
}

fn batch(form: Form) -> Dim {
    if form.fault == Fault::FrozenBatch { Dim::Fixed(2) } else { Dim::Named("batch_size") }
}

/// Declares the inputs, and gives the dimension of new tokens back.
pub(crate) fn declare(graph: &mut GraphBuilder, form: Form) -> Dim {
    let batch = batch(form);
    let sequence = if form.fault == Fault::FrozenSequence { Dim::Fixed(9) } else { Dim::Named("sequence_length") };
    graph.input("input_ids", false, &[batch, sequence]);
    let total = if form.cached { Dim::Named("total_sequence_length") } else { sequence };
    graph.input("attention_mask", false, &[batch, total]);
    graph.input("position_ids", false, &[batch, sequence]);
    if form.told == Told::ByRow && form.fault != Fault::NoTaskInput {
        graph.input("task_id", false, &[batch]);
    }
    for part in ["key", "value"].into_iter().filter(|_| form.cached) {
        let past = [batch, Dim::Fixed(1), Dim::Named("past_sequence_length"), Dim::Fixed(WIDTH as i64)];
        graph.input(&format!("past_key_values.0.{part}"), true, &past);
    }
    sequence
}

fn constants(graph: &mut GraphBuilder, form: Form) {
    let weights = toy_weights(form.tasks);
    let scale = if form.fault == Fault::AnswersAsBase { 0.0 } else { 1.0 };
    let task: Vec<f32> = weights.task.iter().map(|value| value * scale).collect();
    graph.floats("embedding", &[VOCABULARY, WIDTH], &weights.embedding);
    graph.floats("position", &[POSITIONS, WIDTH], &weights.position);
    let prefixes = [("prefix_key", &weights.prefix_key), ("prefix_value", &weights.prefix_value)];
    if let Told::Adapted { .. } = form.told {
        graph.parameter("task", &[1, WIDTH]);
        for (name, values) in prefixes {
            graph.parameter(name, &[1, 1, PREFIX, WIDTH]);
            graph.floats(&format!("first_{name}"), &[1, 1, PREFIX, WIDTH], &values[..PREFIX * WIDTH]);
        }
    } else {
        graph.floats("task", &[form.tasks, WIDTH], &task);
        for (name, values) in prefixes {
            graph.floats(name, &[form.tasks, 1, PREFIX, WIDTH], values);
        }
    }
    for (name, values) in [("query", &weights.query), ("key", &weights.key), ("value", &weights.value)] {
        graph.floats(&format!("{name}_weight"), &[WIDTH, WIDTH], values);
    }
    graph.floats("head", &[WIDTH, VOCABULARY], &weights.head);
    for (name, value) in
        [("zero", 0.0), ("one", 1.0), ("nan", f32::NAN), ("half", 0.5), ("hidden", -1e9), ("shrink", 0.99)]
    {
        graph.floats(name, &[1], &[value]);
    }
    for (name, values) in [("axis_1", &[1][..]), ("axis_2", &[2]), ("axes_1_2", &[1, 2]), ("no_task", &[0])] {
        graph.integers(name, &[values.len()], values);
    }
    let tasks = if let Told::Adapted { .. } = form.told { 1 } else { form.tasks };
    graph.integers("tasks", &[1], &[tasks as i64]);
    graph.integers("last_task", &[1], &[tasks as i64 - 1]);
    graph.integers("axis", &[], &[1]);
}

/// The task of each row as it is told, before anything is known of its being one.
fn told(graph: &mut GraphBuilder, form: Form) -> String {
    if form.told != Told::ByRow || form.fault == Fault::NoTaskInput {
        let column = graph.node("Slice", &["input_ids", "no_task", "axis_1", "axis_1"], "column", &[]);
        let zeros = graph.node("Sub", &[&column, &column], "zeros", &[]);
        let implied = graph.node("Squeeze", &[&zeros, "axis_1"], "implied_task", &[]);
        let Told::Pinned(task) = form.told else { return implied };
        graph.integers("pinned_task", &[1], &[task as i64]);
        return graph.node("Add", &[&implied, "pinned_task"], "pinned", &[]);
    }
    let of_first = |graph: &mut GraphBuilder| {
        let first = graph.node("Slice", &["task_id", "no_task", "axis_1"], "first", &[]);
        let zeros = graph.node("Sub", &["task_id", "task_id"], "zeros", &[]);
        graph.node("Add", &[&first, &zeros], "of_first", &[])
    };
    match form.fault {
        Fault::WrapsTaskId => graph.node("Mod", &["task_id", "tasks"], "wrapped", &[]),
        Fault::TakesFirstRowsTask => of_first(graph),
        Fault::LastTakesFirstRowsTask => {
            let of_first = of_first(graph);
            let is_last = is_last(graph);
            graph.node("Where", &[&is_last, &of_first, "task_id"], "of_first_if_last", &[])
        }
        _ => "task_id".to_owned(),
    }
}

/// Whether a row has the last task.
pub(crate) fn is_last(graph: &mut GraphBuilder) -> String {
    graph.node("Equal", &["task_id", "last_task"], "is_last_task", &[])
}

/// Writes everything from the inputs to the logits, which are called `logits`. Gives each row's index into tables of tasks back.
pub(crate) fn trunk(graph: &mut GraphBuilder, form: Form, logits: &str) -> String {
    let fault = form.fault;
    constants(graph, form);
    let id = told(graph, form);
    // 1 or NaN.
    let negative = graph.node("Less", &[&id, "no_task"], "negative", &[]);
    let not_negative = graph.node("Not", &[&negative], "not_negative", &[]);
    let small = graph.node("Less", &[&id, "tasks"], "small", &[]);
    let mut valid = graph.node("And", &[&not_negative, &small], "valid", &[]);
    if fault == Fault::RefusesOtherTasks {
        let first = graph.node("Slice", &["task_id", "no_task", "axis_1"], "first", &[]);
        let same = graph.node("Equal", &["task_id", &first], "as_first", &[]);
        valid = graph.node("And", &[&valid, &same], "valid_as_first", &[]);
    }
    let mut safe = graph.node("Where", &[&valid, &id, "no_task"], "safe", &[]);
    if fault == Fault::IgnoresTask {
        safe = graph.node("Sub", &[&safe, &safe], "always_0", &[]);
    }
    let bad = if fault == Fault::AnswersUnknownTask { "one" } else { "nan" };
    let mut guard = graph.node("Where", &[&valid, "one", bad], "guard", &[]);
    if fault == Fault::SpoilsTheBatch {
        let sum = graph.node("ReduceSum", &[&guard], "spoilt", &[("keepdims", &[1])]);
        let same = graph.node("Sub", &[&sum, &sum], "zero_or_nan", &[]);
        guard = graph.node("Add", &[&guard, &same], "guard_of_all", &[]);
    }
    let guard = graph.node("Unsqueeze", &[&guard, "axes_1_2"], "guard_3d", &[]);

    let task = graph.node("Gather", &["task", &safe], "task_vector", &[("axis", &[0])]);
    let task = graph.node("Unsqueeze", &[&task, "axis_1"], "task_row", &[]);
    let tokens = graph.node("Gather", &["embedding", "input_ids"], "token_rows", &[("axis", &[0])]);
    let places = graph.node("Gather", &["position", "position_ids"], "position_rows", &[("axis", &[0])]);
    let placed = graph.node("Add", &[&tokens, &places], "placed", &[]);
    let x = graph.node("Add", &[&placed, &task], "conditioned", &[]);
    let guarded = graph.node("Mul", &[&x, &guard], "x", &[]);
    let cached = if fault == Fault::CachesUnknownTask { &x } else { &guarded };
    let attention = attention(graph, form, [&guarded, cached], &safe);
    let y = graph.node("Add", &[&guarded, &attention], "y", &[]);

    let bias: Vec<f32> = (0..VOCABULARY).map(|token| if token == 5 { 1e-2 } else { 0.0 }).collect();
    match fault {
        Fault::WrongLogits => {
            graph.floats("bias", &[VOCABULARY], &bias);
            let right = graph.node("MatMul", &[&y, "head"], "right_logits", &[]);
            graph.node("Add", &[&right, "bias"], logits, &[]);
        }
        Fault::BlursMixedBatches => {
            graph.floats("bias", &[VOCABULARY], &bias);
            let first = graph.node("Slice", &["task_id", "no_task", "axis_1"], "first", &[]);
            let same = graph.node("Equal", &["task_id", &first], "as_first", &[]);
            let other = graph.node("Not", &[&same], "not_as_first", &[]);
            let other = graph.node("Cast", &[&other], "not_as_first_one", &[("to", &[i64::from(FLOAT)])]);
            let other = graph.node("Unsqueeze", &[&other, "axes_1_2"], "not_as_first_3d", &[]);
            let blur = graph.node("Mul", &[&other, "bias"], "blur", &[]);
            let right = graph.node("MatMul", &[&y, "head"], "right_logits", &[]);
            graph.node("Add", &[&right, &blur], logits, &[]);
        }
        _ => {
            graph.node("MatMul", &[&y, "head"], logits, &[]);
        }
    }
    safe
}
