//! `--rank-tolerance`: how it is shared out, and what `pemlc.json` says of it.

use crate::export::ExportOptions;
use crate::passes::{Lowering, PipelineOptions};
use crate::rank_reduction::{RankReduction, TaskReduction};
use pemlc_artifact::artifact::{Approximation, TaskApproximation};

/// Tolerances of logits hold where the largest is at most this, and grow in proportion beyond.
const TOLERANCE_SCALE: f64 = 10.0;

/// A tolerance is for the ranks that are left out, and for bases that tasks share, where such a lowering may be chosen: half for each. With the
/// base model as a task no basis has a part of it: it would leave out some of what makes that task the base model.
pub(crate) fn share_tolerance(options: &ExportOptions) -> (PipelineOptions, Option<f64>) {
    let mut pipeline = options.pipeline.clone();
    let Some(tolerance) = options.rank_tolerance else { return (pipeline, None) };
    if options.include_base || !matches!(pipeline.switch.lowering, Lowering::ByCost | Lowering::SharedBasis) {
        return (pipeline, Some(tolerance));
    }
    pipeline.switch.basis_tolerance = tolerance / 2.0;
    (pipeline, Some(tolerance / 2.0))
}

/// What `pemlc.json` says of it. An error of a hundredth of a delta moves logits by about a hundredth of what the delta moves them by. The check
/// allows that share of the largest logit, on top of what the number type needs: no bound that was derived, but a promise that is checked.
pub(crate) fn approximation(tolerance: f64, reduction: &RankReduction, tasks: &[&str], of_type: f64) -> Approximation {
    let of_task = |(reduction, task): (&TaskReduction, &&str)| TaskApproximation {
        task: (*task).to_owned(),
        ranks: reduction.ranks,
        kept: reduction.kept,
        relative_error: reduction.relative_error,
    };
    Approximation {
        rank_tolerance: tolerance,
        logit_tolerance: of_type + TOLERANCE_SCALE * tolerance,
        tasks: reduction.tasks.iter().zip(tasks).map(of_task).collect(),
        dropped_sites: reduction.sites_dropped.clone(),
    }
}
