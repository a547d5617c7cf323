//! The speed of a training step, for benchmarks.

use crate::TrainError;
use crate::backbone::Backbone;
use crate::config::LoraConfig;
use crate::method::Methods;
use crate::optimizer::{AdamW, Rule};
use crate::parameters::{Group, ParameterSet};
use crate::random::Stream;
use crate::run::{Stepper, peak_memory};
use pemlc_data::{Batch, Target};
use serde::Serialize;
use std::time::Instant;

/// A step to time: LoRA on all projections and prefix rows on every layer, random tokens, language-model loss at every position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepShape {
    /// Rows a batch.
    pub batch: usize,
    /// Tokens a row.
    pub sequence: usize,
    /// LoRA's rank, on all seven projections.
    pub rank: usize,
    /// Prefix rows; 0 is none.
    pub prefix: usize,
    /// Steps that are timed.
    pub steps: usize,
    /// Steps before them.
    pub warmup: usize,
}

/// How fast it was.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepSpeed {
    /// Numbers that are trained.
    pub trainable_parameters: u64,
    /// Median over the timed steps.
    pub seconds_per_step: f64,
    /// Tokens of a batch over that.
    pub tokens_per_second: f64,
    /// Peak resident memory of the process.
    pub peak_memory_bytes: u64,
    /// Loss of every step, the warm-up included.
    pub losses: Vec<f64>,
}

/// Runs optimiser steps on `backbone` and times them.
pub fn step_speed(backbone: &Backbone, shape: &StepShape) -> Result<StepSpeed, TrainError> {
    let lora = LoraConfig { rank: shape.rank, alpha: 2.0 * shape.rank as f64, ..LoraConfig::default() };
    let methods = Methods::for_benchmark(lora, shape.prefix, backbone.config());
    let mut set = ParameterSet::new(backbone.device());
    methods.initialize_cold(SEED, &mut set);
    let mut optimizer = AdamW::default();
    let (mut seconds, mut losses) = (Vec::new(), Vec::new());
    for index in 0..shape.warmup + shape.steps {
        let batch = random_batch(backbone.config().vocab_size, shape, index as u64);
        let start = Instant::now();
        let rule = |group| Rule {
            learning_rate: if group == Group::Lora { 5e-4 } else { 5e-3 },
            betas: (0.9, 0.999),
            weight_decay: 0.0,
        };
        let stepper = Stepper { backbone, methods: &methods, steps: |_| true, done: index as u64 };
        let taken = stepper.step(&mut set, &mut optimizer, &[(index as u64, batch)], SEED, 1.0, rule);
        let taken = taken.map_err(|(what, value)| TrainError::NotFinite {
            step: index as u64 + 1,
            what,
            value,
            examples: vec!["random tokens".to_owned()],
            checkpoint: None,
        })?;
        if index >= shape.warmup {
            seconds.push(start.elapsed().as_secs_f64());
        }
        losses.push(taken.loss);
    }
    seconds.sort_by(f64::total_cmp);
    let median = seconds.get(seconds.len() / 2).copied().unwrap_or(f64::NAN);
    Ok(StepSpeed {
        trainable_parameters: set.count(),
        seconds_per_step: median,
        tokens_per_second: (shape.batch * shape.sequence) as f64 / median,
        peak_memory_bytes: peak_memory(),
        losses,
    })
}

const SEED: u64 = 17;

fn random_batch(vocabulary: usize, shape: &StepShape, index: u64) -> Batch {
    let (rows, length) = (shape.batch, shape.sequence);
    let mut stream = Stream::new(SEED, "bench.tokens", index);
    let input_ids: Vec<i64> = (0..rows * length).map(|_| (stream.unit() * vocabulary as f32) as i64).collect();
    let targets = (0..rows).flat_map(|row| (0..length - 1).map(move |position| (row, position)));
    let targets = targets
        .map(|(row, position)| Target { row, position, token: input_ids[row * length + position + 1] as u32 })
        .collect();
    Batch {
        rows,
        length,
        attention_mask: vec![1; rows * length],
        task_ids: vec![0; rows],
        targets,
        example_ids: Vec::new(),
        input_ids,
    }
}
