//! How far a logit may be from the expected one.

/// The tolerance holds for positions whose largest logit is at most this, and grows in proportion beyond, as f32 rounding does.
const TOLERANCE_SCALE: f64 = 10.0;

/// How many times the trainer's own f32 rounding a runtime's may be. Both round the same products in other orders: neither is nearer to the
/// exact numbers by right. Operator by operator, the least exact runtime here rounds 2.4 times as much as the most exact one
/// (`benches/README.md`, matmul of 1536 terms), and the largest of a dozen positions' differences is itself uncertain by a factor under 2.
const ROUNDINGS: f64 = 4.0;

/// What is allowed at a position.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Tolerance {
    /// Where no logit is above [`TOLERANCE_SCALE`].
    base: f64,
    /// Whatever the logits are: what f32 rounding comes to in this model, or zero.
    rounding: f64,
}

impl Tolerance {
    /// At a position whose largest expected logit is `scale`.
    pub(crate) fn at(self, scale: f64) -> f64 {
        (self.base * (scale / TOLERANCE_SCALE).max(1.0)).max(self.rounding)
    }
}

impl From<f64> for Tolerance {
    fn from(base: f64) -> Self {
        Self { base, rounding: 0.0 }
    }
}

/// What every task is held to: by the trainer's answers, and by the graph's own.
#[derive(Debug, Clone)]
pub(crate) struct Tolerances {
    base: f64,
    /// By task: how far the trainer's f32 logits are from its exact ones, where that is known and counts.
    roundings: Vec<Option<f64>>,
    /// Against the trainer, where the artifact's weights are not quite its.
    trainer: Option<f64>,
    /// Whether weights are rounded to a type that is not computed in.
    rounded_weights: bool,
    /// Largest mean total variation from the trainer's distributions, where that is asked in place of a tolerance.
    max_distortion: Option<f64>,
}

impl Tolerances {
    /// `roundings` by task: how far the trainer's own f32 logits are from its exact ones, where a run says so.
    pub(crate) fn new(base: f64, roundings: Vec<Option<f64>>) -> Self {
        Self { base, roundings, trainer: None, rounded_weights: false, max_distortion: None }
    }

    /// Against the trainer, whose weights the artifact does not hold exactly.
    pub(crate) fn with_trainer(self, trainer: Option<f64>) -> Self {
        Self { trainer, ..self }
    }

    /// Whether weights are rounded to a type that is not computed in.
    pub(crate) fn with_rounded_weights(self, rounded_weights: bool) -> Self {
        Self { rounded_weights, ..self }
    }

    /// What is asked of the trainer's answers is this bound and no tolerance.
    pub(crate) fn with_max_distortion(self, max_distortion: Option<f64>) -> Self {
        Self { max_distortion, ..self }
    }

    /// Those of one task, whose index becomes 0.
    pub(crate) fn of_task_alone(&self, task: usize) -> Self {
        Self { roundings: vec![self.roundings.get(task).copied().flatten()], ..self.clone() }
    }

    /// `factor` times what is allowed between runs of one graph.
    pub(crate) fn times(&self, factor: f64) -> Self {
        let roundings = self.roundings.iter().map(|rounding| rounding.map(|own| factor * own)).collect();
        Self { base: factor * self.base, roundings, ..self.clone() }
    }

    /// Where no logit is large, and f32 rounding is as it mostly is.
    pub(crate) fn base(&self) -> f64 {
        self.base
    }

    /// The largest mean total variation from the trainer's distributions; absent where the trainer's logits are what is asked.
    pub(crate) fn max_distortion(&self) -> Option<f64> {
        self.max_distortion
    }

    /// Against the trainer, where the artifact's weights are not quite its.
    pub(crate) fn trainer(&self) -> Option<f64> {
        self.trainer
    }

    /// Whether the weights' number type alone moves every answer away from the trainer's and from the base model's.
    pub(crate) fn weights_are_rounded(&self) -> bool {
        self.rounded_weights || self.max_distortion.is_some()
    }

    /// For logits of `task` against the trainer's.
    pub(crate) fn to_trainer(&self, task: usize) -> Tolerance {
        let own = self.of(task);
        Tolerance { base: self.trainer.map_or(own.base, |trainer| trainer.max(own.base)), ..own }
    }

    /// For logits of `task` against others of the same graph.
    pub(crate) fn of(&self, task: usize) -> Tolerance {
        let rounding = self.roundings.get(task).copied().flatten();
        Tolerance { base: self.base, rounding: rounding.map_or(0.0, |rounding| ROUNDINGS * rounding) }
    }

    /// The most that is allowed of any task, for what is of several.
    pub(crate) fn widest(&self) -> Tolerance {
        let rounding = (0..self.roundings.len()).map(|task| self.of(task).rounding).fold(0.0, f64::max);
        Tolerance { base: self.base, rounding }
    }

    /// Of `task`, its rounding and what is allowed for it, where that is more than where no logit is large.
    pub(crate) fn derived(&self, task: usize) -> Option<(f64, f64)> {
        let allowed = self.of(task).rounding;
        self.roundings.get(task).copied().flatten().filter(|_| allowed > self.base).map(|rounding| (rounding, allowed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_larger_of_both_counts() {
        let tolerances = Tolerances::new(1e-4, vec![None, Some(1e-5), Some(5e-4)]);
        assert_eq!([0, 1, 2].map(|task| tolerances.of(task).at(5.0)), [1e-4, 1e-4, 2e-3]);
        assert_eq!(tolerances.of(1).at(40.0), 4e-4);
        assert_eq!(tolerances.of(2).at(400.0), 4e-3);
        assert_eq!(tolerances.widest().at(0.0), 2e-3);
        let approximate = tolerances.clone().with_trainer(Some(1e-2));
        assert_eq!((approximate.of(0).at(5.0), approximate.to_trainer(0).at(5.0)), (1e-4, 1e-2));
        assert_eq!(tolerances.of_task_alone(2).of(0), tolerances.of(2));
        assert_eq!(
            (tolerances.derived(0), tolerances.derived(1), tolerances.derived(2)),
            (None, None, Some((5e-4, 2e-3)))
        );
    }
}
