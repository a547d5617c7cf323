//! A run from its run file to its run directory.

mod checkpoint;
mod evaluate;
mod finish;
mod identity;
mod memory;
mod metrics;
mod prepare;
mod probes;
mod request;
mod schedule;
mod step;

pub(crate) use memory::peak as peak_memory;
pub use request::{TrainOutcome, TrainRequest};
pub(crate) use step::Stepper;

use crate::error::TrainError;
use crate::event::{Event, Observer};
use crate::method::{Methods, Start};
use crate::optimizer::AdamW;
use crate::parameters::{Group, ParameterSet};
use checkpoint::State;
use metrics::{Metrics, StepLine};
use pemlc_artifact::run::Costs;
use pemlc_data::Mixer;
use prepare::Prepared;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Trains, and writes the run directory. `run.json` comes last: a directory without it is no finished run.
///
/// # Errors
/// When anything that a user gave is wrong (before the first step), when a file cannot be written, or when training diverges.
pub fn train(request: TrainRequest, observer: &mut dyn Observer) -> Result<TrainOutcome, TrainError> {
    let run = Prepared::new(&request, observer)?;
    let mut progress = Progress::new(&run, &request)?;
    let steps = run.config.training.steps;
    observer.event(Event::Started {
        trainable_parameters: progress.set.count(),
        base_parameters: run.backbone.parameters(),
        tasks: run.tasks.tasks.iter().map(|task| task.name.clone()).collect(),
        device: run.device_name.clone(),
        resumed_at: request.resume.then_some(progress.done),
        steps,
    });
    let mixer =
        Mixer::new(&run.tasks, run.config.training.sampling_exponent, run.config.training.batch_size, run.config.seed);
    progress.advance(observer);
    progress.announce(&run, observer);
    while progress.done < steps {
        if request.stop.load(Ordering::Relaxed) {
            let checkpoint = match progress.done {
                0 => None,
                _ => Some(progress.save(&run, observer)?),
            };
            return Ok(TrainOutcome::Interrupted { checkpoint });
        }
        progress.step(&run, &mixer, observer)?;
        // The last step always has one: scoring can be interrupted too.
        let due = progress.done.is_multiple_of(run.config.training.checkpoint_every);
        if due || progress.done == steps {
            progress.save(&run, observer)?;
        }
        if progress.advance(observer) {
            progress.announce(&run, observer);
        }
    }
    let Progress { methods, set, costs, mut metrics, newest, .. } = progress;
    let outcome = finish::finish(&run, &methods, &set, costs, &mut metrics, &request.stop, observer)?;
    Ok(outcome.unwrap_or(TrainOutcome::Interrupted { checkpoint: newest }))
}

/// What changes during a run.
struct Progress {
    /// Steps done.
    done: u64,
    methods: Methods,
    set: ParameterSet,
    optimizer: AdamW,
    costs: Costs,
    metrics: Metrics,
    identity: serde_json::Value,
    /// The newest checkpoint.
    newest: Option<PathBuf>,
}

impl Progress {
    /// At the start, or at the newest checkpoint.
    fn new(run: &Prepared, request: &TrainRequest) -> Result<Self, TrainError> {
        let identity = identity::of(&run.config, &run.base.files, &run.tasks, &run.device_name);
        let mut methods = Methods::new(&run.config, run.backbone.config(), run.architecture.as_ref());
        let checkpoints = checkpoint::list(&run.paths.checkpoints())?;
        let newest = checkpoints.last().filter(|_| request.resume);
        if let Some((_, path)) = newest {
            let loaded = checkpoint::read(path, run.backbone.device())?;
            if let Some(difference) = identity::difference(&loaded.state.identity, &identity) {
                return Err(TrainError::Changed { checkpoint: loaded.path, difference });
            }
            methods
                .restore(loaded.state.methods)
                .map_err(|reason| TrainError::BadCheckpoint { path: path.clone(), reason })?;
            return Ok(Self {
                done: loaded.state.step,
                methods,
                set: loaded.set,
                optimizer: loaded.optimizer,
                costs: loaded.state.costs,
                metrics: Metrics::open(&run.paths.metrics(), loaded.state.metrics_bytes)?,
                identity,
                newest: Some(loaded.path),
            });
        }
        let mut set = ParameterSet::new(run.backbone.device());
        let start =
            Start { backbone: &run.backbone, tasks: &run.tasks, tokenizer: &run.tokenizer, seed: run.config.seed };
        methods.initialize(&start, &mut set)?;
        let text = toml::to_string(&run.config)
            .map_err(|error| TrainError::io(&run.paths.config())(std::io::Error::other(error)))?;
        finish::write(&run.paths.config(), &text)?;
        Ok(Self {
            done: 0,
            methods,
            set,
            optimizer: AdamW::default(),
            costs: Costs::default(),
            metrics: Metrics::open(&run.paths.metrics(), 0)?,
            identity,
            newest: None,
        })
    }

