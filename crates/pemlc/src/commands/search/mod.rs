//! `pemlc search`: trials of one run file under other settings, kept in a study that several processes may share.

use crate::arguments::SearchArguments;
use crate::run_file::RunFile;
use crate::table::Table;
use crate::{Outcome, interrupt};
use anyhow::{Context, bail};
use pemlc_artifact::run::{RunManifest, RunPaths};
use pemlc_study::{
    Claim, Condition, Distribution, Parameter, RandomSampler, Space, SqliteStudy, TpeSampler, Trial, TrialState,
};
use pemlc_trainer::config::{Choice, Dimension, RunConfig};
use pemlc_trainer::{TrainError, TrainOutcome, TrainRequest};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Seconds between two signs of life, and after how long without one a worker counts as dead.
const HEARTBEAT: u64 = 15;
const SILENCE: u64 = 120;

/// What every worker of a search has.
struct Search<'a> {
    arguments: &'a SearchArguments,
    space: Space,
    study: PathBuf,
    name: String,
    attributes: [(&'static str, Value); 2],
    output: PathBuf,
}

pub(crate) fn run(arguments: &SearchArguments) -> anyhow::Result<Outcome> {
    let file = RunFile::read(&arguments.config, &arguments.overrides.set)?;
    let space = space(&file.config)?;
    let tasks: Vec<&str> = file.config.tasks.iter().map(|task| task.name.as_str()).collect();
    let search = Search {
        attributes: [("pemlc:space", space.to_json()), ("pemlc:tasks", json!(tasks))],
        space,
        study: sqlite_path(&arguments.study)?,
        name: arguments.name.clone(),
        output: arguments.output.clone(),
        arguments,
    };
    // Tells of a bad configuration, or a key that no run file has, before anything is written.
    let seed = file.config.seed;
    file.load_tasks()?;
    let first = RandomSampler { seed }.sample(&search.space, 0);
    RunFile::read(&arguments.config, &[arguments.overrides.set.clone(), search.settings(&first)].concat())
        .context("[search]")?;
    let stop = interrupt::flag()?;
    let mut study = search.open()?;
    let mut workers = search.spawn_workers()?;
    while !stop.load(Ordering::Relaxed) {
        for number in study.give_back(SILENCE)? {
            eprintln!("trial {number}: its worker died; its parameters are tried again");
        }
        let sampler = TpeSampler::new(seed);
        let claim = study
            .claim(&search.space, arguments.trials, |trials, number| sampler.sample(&search.space, trials, number))?;
        let Some(claim) = claim else { break };
        search.trial(&mut study, &claim, &stop)?;
    }
    for worker in &mut workers {
        let status = worker.wait().context("waiting for a worker")?;
        if !status.success() {
            eprintln!("a worker ended with {status}; what it had finished is in the study");
        }
    }
    let trials = study.trials()?;
    print!("{}", search.table(&trials));
    if stop.load(Ordering::Relaxed) {
        eprintln!("interrupted; the same command goes on");
        return Ok(Outcome::Interrupted);
    }
    if let Some(best) = best(&trials) {
        println!("\nbest: trial {}, {}", best.number, search.folder(best.number).display());
    }
    Ok(Outcome::Done)
}

impl Search<'_> {
    fn open(&self) -> anyhow::Result<SqliteStudy> {
        Ok(SqliteStudy::open(&self.study, &self.name, &self.attributes)?)
    }

    fn folder(&self, number: u64) -> PathBuf {
        self.output.join(format!("trial-{number:04}"))
    }

    /// This program again, `--workers` - 1 times, on the same study.
    fn spawn_workers(&self) -> anyhow::Result<Vec<std::process::Child>> {
        let program = std::env::current_exe().context("finding this program")?;
        (1..self.arguments.workers)
            .map(|_| {
                let mut command = std::process::Command::new(&program);
                command.args(std::env::args_os().skip(1)).args(["--workers", "1"]);
                command.stdout(std::process::Stdio::null()).spawn().context("starting a worker")
            })
            .collect()
    }

    /// Trains and scores the settings of `claim`, and ends the trial.
    fn trial(&self, study: &mut SqliteStudy, claim: &Claim, stop: &Arc<AtomicBool>) -> anyhow::Result<()> {
        let settings = self.settings(&claim.params);
        eprintln!("trial {}: {}", claim.number, settings.join(" "));
        let output = self.folder(claim.number);
        let result = {
            let _life = self.keep_alive(claim)?;
            self.train(&settings, &output, stop)
        };
        match result {
            Ok(Some(manifest)) => {
                let scores: Vec<f64> = manifest.tasks.iter().filter_map(|task| task.score).collect();
                let value = scores.iter().sum::<f64>() / scores.len().max(1) as f64;
                study.set_attribute(claim, "pemlc:costs", &serde_json::to_value(&manifest.costs)?)?;
                study.set_attribute(claim, "pemlc:run", &json!(output.display().to_string()))?;
                study.finish(claim, TrialState::Complete, Some(value))?;
                // A finished run needs no checkpoints.
                let checkpoints = RunPaths::new(&output).checkpoints();
                std::fs::remove_dir_all(&checkpoints).with_context(|| checkpoints.display().to_string())?;
                eprintln!("trial {}: {value:.4}", claim.number);
                Ok(())
            }
            // Ctrl-C: the trial stays claimed, and is given back when its heartbeat is old.
            Ok(None) => Ok(()),
            Err(error) => {
                study.set_attribute(claim, "pemlc:failure", &json!(format!("{error:#}")))?;
                study.finish(claim, TrialState::Fail, None)?;
                match error.downcast_ref::<TrainError>() {
                    Some(TrainError::NotFinite { .. }) => {
                        eprintln!("trial {}: failed: {error:#}", claim.number);
                        Ok(())
                    }
                    _ => Err(error.context(format!("trial {}", claim.number))),
                }
            }
        }
    }

    fn train(&self, settings: &[String], output: &Path, stop: &Arc<AtomicBool>) -> anyhow::Result<Option<RunManifest>> {
        let set: Vec<String> = self.arguments.overrides.set.iter().chain(settings).cloned().collect();
        let file = RunFile::read(&self.arguments.config, &set)?;
        let request = TrainRequest {
            config: file.config,
            config_dir: file.folder,
            output: output.to_owned(),
            device: self.arguments.device,
            resume: false,
            stop: Arc::clone(stop),
        };
        match pemlc_trainer::train(request, &mut ())? {
            TrainOutcome::Finished(manifest) => Ok(Some(*manifest)),
            TrainOutcome::Interrupted { .. } => Ok(None),
        }
    }

    /// `key=value` for each parameter, as `--set` takes it.
    fn settings(&self, values: &BTreeMap<String, f64>) -> Vec<String> {
        let parameters = self.space.parameters().iter();
        let set = parameters.filter_map(|parameter| {
            let value = *values.get(&parameter.name)?;
            Some(format!("{}={}", parameter.name, written(&parameter.distribution, value)))
        });
        set.collect()
    }

    /// Signs of life from a thread of its own, until the guard is dropped.
    fn keep_alive(&self, claim: &Claim) -> anyhow::Result<KeepAlive> {
        let mut study = self.open()?;
        let claim = claim.clone();
        let done = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&done);
        let thread = std::thread::spawn(move || {
            let mut ticks = 0;
            while !ended.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(100));
                ticks += 1;
                if ticks % (10 * HEARTBEAT) == 0
                    && let Err(error) = study.heartbeat(&claim)
                {
                    eprintln!("warning: no heartbeat of trial {}: {error}", claim.number);
                }
            }
        });
        Ok(KeepAlive { done, thread: Some(thread) })
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

