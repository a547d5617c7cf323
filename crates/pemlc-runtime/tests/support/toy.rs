//! The toy decoder: one layer, one head, a table of positions, a task vector added to the embedding and prefix rows per task.
//!
//! ```text
//! x = E[token] + P[position] + tau[task];  q, k, v = x Wq, x Wk, x Wv
//! y = x + softmax([q Kp[task]^T / 2 ; q K^T / 2 + mask]) [Vp[task] ; V];  logits = y U
//! ```

use super::builder::{Dim, GraphBuilder};
use std::path::Path;

pub(crate) const VOCABULARY: usize = 23;
pub(crate) const WIDTH: usize = 4;
pub(crate) const TASKS: usize = 3;
const POSITIONS: usize = 64;
const PREFIX: usize = 2;

/// What is wrong with a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// Every row is answered as task 0.
    IgnoresTask,
    /// Every row is answered as the base model.
    AnswersAsBase,
    /// Every row is answered as the first row's task.
    TakesFirstRowsTask,
    /// Rows of another task than the first row's are NaN: right in an artifact that takes batches of one task.
    RefusesOtherTasks,
    /// One token's logit is 1e-2 too high.
    WrongLogits,
    /// The batch is fixed at 2.
    FrozenBatch,
    /// The sequence is fixed at 9.
    FrozenSequence,
    /// An id counts modulo the number of tasks, so that -1 is the last task.
    WrapsTaskId,
    /// An unknown id is answered as task 0.
    AnswersUnknownTask,
    /// An unknown id turns the whole batch into NaN.
    SpoilsTheBatch,
    /// An unknown id's logits are NaN, but its cache is not.
    CachesUnknownTask,
    /// Prefix rows appear in `present.*`.
    PrefixInCache,
    /// Later tokens are visible.
    NotCausal,
    /// Padding is visible.
    SeesPadding,
    /// New tokens cannot see the cache.
    IgnoresCache,
    /// The cache is scaled at every step.
    RewritesCache,
    /// `task_id` is no input.
    NoTaskInput,
}

impl Fault {
    pub(crate) const ALL: [Self; 17] = [
        Self::IgnoresTask,
        Self::AnswersAsBase,
        Self::TakesFirstRowsTask,
        Self::RefusesOtherTasks,
        Self::WrongLogits,
        Self::FrozenBatch,
        Self::FrozenSequence,
        Self::WrapsTaskId,
        Self::AnswersUnknownTask,
        Self::SpoilsTheBatch,
        Self::CachesUnknownTask,
        Self::PrefixInCache,
        Self::NotCausal,
        Self::SeesPadding,
        Self::IgnoresCache,
        Self::RewritesCache,
        Self::NoTaskInput,
    ];
}

/// Numbers in [-scale, scale) from a linear congruential generator.
fn weights(seed: u64, count: usize, scale: f32) -> Vec<f32> {
    let mut state = seed;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / (1 << 23) as f32 - 1.0) * scale
        })
        .collect()
}

struct Weights {
    embedding: Vec<f32>,
    position: Vec<f32>,
    task: Vec<f32>,
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    prefix_key: Vec<f32>,
    prefix_value: Vec<f32>,
    head: Vec<f32>,
}

fn toy_weights() -> Weights {
    Weights {
        embedding: weights(1, VOCABULARY * WIDTH, 1.0),
        position: weights(2, POSITIONS * WIDTH, 0.5),
        task: weights(3, TASKS * WIDTH, 0.7),
        query: weights(4, WIDTH * WIDTH, 1.0),
        key: weights(5, WIDTH * WIDTH, 1.0),
        value: weights(6, WIDTH * WIDTH, 1.0),
        prefix_key: weights(7, TASKS * PREFIX * WIDTH, 1.0),
        prefix_value: weights(8, TASKS * PREFIX * WIDTH, 1.0),
        head: weights(9, WIDTH * VOCABULARY, 1.0),
    }
}

/// Row `index` of a table of rows of [`WIDTH`].
fn row(table: &[f32], index: usize) -> Vec<f64> {
    table[index * WIDTH..(index + 1) * WIDTH].iter().map(|value| f64::from(*value)).collect()
}

/// `vector` times a matrix of `columns` columns.
fn times(vector: &[f64], matrix: &[f32], columns: usize) -> Vec<f64> {
    (0..columns)
        .map(|column| (0..WIDTH).map(|index| vector[index] * f64::from(matrix[index * columns + column])).sum())
        .collect()
}

