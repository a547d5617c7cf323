//! Learning rates by group and step.

use crate::config::{RunConfig, Schedule};
use crate::optimizer::Rule;
use crate::parameters::Group;

const WEIGHTS_BETAS: (f64, f64) = (0.9, 0.999);
/// As in DARTS.
const ARCHITECTURE_BETAS: (f64, f64) = (0.5, 0.999);
const ARCHITECTURE_DECAY: f64 = 1e-3;
/// A log-gate has units to go where a weight has hundredths: at a weight's rate, a cold prefix would stay shut for a whole run.
const LOG_GATE_SPEED: f64 = 20.0;

/// How `group` is stepped when `done` steps are done of those that the learning rates fall over.
pub(crate) fn rule(config: &RunConfig, group: Group, done: u64) -> Rule {
    let training = &config.training;
    let weights = |rate: f64| Rule {
        learning_rate: rate * factor(training.schedule, training.warmup_steps, training.steps, done),
        betas: WEIGHTS_BETAS,
        weight_decay: training.weight_decay,
    };
    match group {
        Group::Lora => weights(training.learning_rate),
        Group::Prefix => weights(training.prefix_learning_rate),
        Group::LogGate => Rule { weight_decay: 0.0, ..weights(LOG_GATE_SPEED * training.prefix_learning_rate) },
        // Constant: the search must not depend on how long the run goes on after it.
        Group::Architecture => Rule {
            learning_rate: config.prefix.architecture_learning_rate,
            betas: ARCHITECTURE_BETAS,
            weight_decay: ARCHITECTURE_DECAY,
        },
        Group::Constant => Rule { learning_rate: 0.0, betas: WEIGHTS_BETAS, weight_decay: 0.0 },
    }
}

/// A linear rise over `warmup` steps, then the schedule down to the last of `steps`.
fn factor(schedule: Schedule, warmup: u64, steps: u64, done: u64) -> f64 {
    if done < warmup {
        return (done + 1) as f64 / (warmup + 1) as f64;
    }
    match schedule {
        Schedule::Constant => 1.0,
        Schedule::Cosine => {
            let share = (done - warmup) as f64 / (steps.saturating_sub(warmup)).max(1) as f64;
            0.5 * (1.0 + (std::f64::consts::PI * share.min(1.0)).cos())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosine_with_warm_up() {
        let factors: Vec<String> = (0..8).map(|done| format!("{:.2}", factor(Schedule::Cosine, 3, 7, done))).collect();
        insta::assert_snapshot!(factors.join(" "), @"0.25 0.50 0.75 1.00 0.85 0.50 0.15 0.00");
        assert_eq!(factor(Schedule::Constant, 0, 7, 6), 1.0);
    }
}