/// Stops the thread when it goes.
struct KeepAlive {
    done: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for KeepAlive {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("warning: the heartbeat thread panicked");
        }
    }
}

fn best(trials: &[Trial]) -> Option<&Trial> {
    let complete = trials.iter().filter(|trial| trial.value.is_some());
    complete.max_by(|x, y| x.value.partial_cmp(&y.value).unwrap_or(std::cmp::Ordering::Equal))
}

/// A parameter's value as TOML.
fn written(distribution: &Distribution, value: f64) -> String {
    match distribution {
        Distribution::Float { .. } => format!("{value:?}"),
        Distribution::Int { .. } => format!("{}", value.round() as i64),
        Distribution::Categorical { choices } => choices.get(value as usize).map_or_else(String::new, Value::to_string),
    }
}

/// The `[search]` table as a space; without one, what matters to any method.
fn space(config: &RunConfig) -> anyhow::Result<Space> {
    let parameter =
        |name: &str, distribution| Parameter { name: name.to_owned(), distribution, condition: None::<Condition> };
    let parameters: Vec<Parameter> = if config.search.is_empty() {
        let rate = |low, high| Distribution::Float { low, high, log: true };
        vec![
            parameter("lora.rank", Distribution::Categorical { choices: [4, 8, 16, 32].map(Value::from).to_vec() }),
            parameter("lora.dropout", Distribution::Float { low: 0.0, high: 0.1, log: false }),
            parameter("training.learning_rate", rate(1e-5, 3e-3)),
            parameter("training.prefix_learning_rate", rate(1e-3, 3e-2)),
        ]
    } else {
        config.search.iter().map(|(name, dimension)| parameter(name, distribution(dimension))).collect()
    };
    Space::new(parameters).context("[search]")
}

