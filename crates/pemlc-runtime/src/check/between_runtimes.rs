//! Answers to the probes, against those of the runtime that ran first: a number type that loses something may lose the same everywhere only.

use super::compare::PerTask;
use super::subject::{Answers, Subject};
use crate::RuntimeKind;
use pemlc_artifact::artifact::CheckResult;

/// Each of two runtimes may be the tolerance away from what is exact.
const BOTH: f64 = 2.0;

pub(crate) fn check(subject: &Subject<'_>, other: RuntimeKind, expected: &Answers) -> Vec<CheckResult> {
    let tolerances = subject.tolerances.times(BOTH);
    let mut per_task = PerTask::new(subject.tasks, &tolerances);
    for (probe, answers) in &subject.answers {
        if let Some(expected) = expected.get(probe) {
            let comparison = per_task.of(subject.probes.tasks[*probe]);
            comparison.add_rows(answers.view(), expected.view(), |index| {
                format!("probe {probe}, position {}", subject.probes.positions[*probe][index])
            });
        }
    }
    per_task.results("between-runtimes", &format!("{} against {other}", subject.session.kind()))
}