/// Logits at every position, `[length][vocab]`, in f64. Without a task it is the base model: no task vector, no prefix.
pub(crate) fn logits(tokens: &[i64], task: Option<usize>) -> Vec<Vec<f32>> {
    let weights = toy_weights();
    let inputs: Vec<Vec<f64>> = (tokens.iter().enumerate())
        .map(|(position, token)| {
            let (token, position) = (row(&weights.embedding, *token as usize), row(&weights.position, position));
            let task = task.map_or(vec![0.0; WIDTH], |task| row(&weights.task, task));
            (0..WIDTH).map(|index| token[index] + position[index] + task[index]).collect()
        })
        .collect();
    (0..tokens.len())
        .map(|position| {
            let mut keys: Vec<Vec<f64>> = Vec::new();
            let mut values: Vec<Vec<f64>> = Vec::new();
            if let Some(task) = task {
                keys.extend((0..PREFIX).map(|index| row(&weights.prefix_key, task * PREFIX + index)));
                values.extend((0..PREFIX).map(|index| row(&weights.prefix_value, task * PREFIX + index)));
            }
            keys.extend(inputs[..=position].iter().map(|input| times(input, &weights.key, WIDTH)));
            values.extend(inputs[..=position].iter().map(|input| times(input, &weights.value, WIDTH)));
            let query = times(&inputs[position], &weights.query, WIDTH);
            let scores: Vec<f64> = (keys.iter())
                .map(|key| (query.iter().zip(key).map(|(query, key)| query * key).sum::<f64>() / 2.0).exp())
                .collect();
            let sum: f64 = scores.iter().sum();
            let mut output = inputs[position].clone();
            for (score, value) in scores.iter().zip(&values) {
                output.iter_mut().zip(value).for_each(|(output, value)| *output += score / sum * value);
            }
            times(&output, &weights.head, VOCABULARY).into_iter().map(|logit| logit as f32).collect()
        })
        .collect()
}

