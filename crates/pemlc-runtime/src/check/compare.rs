//! Logits against expected logits, position by position.

use super::tolerance::{Tolerance, Tolerances};
use ndarray::{ArrayView1, ArrayView2};
use pemlc_artifact::artifact::CheckResult;

/// Differences over all positions added so far.
#[derive(Debug, Clone)]
pub(crate) struct Comparison {
    tolerance: Tolerance,
    max_abs: f64,
    max_rel: f64,
    positions: usize,
    agreeing: usize,
    worst: String,
    failure: Option<String>,
}

impl Comparison {
    pub(crate) fn new(tolerance: impl Into<Tolerance>) -> Self {
        let (max_abs, max_rel, tolerance) = (0.0, 0.0, tolerance.into());
        Self { tolerance, max_abs, max_rel, positions: 0, agreeing: 0, worst: String::new(), failure: None }
    }

    /// Adds one position. `place` says where it is, for the report.
    pub(crate) fn add(
        &mut self,
        found: ArrayView1<'_, f32>,
        expected: ArrayView1<'_, f32>,
        place: impl Fn() -> String,
    ) {
        self.add_within(self.tolerance, found, expected, place);
    }

    /// As [`add`](Self::add), with a tolerance of its own.
    pub(crate) fn add_within(
        &mut self,
        tolerance: Tolerance,
        found: ArrayView1<'_, f32>,
        expected: ArrayView1<'_, f32>,
        place: impl Fn() -> String,
    ) {
        self.positions += 1;
        if found.len() != expected.len() {
            let (found, expected) = (found.len(), expected.len());
            return self.fail(|| format!("{}: {found} logits where {expected} were expected", place()));
        }
        let mut largest = (0.0, 0);
        let (mut relative, mut scale) = (0.0_f64, 0.0_f64);
        let (mut found_top, mut expected_top) = (0, 0);
        for (token, (&found_logit, &expected_logit)) in found.iter().zip(expected).enumerate() {
            if !found_logit.is_finite() || !expected_logit.is_finite() {
                return self
                    .fail(|| format!("{}, token {token}: {found_logit} where {expected_logit} was expected", place()));
            }
            let difference = (f64::from(found_logit) - f64::from(expected_logit)).abs();
            if difference > largest.0 {
                largest = (difference, token);
            }
            scale = scale.max(f64::from(expected_logit).abs());
            relative = relative.max(difference / f64::from(expected_logit).abs().max(1.0));
            if found_logit > found[found_top] {
                found_top = token;
            }
            if expected_logit > expected[expected_top] {
                expected_top = token;
            }
        }
        if largest.0 > self.max_abs || self.worst.is_empty() {
            self.worst = place();
        }
        self.max_abs = self.max_abs.max(largest.0);
        self.max_rel = self.max_rel.max(relative);
        let allowed = tolerance.at(scale);
        // Two tokens that the expected logits hold equal up to the tolerance may change places.
        let missed_by = match (expected.get(expected_top), expected.get(found_top)) {
            (Some(&top), Some(&taken)) => f64::from(top) - f64::from(taken),
            _ => 0.0,
        };
        if missed_by <= allowed {
            self.agreeing += 1;
        } else {
            self.fail(|| {
                format!("{}: the largest logit is token {found_top}'s, expected token {expected_top}'s", place())
            });
        }
        if largest.0 > allowed {
            let (difference, token) = largest;
            self.fail(|| {
                let (found, expected) = (found[token], expected[token]);
                format!(
                    "{}, token {token}: {found} where {expected} was expected, a difference of {difference:.3e} ({allowed:.1e} allowed)",
                    place()
                )
            });
        }
    }

    /// Adds the first rows of two `[positions, vocab]` arrays, as many as both have. `place` gets the position.
    pub(crate) fn add_rows(
        &mut self,
        found: ArrayView2<'_, f32>,
        expected: ArrayView2<'_, f32>,
        place: impl Fn(usize) -> String,
    ) {
        for (position, (found, expected)) in found.rows().into_iter().zip(expected.rows()).enumerate() {
            self.add(found, expected, || place(position));
        }
    }

    /// Marks the comparison as failed; the first reason is the one reported.
    pub(crate) fn fail(&mut self, reason: impl FnOnce() -> String) {
        if self.failure.is_none() {
            self.failure = Some(reason());
        }
    }

