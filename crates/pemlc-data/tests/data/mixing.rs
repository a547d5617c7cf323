//! Batches are pure functions of seed and step.

use crate::support::{folder, load, yes_no};
use pemlc_data::{Mixer, TaskSet};
use std::collections::{BTreeMap, HashSet};

/// Task `t` with 4 training examples of different lengths and task `u` with 16.
fn tasks() -> TaskSet {
    let rows = |count: usize| -> String {
        (0..count)
            .map(|index| format!("{{\"text\": \"{}\", \"label\": {}}}\n", "ok".repeat(index + 1), index % 2))
            .collect()
    };
    let folder = folder(&[("train.jsonl", &rows(4)), ("more.jsonl", &rows(16)), ("validation.jsonl", &rows(2))]);
    let toml = yes_no("") + &yes_no("").replace("'t'", "'u'").replace("train.jsonl", "more.jsonl");
    load(folder.path(), &toml).unwrap()
}

#[test]
fn rows_are_padded_on_the_right_and_targets_are_the_answers() {
    let tasks = tasks();
    let batch = Mixer::new(&tasks, 0.5, 6, 17).batch(3);
    assert_eq!(
        (batch.rows, batch.input_ids.len(), batch.attention_mask.len()),
        (6, 6 * batch.length, 6 * batch.length)
    );
    assert_eq!(batch.targets.len(), 6, "one-token answers");
    for (row, target) in batch.targets.iter().enumerate() {
        let task = &tasks.tasks[batch.task_ids[row] as usize];
        let example = task.train.iter().find(|example| example.id == batch.example_ids[row]).unwrap();
        let columns = row * batch.length..(row + 1) * batch.length;
        let length: i64 = batch.attention_mask[columns.clone()].iter().sum();
        let tokens: Vec<u32> = batch.input_ids[columns].iter().take(length as usize).map(|&id| id as u32).collect();
        assert_eq!(tokens, example.prompt);
        assert_eq!((target.row, target.position), (row, example.prompt.len() - 1));
        assert_eq!([target.token], example.answers[example.gold][..]);
    }
}

#[test]
fn a_step_has_one_batch_whatever_came_before() {
    let tasks = tasks();
    let in_order = Mixer::new(&tasks, 0.5, 3, 17);
    let batches: Vec<_> = (0..40).map(|step| in_order.batch(step)).collect();
    let resumed = Mixer::new(&tasks, 0.5, 3, 17);
    for step in [25, 26, 7, 39, 0, 0] {
        assert_eq!(resumed.batch(step as u64), batches[step], "step {step}");
    }
    let other_seed = Mixer::new(&tasks, 0.5, 3, 18);
    assert_ne!((0..5).map(|step| other_seed.batch(step)).collect::<Vec<_>>(), batches[..5]);
}

/// The sequence for a seed must never change: a resumed run would silently differ.
#[test]
fn the_sequence_of_a_seed_is_fixed() {
    let tasks = tasks();
    let mixer = Mixer::new(&tasks, 0.5, 4, 17);
    let steps: Vec<String> = (0..4).map(|step| mixer.batch(step).example_ids.join(" ")).collect();
    insta::assert_snapshot!(steps.join("\n"), @"
u/more.jsonl:4 t/train.jsonl:3 u/more.jsonl:8 t/train.jsonl:1
u/more.jsonl:10 u/more.jsonl:1 t/train.jsonl:4 u/more.jsonl:13
u/more.jsonl:3 t/train.jsonl:2 u/more.jsonl:11 u/more.jsonl:15
u/more.jsonl:2 u/more.jsonl:16 u/more.jsonl:12 u/more.jsonl:6
");
}

#[test]
fn every_epoch_has_every_example_once_in_an_order_of_its_own() {
    let tasks = tasks();
    let mixer = Mixer::new(&tasks, 0.5, 5, 1);
    let mut seen: BTreeMap<i64, Vec<String>> = BTreeMap::new();
    for step in 0..60 {
        let batch = mixer.batch(step);
        for (task, id) in batch.task_ids.iter().zip(batch.example_ids) {
            seen.entry(*task).or_default().push(id);
        }
    }
    for (task, count) in [(0, 4), (1, 16)] {
        let epochs: Vec<&[String]> = seen[&task].chunks_exact(count).collect();
        assert!(epochs.len() > 5);
        assert!(epochs.iter().all(|epoch| epoch.iter().collect::<HashSet<_>>().len() == count));
        assert!(epochs.iter().any(|epoch| epoch != &epochs[0]));
    }
}

#[test]
fn tasks_come_in_proportion_to_a_power_of_their_size() {
    let tasks = tasks();
    for (exponent, expected) in [(0.0, 0.5), (0.5, 1.0 / 3.0), (1.0, 0.2)] {
        let mixer = Mixer::new(&tasks, exponent, 8, 5);
        assert!((mixer.probabilities()[0] - expected).abs() < 1e-12);
        let rows: Vec<i64> = (0..1000).flat_map(|step| mixer.batch(step).task_ids).collect();
        let share = rows.iter().filter(|&&task| task == 0).count() as f64 / rows.len() as f64;
        assert!((share - expected).abs() < 0.02, "exponent {exponent}: {share} is not {expected}");
    }
}
