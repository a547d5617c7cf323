//! Asynchronous successive halving (Li 2020), as Optuna's `SuccessiveHalvingPruner` has it.

use std::collections::BTreeMap;

/// Rung k is at step `min_resource * reduction^(rate + k)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asha {
    /// Step of the first rung when `rate` is 0.
    pub min_resource: u64,
    /// One in this many goes on from each rung; at least 2.
    pub reduction: u64,
    /// Rungs left out at the start.
    pub rate: u32,
}

impl Asha {
    /// Rungs at 1/9, 1/3 and all of `steps`.
    pub fn thirds(steps: u64) -> Self {
        Self { min_resource: (steps / 9).max(1), reduction: 3, rate: 0 }
    }

    /// Step of a rung; `None` beyond what an integer holds.
    pub fn step(&self, rung: u32) -> Option<u64> {
        self.reduction.checked_pow(self.rate.checked_add(rung)?)?.checked_mul(self.min_resource)
    }

    /// Whether a trial stops at `step` with `value`, larger being better. `own` are the rungs that it has reached already, `others` the
    /// values that other trials recorded, by rung. Values of rungs that it reaches now are added to `own`.
    pub fn prune(&self, step: u64, value: f64, own: &mut BTreeMap<u32, f64>, others: &BTreeMap<u32, Vec<f64>>) -> bool {
        let mut rung = own.keys().next_back().map_or(0, |last| last + 1);
        while self.step(rung).is_some_and(|due| step >= due) {
            if value.is_nan() {
                return true;
            }
            own.insert(rung, value);
            let recorded = others.get(&rung).map_or(&[][..], Vec::as_slice);
            let promoted = ((recorded.len() as u64 + 1) / self.reduction).max(1);
            if recorded.iter().filter(|other| **other > value).count() as u64 >= promoted {
                return true;
            }
            rung += 1;
        }
        false
    }
}
