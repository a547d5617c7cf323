//! Holds an artifact to the trainer's probes on every runtime asked for.

mod bad_task_id;
mod between_runtimes;
mod by_task;
mod cached_decode;
mod compare;
mod differs_from_base;
mod distortion;
mod drawn;
mod files;
mod fuzz;
mod graphs;
mod left_padding;
mod mixed_batch;
mod one_task_per_batch;
mod prefill;
mod prepared;
mod probes;
mod prompts;
mod shapes;
mod subject;
mod tolerance;

pub use drawn::Drawn;
pub use files::{CheckError, record};
pub(crate) use prepared::Prepared;

use crate::session::probe;
use crate::{OpenOptions, RuntimeError, RuntimeKind, open};
use compare::rounded;
use pemlc_artifact::artifact::{CheckResult, RuntimeValidation, Validation};
use prepared::Battery;
use std::path::Path;
use std::time::Instant;
use subject::{Answers, Subject};

/// Largest absolute logit difference that f32 graphs are allowed, at positions whose largest logit is at most 10. Beyond, it grows in
/// proportion: f32 rounds relative to what it rounds, and two f32 runtimes differ by about 1e-4 where logits reach 30.
pub const DEFAULT_TOLERANCE: f64 = 1e-4;

/// Runtimes of a check that was told of none.
pub const DEFAULT_RUNTIMES: [RuntimeKind; 3] =
    [RuntimeKind::OrtCpu, RuntimeKind::OrtCpuUnoptimized, RuntimeKind::Tract];

/// Drawn batches of a check that was told of no number.
pub const DEFAULT_DRAWN: usize = 4;

/// What to check.
#[derive(Debug, Clone, Default)]
pub struct CheckOptions {
    /// Runtimes, in the order in which they run; absent for those of [`DEFAULT_RUNTIMES`] that the artifact is for.
    pub runtimes: Option<Vec<RuntimeKind>>,
    /// Largest absolute logit difference allowed; absent, what the number type that is computed in is allowed, or else
    /// [`DEFAULT_TOLERANCE`], and against the trainer what `pemlc.json` says of rounded weights, of approximated deltas and of the
    /// trainer's own rounding.
    pub tolerance: Option<f64>,
    /// Largest mean total variation between a task's next-token distributions and the trainer's; absent, what the artifact's number type
    /// is allowed. Where there is a bound, it takes the place of the comparison of logits with the trainer's.
    pub max_distortion: Option<f64>,
    /// Batches of drawn sizes to run: batch 1-9, sequence 1-70, past 0-130, tasks, unknown ids and padding as they come.
    pub drawn: Drawn,
    /// How to open the graph.
    pub open: OpenOptions,
}

type Check = fn(&mut Subject<'_>) -> Result<Vec<CheckResult>, RuntimeError>;

/// The checks in the order in which they run: `prefill` comes first because others compare with its answers.
const CHECKS: [(&str, Check); 7] = [
    ("prefill", prefill::check),
    ("mixed-batch", mixed_batch::check),
    ("shapes", shapes::check),
    ("cached-decode", cached_decode::check),
    ("left-padding", left_padding::check),
    ("differs-from-base", differs_from_base::check),
    ("bad-task-id", bad_task_id::check),
];

/// Checks the artifact at `dir`. First the files are compared with the hashes in `pemlc.json`; then every runtime, one at a time, runs
/// every check. A position passes when no logit differs by more than `tolerance` (times a tenth of
/// the largest expected logit, where that is above 10) and the argmax is the expected one, or one whose
/// expected logit lies within `tolerance` of the largest. Where f32 itself is further from the exact logits of a task, as the trainer
/// measured, four times that is allowed of an f32 artifact, unless `options` say a tolerance. With a bound on distortion, the artifact's own
/// answers are held to each other so, between runtimes too, and to the trainer's by the bound. A graph that none of the runtimes reads has
/// a failed result. `progress` sees a line for each check. Nothing is written: see [`record`].
///
/// # Errors
/// When the artifact cannot be read, a file has changed, the probes are malformed, or a runtime is not available; all of that is known
/// before the first check runs. A check that fails is not an error: it is in the answer.
pub fn check(dir: &Path, options: &CheckOptions, progress: &mut dyn FnMut(&str)) -> Result<Validation, CheckError> {
    let prepared = Prepared::read(dir, options, progress)?;
    let defaults: Vec<RuntimeKind> = DEFAULT_RUNTIMES.into_iter().filter(|kind| prepared.runs_on(*kind)).collect();
    let kinds = options.runtimes.as_ref().unwrap_or(&defaults);
    // Found out later, it would take with it what other runtimes were found to do.
    for kind in kinds {
        probe(*kind, &prepared.paths.graph(), &options.open)?;
    }
    let mut runtimes = Vec::new();
    // What the first runtime answered, which others are held to where the trainer's logits are not.
    let mut first: Option<(RuntimeKind, Answers)> = None;
    for kind in kinds {
        let (validation, answers) = check_runtime(*kind, &prepared, first.as_ref(), options, progress);
        runtimes.push(validation);
        if prepared.tolerances.weights_are_rounded() && first.is_none() && !answers.is_empty() {
            first = Some((*kind, answers));
        }
    }
    let unread = graphs::unread(&prepared, kinds);
    if let Some(validation) = runtimes.first_mut() {
        validation.passed &= unread.is_empty();
        validation.checks.extend(unread);
    }
    Ok(prepared.validation(runtimes))
}

fn check_runtime(
    kind: RuntimeKind,
    prepared: &Prepared,
    first: Option<&(RuntimeKind, Answers)>,
    options: &CheckOptions,
    progress: &mut dyn FnMut(&str),
) -> (RuntimeValidation, Answers) {
    let started = Instant::now();
    progress(&format!("{kind}: loading"));
    let mut session = match open(kind, &prepared.paths.graph(), &options.open) {
        Ok(session) => session,
        Err(error) => {
            let validation = RuntimeValidation {
                runtime: kind.name().to_owned(),
                version: String::new(),
                execution_provider: None,
                checks: vec![broken("load", &error)],
                distortion: Vec::new(),
                passed: false,
                seconds: rounded(started.elapsed().as_secs_f64()),
            };
            return (validation, Answers::new());
        }
    };
    let Battery { mut checks, distortion, answers } =
        prepared.battery(session.as_mut(), first, options, kind.name(), progress);
    for record in prepared.manifest.graphs.iter().filter(|record| graphs::reads(kind, record.profile)) {
        progress(&format!("{kind}: {}", record.file));
        match graphs::check(session.as_mut(), prepared, record, options) {
            Ok(results) => checks.extend(results),
            Err(error) => checks.push(broken(&record.file, &error)),
        }
    }
    let passed = checks.iter().all(|check| check.passed);
    let (version, execution_provider) = (session.version(), session.execution_provider());
    let seconds = rounded(started.elapsed().as_secs_f64());
    let runtime = kind.name().to_owned();
    (RuntimeValidation { runtime, version, execution_provider, checks, distortion, passed, seconds }, answers)
}

/// A check that could not be carried out has failed.
fn broken(check: &str, error: &RuntimeError) -> CheckResult {
    CheckResult {
        check: check.to_owned(),
        task: None,
        max_abs: None,
        max_rel: None,
        argmax_agreement: None,
        passed: false,
        detail: error.to_string(),
    }
}