/// Writes the graph, with its fault, into `dir`.
pub(crate) fn write(dir: &Path, fault: Fault) -> Result<(), Box<dyn std::error::Error>> {
    let mut graph = GraphBuilder::default();
    declare(&mut graph, fault);
    let weights = toy_weights();
    let scale = if fault == Fault::AnswersAsBase { 0.0 } else { 1.0 };
    let task: Vec<f32> = weights.task.iter().map(|value| value * scale).collect();
    graph.floats("embedding", &[VOCABULARY, WIDTH], &weights.embedding);
    graph.floats("position", &[POSITIONS, WIDTH], &weights.position);
    graph.floats("task", &[TASKS, WIDTH], &task);
    graph.floats("prefix_key", &[TASKS, 1, PREFIX, WIDTH], &weights.prefix_key);
    graph.floats("prefix_value", &[TASKS, 1, PREFIX, WIDTH], &weights.prefix_value);
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
    graph.integers("tasks", &[1], &[TASKS as i64]);
    graph.integers("axis", &[], &[1]);

    // The task of each row, and 1 or NaN.
    let id = match fault {
        Fault::NoTaskInput => graph.node("Slice", &["input_ids", "no_task", "axis_1", "axis_1"], "column", &[]),
        _ => "task_id".to_owned(),
    };
    let id = match fault {
        Fault::NoTaskInput => {
            let zeros = graph.node("Sub", &[&id, &id], "zeros", &[]);
            graph.node("Squeeze", &[&zeros, "axis_1"], "implied_task", &[])
        }
        Fault::WrapsTaskId => graph.node("Mod", &["task_id", "tasks"], "wrapped", &[]),
        Fault::TakesFirstRowsTask => {
            let first = graph.node("Slice", &["task_id", "no_task", "axis_1"], "first", &[]);
            let zeros = graph.node("Sub", &["task_id", "task_id"], "zeros", &[]);
            graph.node("Add", &[&first, &zeros], "of_first", &[])
        }
        _ => id,
    };
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

    let project = |graph: &mut GraphBuilder, x: &str, name: &str| {
        let flat = graph.node("MatMul", &[x, &format!("{name}_weight")], &format!("{name}_flat"), &[]);
        graph.node("Unsqueeze", &[&flat, "axis_1"], &format!("{name}_heads"), &[])
    };
    let query = project(&mut graph, &guarded, "query");
    let (prefix_key, prefix_value) = (
        graph.node("Gather", &["prefix_key", &safe], "prefix_keys", &[("axis", &[0])]),
        graph.node("Gather", &["prefix_value", &safe], "prefix_values", &[("axis", &[0])]),
    );
    let mut attended = Vec::new();
    for (name, prefix) in [("key", &prefix_key), ("value", &prefix_value)] {
        let new = project(&mut graph, cached, name);
        let mut past = format!("past_key_values.0.{name}");
        if fault == Fault::RewritesCache {
            past = graph.node("Mul", &[&past, "shrink"], &format!("shrunk_{name}"), &[]);
        }
        let present = format!("present.0.{name}");
        if fault == Fault::PrefixInCache {
            let all = graph.node("Concat", &[&past, &new], &format!("all_{name}"), &[("axis", &[2])]);
            graph.node("Concat", &[prefix, &all], &present, &[("axis", &[2])]);
            attended.push(all);
        } else if fault == Fault::IgnoresCache {
            let forgotten = graph.node("Sub", &[&past, &past], &format!("forgotten_{name}"), &[]);
            attended.push(graph.node("Concat", &[&forgotten, &new], &format!("all_{name}"), &[("axis", &[2])]));
            graph.node("Concat", &[&past, &new], &present, &[("axis", &[2])]);
        } else {
            attended.push(graph.node("Concat", &[&past, &new], &present, &[("axis", &[2])]));
        }
    }
    let transpose: (&str, &[i64]) = ("perm", &[0, 1, 3, 2]);
    let scores = |graph: &mut GraphBuilder, keys: &str, name: &str| {
        let columns = graph.node("Transpose", &[keys], &format!("{name}_columns"), &[transpose]);
        let product = graph.node("MatMul", &[&query, &columns], &format!("{name}_products"), &[]);
        graph.node("Mul", &[&product, "half"], &format!("{name}_scores"), &[])
    };
    let token_scores = scores(&mut graph, &attended[0], "token");
    let prefix_scores = scores(&mut graph, &prefix_key, "prefix");

    // A key is visible when it is no padding and not behind the query.
    let count = graph.node("CumSum", &["attention_mask", "axis"], "seen", &[]);
    let key_position = graph.node("Sub", &[&count, "axis_1"], "key_position", &[]);
    let key_position = graph.node("Unsqueeze", &[&key_position, "axis_1"], "key_position_row", &[]);
    let query_position = graph.node("Unsqueeze", &["position_ids", "axis_2"], "query_position_column", &[]);
    let behind = graph.node("Less", &[&query_position, &key_position], "behind", &[]);
    let before = graph.node("Not", &[&behind], "before", &[]);
    let padding = graph.node("Less", &["attention_mask", "axis_1"], "padding", &[]);
    let token = graph.node("Not", &[&padding], "is_token", &[]);
    let token = graph.node("Unsqueeze", &[&token, "axis_1"], "is_token_row", &[]);
    let either = graph.node("Or", &[&before, &token], "either", &[]);
    let visible = match fault {
        Fault::NotCausal => graph.node("And", &[&either, &token], "visible", &[]),
        Fault::SeesPadding => graph.node("And", &[&either, &before], "visible", &[]),
        _ => graph.node("And", &[&before, &token], "visible", &[]),
    };
    let mask = graph.node("Where", &[&visible, "zero", "hidden"], "mask", &[]);
    let mask = graph.node("Unsqueeze", &[&mask, "axis_1"], "mask_heads", &[]);
    let masked = graph.node("Add", &[&token_scores, &mask], "masked", &[]);
    let all = graph.node("Concat", &[&prefix_scores, &masked], "all_scores", &[("axis", &[3])]);
    let shares = graph.node("Softmax", &[&all], "shares", &[("axis", &[3])]);
    let share_of_values = graph.node("Concat", &[&prefix_value, &attended[1]], "all_values", &[("axis", &[2])]);
    let heads = graph.node("MatMul", &[&shares, &share_of_values], "attended_heads", &[]);
    let attention = graph.node("Squeeze", &[&heads, "axis_1"], "attended", &[]);
    let y = if fault == Fault::AnswersAsBase {
        // The base model has no prefix either: attend to the tokens alone.
        let shares = graph.node("Softmax", &[&masked], "base_shares", &[("axis", &[3])]);
        let heads = graph.node("MatMul", &[&shares, &attended[1]], "base_heads", &[]);
        let base = graph.node("Squeeze", &[&heads, "axis_1"], "base_attended", &[]);
        graph.node("Add", &[&guarded, &base], "y", &[])
    } else {
        graph.node("Add", &[&guarded, &attention], "y", &[])
    };
    if fault == Fault::WrongLogits {
        let bias: Vec<f32> = (0..VOCABULARY).map(|token| if token == 5 { 1e-2 } else { 0.0 }).collect();
        graph.floats("bias", &[VOCABULARY], &bias);
        let right = graph.node("MatMul", &[&y, "head"], "right_logits", &[]);
        graph.node("Add", &[&right, "bias"], "logits", &[]);
    } else {
        graph.node("MatMul", &[&y, "head"], "logits", &[]);
    }
    graph.write(dir)
}

fn declare(graph: &mut GraphBuilder, fault: Fault) {
    let batch = if fault == Fault::FrozenBatch { Dim::Fixed(2) } else { Dim::Named("batch_size") };
    let sequence = if fault == Fault::FrozenSequence { Dim::Fixed(9) } else { Dim::Named("sequence_length") };
    let total = Dim::Named("total_sequence_length");
    let (width, vocabulary) = (Dim::Fixed(WIDTH as i64), Dim::Fixed(VOCABULARY as i64));
    graph.input("input_ids", false, &[batch, sequence]);
    graph.input("attention_mask", false, &[batch, total]);
    graph.input("position_ids", false, &[batch, sequence]);
    if fault != Fault::NoTaskInput {
        graph.input("task_id", false, &[batch]);
    }
    graph.output("logits", &[batch, sequence, vocabulary]);
    for part in ["key", "value"] {
        let past = [batch, Dim::Fixed(1), Dim::Named("past_sequence_length"), width];
        graph.input(&format!("past_key_values.0.{part}"), true, &past);
        graph.output(&format!("present.0.{part}"), &[batch, Dim::Fixed(1), total, width]);
    }
}
