//! Holds an artifact to the trainer's probes on every runtime asked for.

mod bad_task_id;
mod between_runtimes;
mod by_task;
mod cached_decode;
mod compare;
mod differs_from_base;
mod distortion;
mod files;
mod fuzz;
mod graphs;
mod left_padding;
mod mixed_batch;
mod one_task_per_batch;
mod prefill;
mod probes;
mod shapes;
mod subject;
mod tolerance;

pub use files::{CheckError, record};
pub use fuzz::Drawn;

use crate::{OpenOptions, RuntimeError, RuntimeKind, Session, open};
use by_task::ByTask;
use compare::rounded;
use pemlc_artifact::artifact::{
    ArtifactManifest, ArtifactPaths, CheckResult, Distortion, RuntimeValidation, TaskRounding, Validation,
};
use probes::Probes;
use std::path::Path;
use std::time::Instant;
use subject::{Answers, Subject};
use tolerance::Tolerances;

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
    /// Largest absolute logit difference allowed; absent, what the artifact's number type is allowed, or else [`DEFAULT_TOLERANCE`], and
    /// against the trainer what `pemlc.json` says of approximated deltas and of the trainer's own rounding.
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
/// answers are held to each other so, between runtimes too, and to the trainer's by the bound. `progress` sees a line for each check.
/// Nothing is written: see [`record`].
///
/// # Errors
/// When the artifact cannot be read, a file has changed, the probes are malformed, or a runtime is not available. A check that fails
/// is not an error: it is in the answer.
pub fn check(dir: &Path, options: &CheckOptions, progress: &mut dyn FnMut(&str)) -> Result<Validation, CheckError> {
    let prepared = Prepared::read(dir, options, progress)?;
    let defaults: Vec<RuntimeKind> = DEFAULT_RUNTIMES.into_iter().filter(|kind| prepared.runs_on(*kind)).collect();
    let mut runtimes = Vec::new();
    // What the first runtime answered, which others are held to where the trainer's logits are not.
    let mut first: Option<(RuntimeKind, Answers)> = None;
    for kind in options.runtimes.as_ref().unwrap_or(&defaults) {
        let (validation, answers) = check_runtime(*kind, &prepared, first.as_ref(), options, progress)?;
        runtimes.push(validation);
        if prepared.tolerances.max_distortion().is_some() && first.is_none() && !answers.is_empty() {
            first = Some((*kind, answers));
        }
    }
    Ok(prepared.validation(runtimes))
}

/// An artifact whose files are those that were exported, and what it is held to.
pub(crate) struct Prepared {
    pub(crate) manifest: ArtifactManifest,
    pub(crate) paths: ArtifactPaths,
    pub(crate) tasks: Vec<String>,
    pub(crate) tolerances: Tolerances,
    /// Against the trainer, where the artifact holds its deltas approximately.
    trainer_tolerance: Option<f64>,
    probes: Probes,
}

/// What one runtime was found to do.
pub(crate) struct Battery {
    pub(crate) checks: Vec<CheckResult>,
    /// What the number type cost each task; empty for f32.
    distortion: Vec<Distortion>,
    answers: Answers,
}

impl Prepared {
    /// Reads the artifact at `dir` and compares its files with their hashes.
    pub(crate) fn read(dir: &Path, options: &CheckOptions, progress: &mut dyn FnMut(&str)) -> Result<Self, CheckError> {
        let manifest = ArtifactManifest::read(dir)?;
        let paths = ArtifactPaths::new(dir);
        progress("comparing files with the hashes in pemlc.json");
        files::verify(&paths, &manifest)?;
        let tasks: Vec<String> = manifest.tasks.iter().map(|task| task.name.clone()).collect();
        let probes = Probes::read(&paths.probes(), &tasks, manifest.config.vocab_size)?;
        let stated = options.tolerance.or(manifest.tolerance);
        let tolerance = stated.unwrap_or(DEFAULT_TOLERANCE);
        let rounding = |task: usize| if stated.is_none() { probes.rounding(task) } else { None };
        let approximated = manifest.approximation.as_ref().map(|found| found.logit_tolerance.max(tolerance));
        let trainer_tolerance = approximated.filter(|_| options.tolerance.is_none());
        let tolerances = Tolerances::new(tolerance, (0..tasks.len()).map(rounding).collect())
            .with_approximation(trainer_tolerance)
            .with_max_distortion(options.max_distortion.or(manifest.max_distortion));
        let prepared = Self { manifest, paths, tasks, tolerances, trainer_tolerance, probes };
        if let Some(kind) = options.runtimes.iter().flatten().find(|kind| !prepared.runs_on(**kind)) {
            let (dtype, opset) = (prepared.manifest.dtype.clone(), prepared.manifest.opset);
            let known = prepared.manifest.runtimes.join(", ");
            return Err(CheckError::NotFor { kind: *kind, dtype, opset, known });
        }
        Ok(prepared)
    }

