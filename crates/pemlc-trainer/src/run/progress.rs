//! What changes during a run, and how a step changes it.

use super::checkpoint::{self, State};
use super::metrics::{Metrics, MixtureLine, StepLine};
use super::mixers::Mixers;
use super::prepare::Prepared;
use super::request::TrainRequest;
use super::scores::Scoring;
use super::step::{Stepper, Taken};
use super::{evaluate, finish, identity, memory, schedule};
use crate::config::AfterSearch;
use crate::error::TrainError;
use crate::event::{Event, Next, Observer};
use crate::method::{Methods, Moment, Start};
use crate::optimizer::AdamW;
use crate::parameters::{Group, ParameterSet};
use pemlc_artifact::prompt::Architecture;
use pemlc_artifact::run::{Costs, StageRecord};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// Mixtures that a search logs.
const MIXTURES: u64 = 50;

/// Whether a run goes on.
pub(super) enum Flow {
    Go,
    /// It was stopped meanwhile.
    Stop,
}

/// Where a run stands.
pub(super) struct Progress {
    /// Steps done.
    pub(super) done: u64,
    pub(super) methods: Methods,
    pub(super) set: ParameterSet,
    optimizer: AdamW,
    pub(super) costs: Costs,
    pub(super) metrics: Metrics,
    identity: serde_json::Value,
    /// The newest checkpoint.
    pub(super) newest: Option<PathBuf>,
    /// The step at which training on fresh weights began: batches and learning rates count from it.
    origin: u64,
    /// The cell that is trained anew.
    retrained: Option<Architecture>,
    /// Scores of the stages that are over.
    pub(super) stages: Vec<StageRecord>,
}