    /// Something failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// The result under the name `check`; `compared` says what was compared with what.
    pub(crate) fn result(&self, check: &str, task: Option<&str>, compared: &str) -> CheckResult {
        let measured = self.positions > 0;
        let passed = measured && self.failure.is_none();
        let detail = match &self.failure {
            Some(failure) => format!("{compared}: {failure}"),
            None if !measured => format!("{compared}: nothing was compared"),
            None => format!("{compared}: {} positions, worst at {}", self.positions, self.worst),
        };
        CheckResult {
            check: check.to_owned(),
            task: task.map(str::to_owned),
            max_abs: measured.then(|| rounded(self.max_abs)),
            max_rel: measured.then(|| rounded(self.max_rel)),
            argmax_agreement: measured.then(|| self.agreeing as f64 / self.positions as f64),
            passed,
            detail,
        }
    }
}

/// Six significant digits: enough for a report, and read back from JSON as it was written.
pub(crate) fn rounded(value: f64) -> f64 {
    format!("{value:.5e}").parse().unwrap_or(value)
}

/// One comparison a task.
#[derive(Debug)]
pub(crate) struct PerTask<'a> {
    names: &'a [String],
    comparisons: Vec<Option<Comparison>>,
    tolerances: &'a Tolerances,
}

impl<'a> PerTask<'a> {
    pub(crate) fn new(names: &'a [String], tolerances: &'a Tolerances) -> Self {
        Self { names, comparisons: names.iter().map(|_| None).collect(), tolerances }
    }

    /// The comparison of `task`, an index into the names.
    pub(crate) fn of(&mut self, task: usize) -> &mut Comparison {
        self.comparisons[task].get_or_insert_with(|| Comparison::new(self.tolerances.of(task)))
    }

    /// One result for each task that was compared.
    pub(crate) fn results(&self, check: &str, compared: &str) -> Vec<CheckResult> {
        let tasks = self.names.iter().zip(&self.comparisons);
        tasks.filter_map(|(name, comparison)| Some(comparison.as_ref()?.result(check, Some(name), compared))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::aview1;

    fn compare(found: &[f32], expected: &[f32]) -> CheckResult {
        let mut comparison = Comparison::new(1e-2);
        comparison.add(aview1(found), aview1(expected), || "row 1, position 3".to_owned());
        comparison.result("prefill", Some("sst2"), "runtime against trainer")
    }

    #[test]
    fn close_logits_pass_with_their_difference() {
        let result = compare(&[1.0, -4.0, 2.0], &[1.0, -4.0078125, 2.0]);
        assert!(result.passed);
        assert_eq!(result.max_abs, Some(0.0078125));
        assert_eq!(result.max_rel, Some(1.94932e-3));
        assert_eq!(result.argmax_agreement, Some(1.0));
        assert_eq!(result.detail, "runtime against trainer: 1 positions, worst at row 1, position 3");
    }

    #[test]
    fn a_difference_above_the_tolerance_fails_and_says_where() {
        let result = compare(&[1.0, -4.0, 2.0], &[1.25, -4.0, 2.0]);
        assert!(!result.passed);
        let expected = "runtime against trainer: row 1, position 3, token 0: 1 where 1.25 was expected, a difference of 2.500e-1 (1.0e-2 allowed)";
        assert_eq!(result.detail, expected);
    }

    #[test]
    fn the_tolerance_grows_with_logits_above_ten() {
        assert!(compare(&[40.03, 0.0], &[40.0, 0.0]).passed);
        assert!(!compare(&[40.05, 0.0], &[40.0, 0.0]).passed);
        assert!(!compare(&[4.03, 0.0], &[4.0, 0.0]).passed);
    }

    #[test]
    fn near_ties_may_change_places_and_others_may_not() {
        assert_eq!(compare(&[1.0, 1.004], &[1.004, 1.0]).argmax_agreement, Some(1.0));
        let swapped = compare(&[1.0, 1.008], &[1.015, 1.0]);
        assert_eq!((swapped.argmax_agreement, swapped.passed), (Some(0.0), false));
    }

    #[test]
    fn what_is_not_finite_or_not_there_fails() {
        assert!(!compare(&[f32::NAN, 1.0], &[0.0, 1.0]).passed);
        assert!(!compare(&[0.0, 1.0], &[f32::NAN, 1.0]).passed);
        assert!(!compare(&[f32::INFINITY, 1.0], &[f32::INFINITY, 1.0]).passed);
        assert!(!compare(&[0.0], &[0.0, 1.0]).passed);
        assert!(!Comparison::new(1.0).result("prefill", None, "nothing").passed);
    }
}
