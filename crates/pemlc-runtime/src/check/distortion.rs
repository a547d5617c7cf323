//! What a lossy number type cost each task: next-token distributions against the trainer's, at the probes' scored positions.
//!
//! Total variation is half the sum of the absolute differences of all probabilities, which is the most by which the probability of any
//! event differs. It bounds what a user sees: where the likeliest token changes, the trainer's lead of it was at most twice the total
//! variation there. It is a metric, so a task within half of the way from the trainer to the base model is nearer to the trainer than to
//! the base model.

use super::compare::rounded;
use super::probes::Probes;
use ndarray::{Array2, ArrayView1};
use pemlc_artifact::artifact::{CheckResult, Distortion};
use std::collections::BTreeMap;

/// A task keeps at least this share of what training moved.
const NEAREST_SHARE: f64 = 0.5;

/// Sums over positions.
#[derive(Debug, Default)]
pub(super) struct Meter {
    positions: u64,
    total_variation: f64,
    base_total_variation: f64,
    kl_divergence: f64,
    max_abs: f64,
    mean_abs: f64,
    agreeing: u64,
    worst: (f64, String),
    failure: Option<String>,
}

impl Meter {
    /// Adds a position: logits found, the trainer's, and the base model's.
    pub(super) fn add(
        &mut self,
        found: ArrayView1<'_, f32>,
        expected: ArrayView1<'_, f32>,
        base: ArrayView1<'_, f32>,
        place: impl Fn() -> String,
    ) {
        self.positions += 1;
        let finite = |logits: ArrayView1<'_, f32>| logits.iter().all(|logit| logit.is_finite());
        let unusable = if !finite(expected) || !finite(base) {
            Some("the probes' logits, the trainer's or the base model's, are not finite")
        } else if found.len() != expected.len() || base.len() != expected.len() || !finite(found) {
            Some("logits are not finite, or not as many")
        } else {
            None
        };
        if let Some(reason) = unusable {
            self.failure.get_or_insert_with(|| format!("{}: {reason}", place()));
            return;
        }
        let (own, trained) = (Distribution::of(found), Distribution::of(expected));
        let variation = own.total_variation(&trained);
        if variation >= self.worst.0 {
            self.worst = (variation, place());
        }
        self.total_variation += variation;
        self.base_total_variation += Distribution::of(base).total_variation(&trained);
        self.kl_divergence += trained.kl_divergence(&own);
        let differences = found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs());
        let (sum, largest) = differences.fold((0.0, 0.0f64), |(sum, most), next| (sum + next, most.max(next)));
        self.mean_abs += sum / found.len().max(1) as f64;
        self.max_abs = self.max_abs.max(largest);
        self.agreeing += u64::from(largest_at(found) == largest_at(expected));
    }

    /// The means, of a task that was measured.
    pub(super) fn finish(&self, task: &str) -> Result<Distortion, String> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        if self.positions == 0 {
            return Err("nothing was compared".to_owned());
        }
        let mean = |sum: f64| rounded(sum / self.positions as f64);
        Ok(Distortion {
            task: task.to_owned(),
            positions: self.positions,
            total_variation: mean(self.total_variation),
            base_total_variation: mean(self.base_total_variation),
            kl_divergence: mean(self.kl_divergence),
            max_abs: rounded(self.max_abs),
            mean_abs: mean(self.mean_abs),
            argmax_agreement: mean(self.agreeing as f64),
        })
    }

    /// A check under the name `check`: the mean total variation is at most `bound`.
    pub(super) fn result(&self, check: &str, task: &str, bound: f64) -> CheckResult {
        let measured = self.finish(task);
        let result = |passed, detail: String| CheckResult {
            check: check.to_owned(),
            task: Some(task.to_owned()),
            max_abs: measured.as_ref().ok().map(|distortion| distortion.max_abs),
            max_rel: None,
            argmax_agreement: measured.as_ref().ok().map(|distortion| distortion.argmax_agreement),
            passed,
            detail,
        };
        match &measured {
            Ok(distortion) => result(
                distortion.total_variation <= bound,
                format!(
                    "runtime against trainer: mean total variation {:.4}, at most {bound} allowed; worst {:.4} at {}",
                    distortion.total_variation, self.worst.0, self.worst.1
                ),
            ),
            Err(reason) => result(false, format!("runtime against trainer: {reason}")),
        }
    }
}

/// Whether a task's answers are nearer to the trainer's than to the base model's.
pub(super) fn keeps_task(distortion: &Distortion) -> bool {
    distortion.total_variation < NEAREST_SHARE * distortion.base_total_variation
}

/// One meter a task over the answers that a runtime gave to the probes.
pub(super) fn measure(answers: &BTreeMap<usize, Array2<f32>>, probes: &Probes, tasks: usize) -> Vec<Meter> {
    let mut meters: Vec<Meter> = (0..tasks).map(|_| Meter::default()).collect();
    for (&probe, answers) in answers {
        for (index, found) in answers.rows().into_iter().enumerate() {
            let position = probes.positions[probe][index];
            let (expected, base) = (probes.logits(probe, index), probes.base_logits(probe, index));
            meters[probes.tasks[probe]].add(found, expected, base, || format!("probe {probe}, position {position}"));
        }
    }
    meters
}

