//! Holds an artifact to the trainer's probes on every runtime asked for.

mod bad_task_id;
mod cached_decode;
mod compare;
mod differs_from_base;
mod files;
mod fuzz;
mod graphs;
mod left_padding;
mod mixed_batch;
mod prefill;
mod probes;
mod shapes;
mod subject;

pub use files::{CheckError, record};
pub use fuzz::Drawn;

use crate::{OpenOptions, RuntimeError, RuntimeKind, Session, open};
use compare::rounded;
use pemlc_artifact::artifact::{ArtifactManifest, ArtifactPaths, CheckResult, RuntimeValidation, Validation};
use probes::Probes;
use std::path::Path;
use std::time::Instant;
use subject::Subject;

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
    /// Largest absolute logit difference allowed; absent, what the artifact's number type is allowed, or else [`DEFAULT_TOLERANCE`].
    pub tolerance: Option<f64>,
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
/// expected logit lies within `tolerance` of the largest. `progress` sees a line for each check. Nothing is written: see [`record`].
///
/// # Errors
/// When the artifact cannot be read, a file has changed, the probes are malformed, or a runtime is not available. A check that fails
/// is not an error: it is in the answer.
pub fn check(dir: &Path, options: &CheckOptions, progress: &mut dyn FnMut(&str)) -> Result<Validation, CheckError> {
    let prepared = Prepared::read(dir, options, progress)?;
    let defaults: Vec<RuntimeKind> = DEFAULT_RUNTIMES.into_iter().filter(|kind| prepared.runs_on(*kind)).collect();
    let mut runtimes = Vec::new();
    for kind in options.runtimes.as_ref().unwrap_or(&defaults) {
        runtimes.push(check_runtime(*kind, &prepared, options, progress)?);
    }
    Ok(Validation { tolerance: prepared.tolerance, runtimes })
}

/// An artifact whose files are those that were exported, and what it is held to.
pub(crate) struct Prepared {
    pub(crate) manifest: ArtifactManifest,
    pub(crate) paths: ArtifactPaths,
    pub(crate) tasks: Vec<String>,
    pub(crate) tolerance: f64,
    probes: Probes,
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
        let tolerance = options.tolerance.or(manifest.tolerance).unwrap_or(DEFAULT_TOLERANCE);
        let prepared = Self { manifest, paths, tasks, tolerance, probes };
        if let Some(kind) = options.runtimes.iter().flatten().find(|kind| !prepared.runs_on(**kind)) {
            let (dtype, known) = (prepared.manifest.dtype.clone(), prepared.manifest.runtimes.join(", "));
            return Err(CheckError::NotFor { kind: *kind, dtype, known });
        }
        Ok(prepared)
    }

    fn runs_on(&self, kind: RuntimeKind) -> bool {
        self.manifest.runtimes.is_empty() || self.manifest.runtimes.iter().any(|name| name == kind.name())
    }

    /// Every check of `model.onnx`, which `session` runs. `label` says who it is, for `progress`.
    pub(crate) fn battery(
        &self,
        session: &mut dyn Session,
        options: &CheckOptions,
        label: &str,
        progress: &mut dyn FnMut(&str),
    ) -> Vec<CheckResult> {
        let mut subject = Subject::new(session, &self.probes, &self.tasks, self.tolerance);
        let mut checks = Vec::new();
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
        checks
    }
}

fn check_runtime(
    kind: RuntimeKind,
    prepared: &Prepared,
    options: &CheckOptions,
    progress: &mut dyn FnMut(&str),
) -> Result<RuntimeValidation, CheckError> {
    let started = Instant::now();
    progress(&format!("{kind}: loading"));
    let mut session = match open(kind, &prepared.paths.graph(), &options.open) {
        Ok(session) => session,
        Err(error @ (RuntimeError::Load { .. } | RuntimeError::Interface { .. })) => {
            return Ok(RuntimeValidation {
                runtime: kind.name().to_owned(),
                version: String::new(),
                execution_provider: None,
                checks: vec![broken("load", &error)],
                passed: false,
                seconds: rounded(started.elapsed().as_secs_f64()),
            });
        }
        Err(error) => return Err(error.into()),
    };
    let mut checks = prepared.battery(session.as_mut(), options, kind.name(), progress);
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
    Ok(RuntimeValidation { runtime: kind.name().to_owned(), version, execution_provider, checks, passed, seconds })
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
