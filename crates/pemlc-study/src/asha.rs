//! Asynchronous successive halving (Li 2020), as Optuna's `SuccessiveHalvingPruner` has it.

use std::collections::BTreeMap;

/// Stops trials that are not among the best at a rung. A rung is a step; rungs are counted from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asha {
    reduction: u64,
    rungs: Vec<u64>,
}

/// Why a pruner cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AshaError {
    /// One in one is everybody.
    #[error("reduction is {0}, expected at least 2: one trial in so many goes on from each rung")]
    Reduction(u64),
    /// Steps that are not in order.
    #[error("rungs are {0:?}, expected steps of at least 1, each larger than the one before")]
    Rungs(Vec<u64>),
}

impl Asha {
    /// One trial in `reduction` goes on from each of `rungs`.
    ///
    /// # Errors
    /// When `reduction` is below 2, or `rungs` do not rise from 1 or more.
    pub fn new(reduction: u64, rungs: Vec<u64>) -> Result<Self, AshaError> {
        if reduction < 2 {
            return Err(AshaError::Reduction(reduction));
        }
        if rungs.first() == Some(&0) || rungs.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err(AshaError::Rungs(rungs));
        }
        Ok(Self { reduction, rungs })
    }

    /// Rungs at 1 / reduction^2, 1 / reduction and all of `steps`, to the nearest step. Where they would not be apart (fewer steps than
    /// reduction^2), the end alone.
    ///
    /// # Errors
    /// When `reduction` is below 2 or `steps` is 0.
    pub fn fractions(steps: u64, reduction: u64) -> Result<Self, AshaError> {
        let square = reduction.checked_mul(reduction).filter(|square| (4..=steps).contains(square));
        let nearest = |parts: u64| (steps + parts / 2) / parts;
        let rungs = square.map_or(vec![steps], |square| vec![nearest(square), nearest(reduction), steps]);
        Self::new(reduction, rungs)
    }

    /// Steps of the rungs, rising.
    pub fn rungs(&self) -> &[u64] {
        &self.rungs
    }

    /// Whether a trial stops at `step` with `value`, larger being better. `own` are the rungs that it has reached already, `others` the
    /// values that other trials recorded, by rung. Values of rungs that it reaches now are added to `own`.
    pub fn prune(&self, step: u64, value: f64, own: &mut BTreeMap<u32, f64>, others: &BTreeMap<u32, Vec<f64>>) -> bool {
        let next = own.keys().next_back().map_or(0, |last| last + 1);
        for (rung, due) in (0..).zip(&self.rungs).skip(next as usize) {
            if step < *due {
                return false;
            }
            if value.is_nan() {
                return true;
            }
            own.insert(rung, value);
            let recorded = others.get(&rung).map_or(&[][..], Vec::as_slice);
            let promoted = ((recorded.len() as u64 + 1) / self.reduction).max(1);
            if recorded.iter().filter(|other| **other > value).count() as u64 >= promoted {
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rungs_are_ninths_and_thirds() {
        let rungs = |steps| Asha::fractions(steps, 3).map(|asha| asha.rungs().to_vec());
        assert_eq!(rungs(900), Ok(vec![100, 300, 900]));
        assert_eq!(rungs(26), Ok(vec![3, 9, 26]));
        assert_eq!(rungs(9), Ok(vec![1, 3, 9]));
        assert_eq!(rungs(8), Ok(vec![8]));
    }

    #[test]
    fn what_halves_nothing_is_refused() {
        for reduction in [0, 1] {
            let error = Asha::fractions(100, reduction).expect_err("nothing would be stopped");
            assert_eq!(error, AshaError::Reduction(reduction));
        }
        assert_eq!(Asha::fractions(0, 3), Err(AshaError::Rungs(vec![0])));
        assert_eq!(Asha::new(3, vec![4, 4]), Err(AshaError::Rungs(vec![4, 4])));
    }

    proptest! {
        #[test]
        fn rungs_rise_from_one_to_the_end(steps in 1_u64..100_000, reduction in 2_u64..20) {
            let asha = Asha::fractions(steps, reduction).expect("rungs in order");
            prop_assert_eq!(asha.rungs().last(), Some(&steps));
            prop_assert_eq!(asha.rungs().len(), if steps < reduction * reduction { 1 } else { 3 });
        }
    }
}