impl Progress {
    /// At the start, or at the newest checkpoint.
    pub(super) fn new(run: &Prepared, request: &TrainRequest) -> Result<Self, TrainError> {
        let identity = identity::of(&run.config, &run.base.files, &run.tasks, &run.device_name);
        let checkpoints = checkpoint::list(&run.paths.checkpoints())?;
        let newest = checkpoints.last().filter(|_| request.resume);
        if let Some((_, path)) = newest {
            let loaded = checkpoint::read(path, run.backbone.device())?;
            if let Some(difference) = identity::difference(&loaded.state.identity, &identity) {
                return Err(TrainError::Changed { checkpoint: loaded.path, difference });
            }
            let retrained = loaded.state.architecture;
            let mut methods =
                Methods::new(&run.config, run.backbone.config(), retrained.as_ref().or(run.architecture.as_ref()));
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
                origin: loaded.state.origin,
                retrained,
                stages: loaded.state.stages,
            });
        }
        let methods = Methods::new(&run.config, run.backbone.config(), run.architecture.as_ref());
        let set = fresh(run, &methods)?;
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
            origin: 0,
            retrained: None,
            stages: Vec::new(),
        })
    }

    fn phase(&self) -> &'static str {
        if self.retrained.is_some() { "retrain" } else { self.methods.phase() }
    }

    pub(super) fn announce(&self, run: &Prepared, observer: &mut dyn Observer) {
        let (name, steps, search) = (self.phase(), run.config.training.steps, run.config.search_steps());
        let detail = match name {
            "search" => format!("mixed operations until step {search}"),
            "retrain" => format!("the cell on fresh weights until step {}", run.config.total_steps()),
            _ => format!("until step {steps}"),
        };
        observer.event(Event::Phase { name, detail });
    }

    /// Ends stages that are over, and lets methods change their form.
    pub(super) fn advance(
        &mut self,
        run: &Prepared,
        stop: &AtomicBool,
        observer: &mut dyn Observer,
    ) -> Result<Flow, TrainError> {
        let searched = self.done > 0 && self.retrained.is_none() && self.done == run.config.search_steps();
        let score = run.config.prefix.score_stages;
        let is_mixed = self.methods.phase() == "search";
        if searched && is_mixed && score && !self.stage(run, "soft", stop, observer)? {
            return Ok(Flow::Stop);
        }
        let before = self.phase();
        for change in self.methods.advance(self.done, &mut self.set) {
            observer.event(Event::Architecture(change));
        }
        let set = &self.set;
        self.optimizer.retain(|name| set.contains(name));
        if searched && is_mixed && score && !self.stage(run, "discretised", stop, observer)? {
            return Ok(Flow::Stop);
        }
        if self.retrained.is_none() && run.config.retraining_from() == Some(self.done) {
            let tuned = run.config.prefix.after_search == AfterSearch::Both;
            if tuned && score && !self.stage(run, "tuned", stop, observer)? {
                return Ok(Flow::Stop);
            }
            self.restart(run)?;
        }
        if self.phase() != before {
            self.announce(run, observer);
        }
        Ok(Flow::Go)
    }

    /// Scores all tasks. False when `stop` was set meanwhile.
    fn stage(
        &mut self,
        run: &Prepared,
        name: &'static str,
        stop: &AtomicBool,
        observer: &mut dyn Observer,
    ) -> Result<bool, TrainError> {
        let adaptation = self.methods.adaptation(&self.set.constants(), &Moment::Evaluation);
        let adaptation = run.backbone.project_hidden(adaptation);
        let mut scoring = Scoring { run, metrics: &mut self.metrics, costs: &mut self.costs, stop, observer };
        let Some(record) = scoring.stage(&adaptation, name, self.done)? else { return Ok(false) };
        self.stages.push(record);
        Ok(true)
    }

    /// Scores what is trained so far and asks how to go on. An interruption answers later: the loop sees it before its next step.
    pub(super) fn score(&mut self, run: &Prepared, stop: &AtomicBool, observer: &mut dyn Observer) -> Next {
        let start = Instant::now();
        let adaptation = self.methods.adaptation(&self.set.constants(), &Moment::Evaluation);
        let scored = evaluate::mean(run, &run.backbone.project_hidden(adaptation), stop);
        self.costs.evaluation_seconds += start.elapsed().as_secs_f64();
        self.costs.peak_memory_bytes = self.costs.peak_memory_bytes.max(memory::peak());
        let Some((score, tokens)) = scored else { return Next::Continue };
        self.costs.evaluation_tokens += tokens;
        observer.scored(self.done, score)
    }

    /// Begins anew with the cell that was found, as a run does that is given it.
    fn restart(&mut self, run: &Prepared) -> Result<(), TrainError> {
        self.retrained = self.methods.architecture();
        self.methods = Methods::new(&run.config, run.backbone.config(), self.retrained.as_ref());
        self.set = fresh(run, &self.methods)?;
        self.optimizer = AdamW::default();
        self.origin = self.done;
        Ok(())
    }

    /// The name of what the run ends as.
    pub(super) fn last_stage(&self, run: &Prepared) -> &'static str {
        match (&self.retrained, run.config.search_steps()) {
            (Some(_), _) => "retrained",
            (None, 0) => "trained",
            (None, _) => "tuned",
        }
    }

    pub(super) fn step(
        &mut self,
        run: &Prepared,
        mixers: &Mixers,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        let start = Instant::now();
        let phase = self.phase();
        let searching = phase == "search";
        // The last line of a search shows what it ends with.
        let every = (run.config.search_steps() / MIXTURES).max(1);
        if searching && self.done.is_multiple_of(every) {
            self.log_mixture()?;
        }
        let number = self.done - self.origin;
        let bilevel = if searching { mixers.architecture() } else { None };
        let weights: fn(Group) -> bool = |group| group != Group::Architecture;
        let taken =
            self.learn(run, mixers.weights(searching), number, if bilevel.is_some() { weights } else { |_| true })?;
        self.costs.tokens += taken.tokens;
        let prefix = &run.config.prefix;
        if let Some(mixer) = bilevel
            && number >= prefix.search_warmup_steps
            && (number + 1).is_multiple_of(prefix.architecture_every)
        {
            let taken = self.learn(run, mixer, number, |group| group == Group::Architecture)?;
            self.costs.tokens += taken.tokens;
        }
        self.done += 1;
        if searching && self.done == run.config.search_steps() {
            self.log_mixture()?;
        }
        let seconds = start.elapsed().as_secs_f64();
        match phase {
            "search" => self.costs.search_seconds += seconds,
            "retrain" => self.costs.retraining_seconds += seconds,
            _ => self.costs.training_seconds += seconds,
        }
        self.costs.optimizer_steps += 1;
        let rate = |group| schedule::rule(&run.config, group, number).learning_rate;
        self.metrics.line(&StepLine {
            step: self.done,
            phase,
            loss: taken.loss,
            gradient_norm: taken.norm,
            learning_rate: rate(Group::Lora),
            prefix_learning_rate: rate(Group::Prefix),
            tokens: taken.tokens,
            seconds,
        })?;
        observer.event(Event::Step {
            step: self.done,
            steps: run.config.total_steps(),
            loss: taken.loss,
            tokens_per_second: taken.tokens as f64 / seconds,
            learning_rate: rate(if run.config.method.has_lora() { Group::Lora } else { Group::Prefix }),
            phase,
        });
        Ok(())
    }

    /// One optimiser step of the groups that `steps` names, on batches of `mixer`.
    fn learn(
        &mut self,
        run: &Prepared,
        mixer: &pemlc_data::Mixer,
        number: u64,
        steps: fn(Group) -> bool,
    ) -> Result<Taken, TrainError> {
        let stepper = Stepper { backbone: &run.backbone, methods: &self.methods, steps, done: number };
        let accumulation = run.config.training.gradient_accumulation as u64;
        let batches: Vec<_> = (0..accumulation)
            .map(|index| (number * accumulation + index, mixer.batch(number * accumulation + index)))
            .collect();
        let (seed, clip) = (run.config.seed, run.config.training.gradient_clip);
        let rule = |group| schedule::rule(&run.config, group, number);
        let taken = stepper.step(&mut self.set, &mut self.optimizer, &batches, seed, clip, rule);
        taken.map_err(|(what, value)| TrainError::NotFinite {
            step: self.done + 1,
            what,
            value,
            examples: batches.iter().flat_map(|(_, batch)| batch.example_ids.clone()).collect(),
            checkpoint: self.newest.clone(),
        })
    }

    fn log_mixture(&mut self) -> Result<(), TrainError> {
        match self.methods.mixture(&self.set) {
            Some(mixture) => self.metrics.line(&MixtureLine { step: self.done, mixture }),
            None => Ok(()),
        }
    }

    /// The last step of each stage always has a checkpoint: scoring, which follows, can be interrupted too.
    pub(super) fn is_save_due(&self, run: &Prepared) -> bool {
        let config = &run.config;
        let ends = [Some(config.search_steps()), config.retraining_from(), Some(config.total_steps())];
        self.done.is_multiple_of(config.training.checkpoint_every) || ends.contains(&Some(self.done))
    }

    pub(super) fn save(&mut self, run: &Prepared, observer: &mut dyn Observer) -> Result<PathBuf, TrainError> {
        let mut state = State::new(self.done, self.identity.clone(), self.methods.state());
        self.costs.peak_memory_bytes = self.costs.peak_memory_bytes.max(memory::peak());
        state.metrics_bytes = self.metrics.sync()?;
        state.costs = self.costs.clone();
        state.origin = self.origin;
        state.architecture = self.retrained.clone();
        state.stages = self.stages.clone();
        let path = checkpoint::write(&run.paths.checkpoints(), state, &self.set, &self.optimizer)?;
        observer.event(Event::Checkpoint { path: path.clone() });
        self.newest = Some(path.clone());
        Ok(path)
    }
}

/// First values of the methods' parameters.
fn fresh(run: &Prepared, methods: &Methods) -> Result<ParameterSet, TrainError> {
    let mut set = ParameterSet::new(run.backbone.device());
    let start = Start { backbone: &run.backbone, tasks: &run.tasks, tokenizer: &run.tokenizer, seed: run.config.seed };
    methods.initialize(&start, &mut set)?;
    Ok(set)
}
