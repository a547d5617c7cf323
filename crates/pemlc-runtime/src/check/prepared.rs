//! An artifact whose files are those that were exported, what it is held to, and every check of its `model.onnx`.

use super::by_task::ByTask;
use super::compare::rounded;
use super::files::{self, CheckError};
use super::probes::Probes;
use super::subject::{Answers, Subject};
use super::tolerance::Tolerances;
use super::{CHECKS, CheckOptions, DEFAULT_TOLERANCE, between_runtimes, broken, distortion, fuzz, one_task_per_batch};
use crate::{RuntimeError, RuntimeKind, Session};
use pemlc_artifact::artifact::{
    ArtifactManifest, ArtifactPaths, CheckResult, Distortion, RuntimeValidation, TaskRounding, Validation,
};
use std::path::Path;

/// See the module.
pub(crate) struct Prepared {
    pub(crate) manifest: ArtifactManifest,
    pub(crate) paths: ArtifactPaths,
    pub(crate) tasks: Vec<String>,
    pub(crate) tolerances: Tolerances,
    pub(super) probes: Probes,
}

/// What one runtime was found to do.
pub(crate) struct Battery {
    pub(crate) checks: Vec<CheckResult>,
    /// What the number type cost each task; empty for f32.
    pub(super) distortion: Vec<Distortion>,
    pub(super) answers: Answers,
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
        let tolerances = tolerances(&manifest, &probes, options);
        let prepared = Self { manifest, paths, tasks, tolerances, probes };
        if let Some(kind) = options.runtimes.iter().flatten().find(|kind| !prepared.runs_on(**kind)) {
            let (dtype, opset) = (prepared.manifest.dtype.clone(), prepared.manifest.opset);
            let known = prepared.manifest.runtimes.join(", ");
            return Err(CheckError::NotFor { kind: *kind, dtype, opset, known });
        }
        Ok(prepared)
    }

    pub(super) fn runs_on(&self, kind: RuntimeKind) -> bool {
        self.manifest.runtimes.is_empty() || self.manifest.runtimes.iter().any(|name| name == kind.name())
    }

    /// What `pemlc.json` keeps of a check.
    pub(super) fn validation(&self, runtimes: Vec<RuntimeValidation>) -> Validation {
        let of_task = |(index, task): (usize, &String)| {
            let (f32_rounding, allowed) = self.tolerances.derived(index)?;
            Some(TaskRounding { task: task.clone(), f32_rounding: rounded(f32_rounding), allowed: rounded(allowed) })
        };
        Validation {
            tolerance: self.tolerances.base(),
            rounding: self.tasks.iter().enumerate().filter_map(of_task).collect(),
            max_distortion: self.tolerances.max_distortion(),
            trainer_tolerance: self.tolerances.trainer(),
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

/// What answers are held to: the trainer's by what the number type may lose, the graph's own to each other by what it computes in.
fn tolerances(manifest: &ArtifactManifest, probes: &Probes, options: &CheckOptions) -> Tolerances {
    // f16 is computed in. Other types round the weights alone: what such a graph computes is f32.
    let (own, weights) = if manifest.dtype == "f16" { (manifest.tolerance, None) } else { (None, manifest.tolerance) };
    let stated = options.tolerance.or(own);
    let base = stated.unwrap_or(DEFAULT_TOLERANCE);
    let rounding = |task: usize| if stated.is_none() { probes.rounding(task) } else { None };
    let approximated = manifest.approximation.as_ref().map(|found| found.logit_tolerance);
    let trainer = approximated.into_iter().chain(weights).reduce(f64::max).map(|bound| bound.max(base));
    Tolerances::new(base, (0..manifest.tasks.len()).map(rounding).collect())
        .with_trainer(trainer.filter(|_| options.tolerance.is_none()))
        .with_rounded_weights(weights.is_some())
        .with_max_distortion(options.max_distortion.or(manifest.max_distortion))
}
