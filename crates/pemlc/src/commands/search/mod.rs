//! `pemlc search`: trials of one run file under other settings, kept in a study that several processes may share.

mod checkpoints;
mod conditional;
mod life;
mod space;
mod trial;
mod workers;

use crate::arguments::{Prune, SearchArguments};
use crate::report;
use crate::run_file::RunFile;
use crate::table::Table;
use crate::{Outcome, interrupt};
use anyhow::{Context, bail};
use pemlc_artifact::prompt::Architecture;
use pemlc_artifact::run::{RunManifest, RunPaths};
use pemlc_study::{Location, Space, Study, TpeSampler, Trial, best_trial};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use workers::Workers;

/// After how many seconds without a sign of life a worker counts as dead.
const SILENCE: u64 = 120;

/// How many trials of one process may fail in a row. They do not count as trials of the study, so that a space in which all fail would be
/// searched for ever.
const MOST_FAILURES: usize = 10;

/// What every worker of a search has.
struct Search<'a> {
    arguments: &'a SearchArguments,
    space: Space,
    study: Location,
    name: String,
    attributes: [(&'static str, Value); 3],
    output: PathBuf,
}

pub(crate) fn run(arguments: &SearchArguments) -> anyhow::Result<Outcome> {
    let file = RunFile::read(&arguments.config, &arguments.overrides.set)?;
    let space = space::space(&file.config)?;
    let tasks: Vec<&str> = file.config.tasks.iter().map(|task| task.name.as_str()).collect();
    let password = std::env::var("PGPASSWORD").ok();
    // Values of other rungs cannot be compared: all workers of a study prune alike.
    let pruner = match arguments.prune {
        Prune::Asha => json!({ "name": "asha", "reduction": arguments.reduction }),
        Prune::None => json!({ "name": "none" }),
    };
    let search = Search {
        attributes: [("pemlc:space", space.to_json()), ("pemlc:tasks", json!(tasks)), ("pemlc:pruner", pruner)],
        space,
        study: Location::parse(&arguments.study, password.as_deref()).context("--study")?,
        name: arguments.name.clone(),
        output: arguments.output.clone(),
        arguments,
    };
    // Tells of a bad configuration, or a key that no run file has, before anything is written.
    let seed = file.config.seed;
    file.load_tasks()?;
    for example in space::examples(&search.space, seed) {
        let set = [arguments.overrides.set.clone(), search.settings(&example)].concat();
        RunFile::read(&arguments.config, &set).context("[search]")?;
    }
    let stop = interrupt::flag()?;
    let mut study = search.open()?;
    let workers = Workers::start(arguments.workers.saturating_sub(1))?;
    search.work(&mut study, seed, &stop)?;
    workers.wait()?;
    let trials = study.trials()?;
    print!("{}", search.table(&trials));
    println!("\nreport: {}", search.report(&trials)?.display());
    if stop.load(Ordering::Relaxed) {
        eprintln!("interrupted; the same command goes on");
        return Ok(Outcome::Interrupted);
    }
    if let Some(best) = best_trial(&trials) {
        println!("\nbest: trial {}, {}", best.number, search.folder(best.number).display());
    }
    Ok(Outcome::Done)
}

impl Search<'_> {
    fn open(&self) -> anyhow::Result<Study> {
        Ok(Study::open(&self.study, &self.name, &self.attributes)?)
    }

    fn folder(&self, number: u64) -> PathBuf {
        self.output.join(format!("trial-{number:04}"))
    }

    /// Runs trials until the study has as many as were asked for, or `stop` is set.
    fn work(&self, study: &mut Study, seed: u64, stop: &Arc<AtomicBool>) -> anyhow::Result<()> {
        let sampler = TpeSampler::new(seed);
        let mut failures = 0;
        while !stop.load(Ordering::Relaxed) {
            for number in study.give_back(SILENCE)? {
                eprintln!("trial {number}: its worker died; its parameters are tried again");
            }
            let sample = |trials: &[Trial], number| sampler.sample(&self.space, trials, number);
            let Some(claim) = study.claim(&self.space, self.arguments.trials, sample)? else { break };
            let Some(reason) = self.trial(study, &claim, stop)? else {
                failures = 0;
                continue;
            };
            failures += 1;
            if failures == MOST_FAILURES {
                bail!(
                    "{failures} trials in a row failed, the last one {}: {reason}\nGive [search] smaller values, those of learning rates \
                     first (or the run file, if [search] does not vary them), or raise training.warmup_steps",
                    self.folder(claim.number).display()
                );
            }
        }
        Ok(())
    }

    /// `key=value` for each parameter, as `--set` takes it.
    fn settings(&self, values: &BTreeMap<String, f64>) -> Vec<String> {
        space::settings(&self.space, values)
    }

    /// Writes the page of the study beside its trials.
    fn report(&self, trials: &[Trial]) -> anyhow::Result<PathBuf> {
        let read = |trial: &Trial| Some((trial.number, RunManifest::read(&self.folder(trial.number)).ok()?));
        let cell = best_trial(trials).map(|trial| RunPaths::new(self.folder(trial.number)).architecture());
        let study = report::Study {
            name: &self.name,
            space: &self.space,
            trials,
            runs: trials.iter().filter_map(read).collect(),
            cell: cell.and_then(|path| Architecture::read(&path).ok()),
            written: space::written,
        };
        let path = self.output.join("report.html");
        pemlc_artifact::atomic::write(&path, study.page().as_bytes())
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    fn table(&self, trials: &[Trial]) -> String {
        let mut table = Table::new(&[">trial", "state", ">value", "settings"]);
        for trial in trials {
            table.row([
                trial.number.to_string(),
                trial.state.name().to_lowercase(),
                trial.value.map_or_else(String::new, |value| format!("{value:.4}")),
                self.settings(&trial.params).join(" "),
            ]);
        }
        table.render()
    }
}
