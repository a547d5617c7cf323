//! What a step of plain LoRA costs here, to measure this run's cost against.

use super::mixers::Mixers;
use super::prepare::Prepared;
use super::step::Stepper;
use crate::method::Methods;
use crate::optimizer::{AdamW, Rule};
use crate::parameters::ParameterSet;
use std::time::Instant;

/// Steps that are timed, spread evenly over the run.
const TIMED: u64 = 5;
/// Below this many, timing them would cost more than it tells.
const FEWEST: u64 = 50;

/// Mean seconds of a LoRA step on batches of this run, of its rank and targets and on the same device; `None` for short runs.
pub(crate) fn lora_step_seconds(run: &Prepared, mixers: &Mixers) -> Option<f64> {
    let steps = run.config.training.steps;
    if steps < FEWEST {
        return None;
    }
    let methods = Methods::lora(&run.config, run.backbone.config());
    let mut set = ParameterSet::new(run.backbone.device());
    methods.initialize_cold(run.config.seed, &mut set);
    let mut optimizer = AdamW::default();
    let accumulation = run.config.training.gradient_accumulation as u64;
    let rule = Rule { learning_rate: run.config.training.learning_rate, betas: (0.9, 0.999), weight_decay: 0.0 };
    let mut seconds = 0.0;
    // The first one warms caches up.
    for index in 0..=TIMED {
        let first = index.saturating_sub(1) * (steps / TIMED) * accumulation;
        let batches: Vec<_> =
            (first..first + accumulation).map(|batch| (batch, mixers.weights(false).batch(batch))).collect();
        let stepper = Stepper { backbone: &run.backbone, methods: &methods, steps: |_| true, done: index };
        let start = Instant::now();
        let clip = run.config.training.gradient_clip;
        stepper.step(&mut set, &mut optimizer, &batches, run.config.seed, clip, |_| rule).ok()?;
        if index > 0 {
            seconds += start.elapsed().as_secs_f64();
        }
    }
    Some(seconds / TIMED as f64)
}
