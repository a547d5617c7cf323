//! Soft prompts and hidden states in plain Rust, in f64: what a trainer would store of them in `prefix.safetensors`.

use super::encoder::{Rows, heads};
use super::fixture::{Fixture, PREFIX_ROWS, prompt_encoder};
use super::reference::{layers, project, rotate};
use super::weights::{Numbers, floats};
use pemlc_artifact::prompt::{Architecture, Insertion, SHUT, SoftPrompts};
use pemlc_artifact::tensors::{NamedTensor, TensorMap};
use pemlc_artifact::{ModelConfig, Projection};

/// `count` soft prompts: the first has all rows, the next ones fewer, the third and last of three none.
pub fn soft_prompts(config: &ModelConfig, count: usize, numbers: &mut Numbers) -> SoftPrompts {
    let length = |index: usize| [PREFIX_ROWS, PREFIX_ROWS - 2, 0, 1][index % 4];
    let hidden = config.hidden_size;
    let mut prompt = |index: usize| (0..length(index) * hidden).map(|_| numbers.small(1024)).collect();
    SoftPrompts { hidden, tasks: (0..count).map(&mut prompt).collect() }
}

/// What the soft prompts leave in every layer: keys as they are when the tokens behind them start at position 0.
pub fn soft_prompt_rows(fixture: &Fixture, sets: usize) -> TensorMap {
    let mut table = TensorMap::new();
    for set in 0..sets {
        let prompt = fixture.soft_prompt(set);
        let length = prompt.len();
        layers(fixture, Some(set), prompt, &mut |layer, normed| {
            let keys = project(fixture, Some(set), (layer, Projection::KProj), normed);
            let values = project(fixture, Some(set), (layer, Projection::VProj), normed);
            let turn = |(row, key): (usize, &Vec<f64>)| {
                let at = row as i64 - length as i64;
                key.chunks_exact(fixture.config.head_dim).flat_map(|head| rotate(fixture, at, head)).collect()
            };
            insert(&mut table, fixture, (set, layer), &keys.iter().enumerate().map(turn).collect(), &values);
            let gates = (0..PREFIX_ROWS).map(|row| if row < length { 0.0 } else { SHUT }).collect();
            table.insert(format!("tasks.{set}.layers.{layer}.log_gate"), NamedTensor::f32([PREFIX_ROWS], gates));
        });
    }
    table
}

/// An encoder of hidden states for `seeds` sets.
pub fn hidden_encoder(
    config: &ModelConfig,
    seeds: usize,
    warm: bool,
    numbers: &mut Numbers,
) -> (Architecture, TensorMap) {
    let (mut architecture, mut weights) = prompt_encoder(config, seeds, numbers);
    architecture.insertion = Insertion::Hidden;
    for layer in 0..config.num_hidden_layers {
        let shape = [config.hidden_size, architecture.width];
        weights.insert(format!("head.{layer}.weight"), numbers.tensor(&shape, 700));
        weights.insert(format!("head.{layer}.bias"), numbers.tensor(&shape[..1], 700));
    }
    weights.retain(|name, _| warm || !name.starts_with("warm_start."));
    (architecture, weights)
}

/// Rows of `sets` sets out of the hidden states of `seeds`.
pub fn hidden_rows(
    fixture: &Fixture,
    architecture: &Architecture,
    weights: &TensorMap,
    (sets, seeds): (usize, usize),
) -> TensorMap {
    let mut table = TensorMap::new();
    for (set, layer) in (0..sets).flat_map(|set| (0..fixture.config.num_hidden_layers).map(move |layer| (set, layer))) {
        let seed = if seeds == 1 { 0 } else { set };
        let states = heads(architecture, weights, seed, layer);
        let part = |projection: Projection, what: &str| -> Rows {
            let mut rows = project(fixture, Some(set), (layer, projection), &states);
            let Some(start) = weights.get(&format!("warm_start.{seed}.layers.{layer}.{what}")) else { return rows };
            let bias = fixture.weights.get(&format!("{}.bias", projection.module(layer)));
            let [_, length, width] = start.shape[..] else { panic!("a warm start has three axes") };
            let start = floats(weights, &format!("warm_start.{seed}.layers.{layer}.{what}"));
            for (row, numbers) in rows.iter_mut().enumerate() {
                for (place, number) in numbers.iter_mut().enumerate() {
                    *number += f64::from(start[(place / width * length + row) * width + place % width]);
                    // A warm start has the bias in it.
                    if bias.is_some() {
                        let bias = floats(&fixture.weights, &format!("{}.bias", projection.module(layer)));
                        *number -= f64::from(bias[place]);
                    }
                }
            }
            rows
        };
        let (keys, values) = (part(Projection::KProj, "key"), part(Projection::VProj, "value"));
        insert(&mut table, fixture, (set, layer), &keys, &values);
        let gates = vec![floats(weights, "log_gate")[layer]; PREFIX_ROWS];
        table.insert(format!("tasks.{set}.layers.{layer}.log_gate"), NamedTensor::f32([PREFIX_ROWS], gates));
    }
    table
}

/// Keys and values by row into the table, zeros behind their end.
fn insert(table: &mut TensorMap, fixture: &Fixture, (set, layer): (usize, usize), keys: &Rows, values: &Rows) {
    let (heads, width) = (fixture.config.num_key_value_heads, fixture.config.head_dim);
    for (what, rows) in [("key", keys), ("value", values)] {
        let mut by_head = vec![0.0; heads * PREFIX_ROWS * width];
        for (row, numbers) in rows.iter().enumerate() {
            for (place, number) in numbers.iter().enumerate() {
                by_head[(place / width * PREFIX_ROWS + row) * width + place % width] = *number as f32;
            }
        }
        let tensor = NamedTensor::f32([heads, PREFIX_ROWS, width], by_head);
        table.insert(format!("tasks.{set}.layers.{layer}.{what}"), tensor);
    }
}