/// Log-probabilities, in f64: the sum over a large vocabulary loses digits in f32.
struct Distribution(Vec<f64>);

impl Distribution {
    fn of(logits: ArrayView1<'_, f32>) -> Self {
        let largest = logits.iter().fold(f64::NEG_INFINITY, |largest, logit| largest.max(f64::from(*logit)));
        let sum: f64 = logits.iter().map(|logit| (f64::from(*logit) - largest).exp()).sum();
        let offset = largest + sum.ln();
        Self(logits.iter().map(|logit| f64::from(*logit) - offset).collect())
    }

    fn total_variation(&self, other: &Self) -> f64 {
        self.0.iter().zip(&other.0).map(|(own, other)| (own.exp() - other.exp()).abs()).sum::<f64>() / 2.0
    }

    /// Of `other` from this one.
    fn kl_divergence(&self, other: &Self) -> f64 {
        self.0.iter().zip(&other.0).map(|(own, other)| own.exp() * (own - other)).sum::<f64>().max(0.0)
    }
}

fn largest_at(logits: ArrayView1<'_, f32>) -> usize {
    (0..logits.len()).fold(0, |best, token| if logits[token] > logits[best] { token } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::aview1;

    fn logits(probabilities: [f32; 3]) -> [f32; 3] {
        probabilities.map(f32::ln)
    }

    fn measured(found: [f32; 3], expected: [f32; 3], base: [f32; 3]) -> Meter {
        let mut meter = Meter::default();
        let (found, expected, base) = (logits(found), logits(expected), logits(base));
        meter.add(aview1(&found), aview1(&expected), aview1(&base), || "probe 2, position 7".to_owned());
        meter
    }

    #[test]
    fn distances_of_distributions() {
        let found = measured([0.5, 0.3, 0.2], [0.6, 0.3, 0.1], [0.1, 0.3, 0.6]);
        let distortion = found.finish("sst2").unwrap();
        assert!((distortion.total_variation - 0.1).abs() < 1e-6, "{distortion:?}");
        assert!((distortion.base_total_variation - 0.5).abs() < 1e-6, "{distortion:?}");
        let expected = 0.6 * (0.6f64 / 0.5).ln() + 0.1 * (0.1f64 / 0.2).ln();
        assert!((distortion.kl_divergence - expected).abs() < 1e-5, "{distortion:?}");
        assert_eq!(distortion.argmax_agreement, 1.0);
        assert!(keeps_task(&distortion));
    }

    #[test]
    fn a_bound_is_kept_or_names_the_worst_position() {
        let meter = measured([0.5, 0.3, 0.2], [0.6, 0.3, 0.1], [0.1, 0.3, 0.6]);
        assert!(meter.result("prefill", "sst2", 0.11).passed);
        let result = meter.result("prefill", "sst2", 0.09);
        assert!(!result.passed);
        assert_eq!(
            result.detail,
            "runtime against trainer: mean total variation 0.1000, at most 0.09 allowed; worst 0.1000 at probe 2, position 7"
        );
    }

    #[test]
    fn a_task_that_answers_like_the_base_model_is_not_kept() {
        let lost = measured([0.2, 0.3, 0.5], [0.6, 0.3, 0.1], [0.1, 0.3, 0.6]);
        assert!(!keeps_task(&lost.finish("sst2").unwrap()));
        // Nor is one that training did not move.
        let same = [0.6, 0.3, 0.1];
        assert!(!keeps_task(&measured(same, same, same).finish("sst2").unwrap()));
    }

    #[test]
    fn logits_that_are_no_numbers_fail() {
        let mut meter = measured([0.5, 0.3, 0.2], [0.6, 0.3, 0.1], [0.1, 0.3, 0.6]);
        let (bad, good) = ([f32::NAN, 0.0, 0.0], [0.0; 3]);
        meter.add(aview1(&bad), aview1(&good), aview1(&good), || "probe 3, position 1".to_owned());
        assert!(!meter.result("prefill", "sst2", 1.0).passed);
        assert!(meter.finish("sst2").unwrap_err().starts_with("probe 3, position 1"));
    }

    #[test]
    fn probes_that_are_no_numbers_fail_and_are_measured_by_none() {
        for bad in [f32::NAN, f32::INFINITY] {
            let (bad, good) = ([bad, 0.0, 0.0], [0.0; 3]);
            for (expected, base) in [(good, bad), (bad, good)] {
                let mut meter = Meter::default();
                meter.add(aview1(&good), aview1(&expected), aview1(&base), || "probe 3, position 1".to_owned());
                let reason =
                    "probe 3, position 1: the probes' logits, the trainer's or the base model's, are not finite";
                assert_eq!(meter.finish("sst2").unwrap_err(), reason);
                assert!(!meter.result("prefill", "sst2", 1.0).passed);
            }
        }
    }
}