    fn runs_on(&self, kind: RuntimeKind) -> bool {
        self.manifest.runtimes.is_empty() || self.manifest.runtimes.iter().any(|name| name == kind.name())
    }

    /// What `pemlc.json` keeps of a check.
    fn validation(&self, runtimes: Vec<RuntimeValidation>) -> Validation {
        let of_task = |(index, task): (usize, &String)| {
            let (f32_rounding, allowed) = self.tolerances.derived(index)?;
            Some(TaskRounding { task: task.clone(), f32_rounding: rounded(f32_rounding), allowed: rounded(allowed) })
        };
        Validation {
            tolerance: self.tolerances.base(),
            rounding: self.tasks.iter().enumerate().filter_map(of_task).collect(),
            max_distortion: self.tolerances.max_distortion(),
            trainer_tolerance: self.trainer_tolerance,
            runtimes,
        }
    }

    /// Every check of `model.onnx`, which `session` runs. `first` is what another runtime answered, `label` says who this is, for `progress`.
    pub(crate) fn battery(
        &self,
        session: &mut dyn Session,
        first: Option<&(RuntimeKind, Answers)>,
        options: &CheckOptions,
        label: &str,
        progress: &mut dyn FnMut(&str),
    ) -> Battery {
        let mut checks = Vec::new();
        if self.manifest.one_task_per_batch {
            progress(&format!("{label}: one-task-per-batch"));
            let found = one_task_per_batch::check(session, &self.probes, self.tasks.len(), self.tolerances.widest());
            checks.extend(found.unwrap_or_else(|error| vec![broken("one-task-per-batch", &error)]));
        }
        // The other checks mix tasks as they like: such a graph gets each task's rows by themselves.
        let mut by_task = ByTask(session);
        let session: &mut dyn Session = if self.manifest.one_task_per_batch { &mut by_task } else { by_task.0 };
        let mut subject = Subject::new(session, &self.probes, &self.tasks, &self.tolerances);
        let mut run =
            |name: &str, check: &mut dyn FnMut(&mut Subject<'_>) -> Result<Vec<CheckResult>, RuntimeError>| {
                progress(&format!("{label}: {name}"));
                match check(&mut subject) {
                    Ok(results) => checks.extend(results),
                    Err(error) => checks.push(broken(name, &error)),
                }
            };
        for (name, mut check) in CHECKS {
            run(name, &mut check);
        }
        if options.drawn.count() > 0 {
            let positions = self.manifest.config.max_position_embeddings;
            run("drawn-shapes", &mut |subject| fuzz::check(subject, &options.drawn, positions));
        }
        if let Some((other, expected)) = first {
            checks.extend(between_runtimes::check(&subject, *other, expected));
        }
        let answers = std::mem::take(&mut subject.answers);
        let lossy = self.manifest.dtype != "f32";
        let meters = if lossy { distortion::measure(&answers, &self.probes, self.tasks.len()) } else { Vec::new() };
        let distortion = meters.iter().zip(&self.tasks).filter_map(|(meter, task)| meter.finish(task).ok()).collect();
        Battery { checks, distortion, answers }
    }
}

fn check_runtime(
    kind: RuntimeKind,
    prepared: &Prepared,
    first: Option<&(RuntimeKind, Answers)>,
    options: &CheckOptions,
    progress: &mut dyn FnMut(&str),
) -> Result<(RuntimeValidation, Answers), CheckError> {
    let started = Instant::now();
    progress(&format!("{kind}: loading"));
    let mut session = match open(kind, &prepared.paths.graph(), &options.open) {
        Ok(session) => session,
        Err(error @ (RuntimeError::Load { .. } | RuntimeError::Interface { .. })) => {
            let validation = RuntimeValidation {
                runtime: kind.name().to_owned(),
                version: String::new(),
                execution_provider: None,
                checks: vec![broken("load", &error)],
                distortion: Vec::new(),
                passed: false,
                seconds: rounded(started.elapsed().as_secs_f64()),
            };
            return Ok((validation, Answers::new()));
        }
        Err(error) => return Err(error.into()),
    };
    let Battery { mut checks, distortion, answers } =
        prepared.battery(session.as_mut(), first, options, kind.name(), progress);
    for record in &prepared.manifest.graphs {
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
    Ok((RuntimeValidation { runtime, version, execution_provider, checks, distortion, passed, seconds }, answers))
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
