//! The toy decoder's weights, and its answers by hand: no graph, no runtime.

pub(crate) const VOCABULARY: usize = 23;
pub(crate) const WIDTH: usize = 4;
/// More than any check reads: ONNX Runtime and tract refuse or panic behind the table's end.
pub(crate) const POSITIONS: usize = 256;
pub(crate) const PREFIX: usize = 2;

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

/// Tables of tasks begin the same however many tasks there are.
pub(crate) struct Weights {
    pub(crate) embedding: Vec<f32>,
    pub(crate) position: Vec<f32>,
    pub(crate) task: Vec<f32>,
    pub(crate) query: Vec<f32>,
    pub(crate) key: Vec<f32>,
    pub(crate) value: Vec<f32>,
    pub(crate) prefix_key: Vec<f32>,
    pub(crate) prefix_value: Vec<f32>,
    pub(crate) head: Vec<f32>,
}

pub(crate) fn toy_weights(tasks: usize) -> Weights {
    Weights {
        embedding: weights(1, VOCABULARY * WIDTH, 1.0),
        position: weights(2, POSITIONS * WIDTH, 0.5),
        task: weights(3, tasks * WIDTH, 0.7),
        query: weights(4, WIDTH * WIDTH, 1.0),
        key: weights(5, WIDTH * WIDTH, 1.0),
        value: weights(6, WIDTH * WIDTH, 1.0),
        prefix_key: weights(7, tasks * PREFIX * WIDTH, 1.0),
        prefix_value: weights(8, tasks * PREFIX * WIDTH, 1.0),
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
    let weights = toy_weights(task.map_or(0, |task| task + 1));
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