    fn announce(&self, run: &Prepared, observer: &mut dyn Observer) {
        let (name, steps, search) = (self.methods.phase(), run.config.training.steps, run.config.search_steps());
        let detail = match name {
            "search" => format!("mixed operations until step {search}"),
            _ => format!("until step {steps}"),
        };
        observer.event(Event::Phase { name, detail });
    }

    /// Lets methods change their form. Whether the phase changed.
    fn advance(&mut self, observer: &mut dyn Observer) -> bool {
        let before = self.methods.phase();
        for change in self.methods.advance(self.done, &mut self.set) {
            observer.event(Event::Architecture(change));
        }
        let set = &self.set;
        self.optimizer.retain(|name| set.contains(name));
        self.methods.phase() != before
    }

    fn step(&mut self, run: &Prepared, mixer: &Mixer, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let start = Instant::now();
        let phase = self.methods.phase();
        let stepper = Stepper { backbone: &run.backbone, methods: &self.methods, done: self.done };
        let accumulation = run.config.training.gradient_accumulation as u64;
        let batches: Vec<_> = (0..accumulation)
            .map(|index| (self.done * accumulation + index, mixer.batch(self.done * accumulation + index)))
            .collect();
        let done = self.done;
        let result = stepper.step(
            &mut self.set,
            &mut self.optimizer,
            &batches,
            run.config.seed,
            run.config.training.gradient_clip,
            |group| schedule::rule(&run.config, group, done),
        );
        let taken = result.map_err(|(what, value)| TrainError::NotFinite {
            step: done + 1,
            what,
            value,
            examples: batches.iter().flat_map(|(_, batch)| batch.example_ids.clone()).collect(),
            checkpoint: self.newest.clone(),
        })?;
        self.done += 1;
        let seconds = start.elapsed().as_secs_f64();
        match phase {
            "search" => self.costs.search_seconds += seconds,
            _ => self.costs.training_seconds += seconds,
        }
        self.costs.optimizer_steps += 1;
        self.costs.tokens += taken.tokens;
        let rate = |group| schedule::rule(&run.config, group, done).learning_rate;
        let line = StepLine {
            step: self.done,
            phase,
            loss: taken.loss,
            gradient_norm: taken.norm,
            learning_rate: rate(Group::Lora),
            prefix_learning_rate: rate(Group::Prefix),
            tokens: taken.tokens,
            seconds,
        };
        self.metrics.line(&line)?;
        observer.event(Event::Step {
            step: self.done,
            steps: run.config.training.steps,
            loss: taken.loss,
            tokens_per_second: taken.tokens as f64 / seconds,
            learning_rate: rate(if run.config.method.has_lora() { Group::Lora } else { Group::Prefix }),
            phase,
        });
        Ok(())
    }

    fn save(&mut self, run: &Prepared, observer: &mut dyn Observer) -> Result<PathBuf, TrainError> {
        let mut state = State::new(self.done, self.identity.clone(), self.methods.state());
        self.costs.peak_memory_bytes = self.costs.peak_memory_bytes.max(memory::peak());
        state.metrics_bytes = self.metrics.sync()?;
        state.costs = self.costs.clone();
        let path = checkpoint::write(&run.paths.checkpoints(), state, &self.set, &self.optimizer)?;
        observer.event(Event::Checkpoint { path: path.clone() });
        self.newest = Some(path.clone());
        Ok(path)
    }
}
