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

use crate::{OpenOptions, RuntimeError, RuntimeKind, open};
use compare::rounded;
use pemlc_artifact::artifact::{
    ArtifactManifest, ArtifactPaths, CheckResult, GraphRecord, RuntimeValidation, Validation,
};
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
#[derive(Debug, Clone)]
pub struct CheckOptions {
    /// Runtimes, in the order in which they run; absent for those of [`DEFAULT_RUNTIMES`] that the artifact is for.
    pub runtimes: Option<Vec<RuntimeKind>>,
    /// Largest absolute logit difference allowed; absent, what the artifact's number type is allowed, or else [`DEFAULT_TOLERANCE`].
    pub tolerance: Option<f64>,
    /// Batches of drawn sizes to run: batch 1-9, sequence 1-70, past 0-130, tasks and padding as they come.
    pub drawn: usize,
    /// How to open the graph.
    pub open: OpenOptions,
}

impl Default for CheckOptions {
    fn default() -> Self {
        Self { runtimes: None, tolerance: None, drawn: DEFAULT_DRAWN, open: OpenOptions::default() }
    }
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
    let manifest = ArtifactManifest::read(dir)?;
    let paths = ArtifactPaths::new(dir);
    progress("comparing files with the hashes in pemlc.json");
    files::verify(&paths, &manifest)?;
    let tasks: Vec<String> = manifest.tasks.iter().map(|task| task.name.clone()).collect();
    let probes = Probes::read(&paths.probes(), &tasks, manifest.config.vocab_size)?;
    let tolerance = options.tolerance.or(manifest.tolerance).unwrap_or(DEFAULT_TOLERANCE);
    let mut runtimes = Vec::new();
    let runs_on =
        |kind: &RuntimeKind| manifest.runtimes.is_empty() || manifest.runtimes.iter().any(|name| name == kind.name());
    if let Some(kind) = options.runtimes.iter().flatten().find(|kind| !runs_on(kind)) {
        let (dtype, opset, known) = (manifest.dtype.clone(), manifest.opset, manifest.runtimes.join(", "));
        return Err(CheckError::NotFor { kind: *kind, dtype, opset, known });
    }
    let defaults: Vec<RuntimeKind> = DEFAULT_RUNTIMES.into_iter().filter(runs_on).collect();
    let kinds = options.runtimes.as_ref().unwrap_or(&defaults);
    for kind in kinds {
        let positions = manifest.config.max_position_embeddings;
        let artifact =
            Artifact { paths: &paths, graphs: &manifest.graphs, probes: &probes, tasks: &tasks, tolerance, positions };
        runtimes.push(check_runtime(*kind, &artifact, options, progress)?);
    }
    Ok(Validation { tolerance, runtimes })
}

/// What is checked.
struct Artifact<'a> {
    paths: &'a ArtifactPaths,
    graphs: &'a [GraphRecord],
    probes: &'a Probes,
    tasks: &'a [String],
    tolerance: f64,
    /// Most tokens of a row.
    positions: usize,
}

fn check_runtime(
    kind: RuntimeKind,
    artifact: &Artifact<'_>,
    options: &CheckOptions,
    progress: &mut dyn FnMut(&str),
) -> Result<RuntimeValidation, CheckError> {
    let started = Instant::now();
    progress(&format!("{kind}: loading"));
    let mut session = match open(kind, &artifact.paths.graph(), &options.open) {
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
    let mut subject = Subject::new(session.as_mut(), artifact.probes, artifact.tasks, artifact.tolerance);
    let mut checks = Vec::new();
    for (name, check) in CHECKS {
        progress(&format!("{kind}: {name}"));
        match check(&mut subject) {
            Ok(results) => checks.extend(results),
            Err(error) => checks.push(broken(name, &error)),
        }
    }
    if options.drawn > 0 {
        progress(&format!("{kind}: drawn-shapes"));
        match fuzz::check(&mut subject, options.drawn, artifact.positions) {
            Ok(results) => checks.extend(results),
            Err(error) => checks.push(broken("drawn-shapes", &error)),
        }
    }
    let expected = graphs::Expected { probes: artifact.probes, tasks: artifact.tasks, tolerance: artifact.tolerance };
    for record in artifact.graphs {
        progress(&format!("{kind}: {}", record.file));
        match graphs::check(session.as_mut(), artifact.paths.root(), record, &expected, &options.open) {
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
