//! One trial: trained, judged at its rungs, and ended in the study.

use super::{Search, checkpoints};
use crate::arguments::Prune;
use crate::run_file::RunFile;
use anyhow::Context;
use pemlc_artifact::run::Costs;
use pemlc_study::{Asha, Claim, StorageError, Study, TrialState};
use pemlc_trainer::{Event, Next, Observer, TrainError, TrainOutcome, TrainRequest};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Attribute of a trial: its run directory. Set once the directory is found to be free.
const RUN: &str = "pemlc:run";
/// Attribute of a trial: why its training failed.
const FAILURE: &str = "pemlc:failure";

/// How training ended.
enum End {
    /// With the mean score of all tasks after this many steps.
    Complete { steps: u64, value: f64, costs: Box<Costs> },
    /// The pruner stopped it.
    Pruned { step: u64, costs: Box<Costs> },
    /// By Ctrl-C: the trial stays claimed, and is given back when its heartbeat is old.
    Interrupted,
}

impl Search<'_> {
    /// Trains and scores the settings of `claim`, and ends the trial. Gives the reason where training failed as it may under some settings.
    pub(super) fn trial(
        &self,
        study: &mut Study,
        claim: &Claim,
        stop: &Arc<AtomicBool>,
    ) -> anyhow::Result<Option<String>> {
        let settings = self.settings(&claim.params);
        eprintln!("trial {}: {}", claim.number, settings.join(" "));
        let output = self.folder(claim.number);
        let end = {
            let _life = self.keep_alive(claim)?;
            self.train(study, claim, &settings, &output, stop)
        };
        let result = match end {
            Ok(End::Complete { steps, value, costs }) => {
                study.set_attribute(claim, "pemlc:costs", &serde_json::to_value(&costs)?)?;
                // The last rung is the end: nothing is left to be saved by stopping there.
                study.report(claim, steps, value)?;
                study.finish(claim, TrialState::Complete, Some(value))?;
                eprintln!("trial {}: {value:.4}", claim.number);
                Ok(None)
            }
            Ok(End::Pruned { step, costs }) => {
                study.set_attribute(claim, "pemlc:costs", &serde_json::to_value(&costs)?)?;
                study.finish(claim, TrialState::Pruned, None)?;
                eprintln!("trial {}: pruned after step {step}", claim.number);
                Ok(None)
            }
            Ok(End::Interrupted) => return Ok(None),
            Err(error) => {
                let (reason, expected) = reason(&error);
                study.set_attribute(claim, FAILURE, &json!(reason))?;
                study.finish(claim, TrialState::Fail, None)?;
                eprintln!("trial {}: failed: {reason}", claim.number);
                if expected { Ok(Some(reason)) } else { Err(error.context(format!("trial {}", claim.number))) }
            }
        };
        checkpoints::sweep(&study.trials()?, &study.attributes(RUN)?, &study.attributes(FAILURE)?);
        result
    }

    fn train(
        &self,
        study: &mut Study,
        claim: &Claim,
        settings: &[String],
        output: &Path,
        stop: &Arc<AtomicBool>,
    ) -> anyhow::Result<End> {
        let set: Vec<String> = self.arguments.overrides.set.iter().chain(settings).cloned().collect();
        let file = RunFile::read(&self.arguments.config, &set)?;
        let steps = file.config.total_steps();
        let asha = match self.arguments.prune {
            Prune::Asha => Some(Asha::fractions(steps, self.arguments.reduction)?),
            Prune::None => None,
        };
        let request = TrainRequest {
            config: file.config,
            config_dir: file.folder,
            output: output.to_owned(),
            device: self.arguments.device,
            resume: false,
            score_at: asha.as_ref().map_or_else(Vec::new, |asha| asha.rungs().to_vec()),
            stop: Arc::clone(stop),
        };
        let run = std::path::absolute(output).with_context(|| output.display().to_string())?;
        let mut judge = Judge { study, claim, run, asha, failure: None };
        let outcome = pemlc_trainer::train(request, &mut judge);
        if let Some(failure) = judge.failure {
            return Err(failure.into());
        }
        Ok(match outcome? {
            TrainOutcome::Finished(manifest) => {
                let scores: Vec<f64> = manifest.tasks.iter().filter_map(|task| task.score).collect();
                let value = scores.iter().sum::<f64>() / scores.len().max(1) as f64;
                End::Complete { steps, value, costs: Box::new(manifest.costs) }
            }
            TrainOutcome::Stopped { step, costs } => End::Pruned { step, costs },
            TrainOutcome::Interrupted { .. } => End::Interrupted,
        })
    }
}

/// Reports a trial's scores to the study and stops what the pruner stops.
struct Judge<'a> {
    study: &'a mut Study,
    claim: &'a Claim,
    run: PathBuf,
    asha: Option<Asha>,
    /// Why the study could not be asked.
    failure: Option<StorageError>,
}

impl Observer for Judge<'_> {
    fn event(&mut self, event: Event) {
        if let Event::Started { .. } = event {
            let run = json!(self.run.display().to_string());
            self.failure = self.study.set_attribute(self.claim, RUN, &run).err();
        }
    }

    fn scored(&mut self, step: u64, score: f64) -> Next {
        if self.failure.is_some() {
            return Next::Stop;
        }
        let Some(asha) = &self.asha else { return Next::Continue };
        match self.study.prune(self.claim, step, score, asha) {
            Ok(false) => Next::Continue,
            Ok(true) => Next::Stop,
            Err(failure) => {
                self.failure = Some(failure);
                Next::Stop
            }
        }
    }
}

/// What a failed trial is remembered by, and whether the search can expect it of some settings.
fn reason(error: &anyhow::Error) -> (String, bool) {
    match error.downcast_ref::<TrainError>() {
        Some(TrainError::NotFinite { step, what, value, examples, checkpoint }) => {
            let examples = examples.join(", ");
            let last = checkpoint.as_ref().map_or_else(|| "none".to_owned(), |path| path.display().to_string());
            let text = format!(
                "step {step}: the {what} is {value}; examples of this step: {examples}; last good checkpoint: {last}"
            );
            (text, true)
        }
        _ => (format!("{error:#}"), false),
    }
}