fn distribution(dimension: &Dimension) -> Distribution {
    match dimension {
        Dimension::Choices { choices } => {
            let value = |choice: &Choice| match choice {
                Choice::Truth(value) => json!(value),
                Choice::Integer(value) => json!(value),
                Choice::Number(value) => json!(value),
                Choice::Text(value) => json!(value),
            };
            Distribution::Categorical { choices: choices.iter().map(value).collect() }
        }
        Dimension::Integers { low, high, step, log } => {
            Distribution::Int { low: *low, high: *high, step: *step, log: *log }
        }
        Dimension::Numbers { low, high, log } => Distribution::Float { low: *low, high: *high, log: *log },
    }
}

/// The file of `sqlite:///FILE` (four slashes for an absolute path), or the path itself.
fn sqlite_path(url: &str) -> anyhow::Result<PathBuf> {
    match url.split_once("://") {
        None => Ok(PathBuf::from(url)),
        Some(("sqlite", path)) if path.starts_with('/') && path.len() > 1 => Ok(PathBuf::from(&path[1..])),
        Some(_) => bail!("--study {url}: expected sqlite:///FILE or a path; other databases are not supported"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn studies_are_named_as_optuna_names_them() {
        let path = |url| sqlite_path(url).map(|path| path.display().to_string());
        assert_eq!(path("sqlite:///a/b.db").ok().as_deref(), Some("a/b.db"));
        assert_eq!(path("sqlite:////a/b.db").ok().as_deref(), Some("/a/b.db"));
        assert_eq!(path("b.db").ok().as_deref(), Some("b.db"));
        assert!(path("postgresql://host/db").is_err() && path("sqlite:///").is_err());
    }

    #[test]
    fn values_are_written_as_toml() {
        let choices = vec![json!("shared"), json!(true)];
        assert_eq!(written(&Distribution::Categorical { choices: choices.clone() }, 0.0), "\"shared\"");
        assert_eq!(written(&Distribution::Categorical { choices }, 1.0), "true");
        assert_eq!(written(&Distribution::Float { low: 0.0, high: 1.0, log: false }, 1e-5), "1e-5");
        assert_eq!(written(&Distribution::Int { low: 1, high: 9, step: 1, log: false }, 4.0), "4");
    }
}
