//! After the last step: scores, probes, adapters, and `run.json` last of all.

use super::metrics::Metrics;
use super::prepare::Prepared;
use super::request::TrainOutcome;
use super::scores::{Scoring, stage_score};
use super::{memory, probes};
use crate::adaptation::Adaptation;
use crate::error::TrainError;
use crate::event::{Event, Observer};
use crate::method::{Destination, Methods, Moment, export_prompt};
use crate::parameters::ParameterSet;
use pemlc_artifact::atomic;
use pemlc_artifact::hash::hash_directory;
use pemlc_artifact::run::{Costs, RUN_SCHEMA_VERSION, RunManifest, StageRecord, TaskRecord};
use pemlc_data::Prediction;
use serde::Serialize;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// One line of `predictions.jsonl`.
#[derive(Serialize)]
struct Line<'a> {
    task: &'a str,
    #[serde(flatten)]
    prediction: &'a Prediction,
}

/// What training came to.
pub(crate) struct Trained<'a> {
    pub(crate) methods: &'a Methods,
    pub(crate) set: &'a ParameterSet,
    /// Of the stages before the last one.
    pub(crate) stages: Vec<StageRecord>,
    /// The last one's name.
    pub(crate) stage: &'static str,
    /// Steps done.
    pub(crate) steps: u64,
}

/// Evaluates and writes everything. `None` when `stop` was set meanwhile.
pub(crate) fn finish(
    run: &Prepared,
    trained: Trained<'_>,
    mut costs: Costs,
    metrics: &mut Metrics,
    stop: &AtomicBool,
    observer: &mut dyn Observer,
) -> Result<Option<TrainOutcome>, TrainError> {
    let start = Instant::now();
    let Trained { methods, set, mut stages, stage, steps } = trained;
    let detail = format!("scoring up to {} validation examples a task", run.config.evaluation.limit);
    observer.event(Event::Phase { name: "evaluation", detail });
    let adaptation = run.backbone.project_hidden(methods.adaptation(&set.constants(), &Moment::Evaluation));
    let mut scoring = Scoring { run, metrics: &mut *metrics, costs: &mut costs, stop, observer: &mut *observer };
    let mut records = Vec::new();
    let mut last = Vec::new();
    let mut predictions = String::new();
    for (index, task) in run.tasks.tasks.iter().enumerate() {
        let base_score = match run.config.evaluation.base {
            false => None,
            true => match scoring.task(index, &Adaptation::default(), "base")? {
                Some((_, score)) => Some(score.value),
                None => return Ok(None),
            },
        };
        let Some((scored, score)) = scoring.task(index, &adaptation, stage)? else { return Ok(None) };
        last.push(stage_score(&task.name, score));
        for prediction in &scored {
            let line = serde_json::to_string(&Line { task: &task.name, prediction })
                .map_err(|error| TrainError::io(&run.paths.predictions())(error.into()))?;
            predictions.push_str(&line);
            predictions.push('\n');
        }
        records.push(TaskRecord {
            name: task.name.clone(),
            metric: task.metric.name().to_owned(),
            train_examples: task.train.len(),
            validation_examples: scored.len(),
            base_score,
            score: Some(score.value),
            standard_error: Some(score.standard_error),
            template: task.config.template.clone(),
            verbalizers: task.config.verbalizers.clone(),
            separator: task.config.separator.clone(),
            normalize: Some(task.config.normalize().name().to_owned()),
        });
    }
    if run.config.search_steps() > 0 {
        stages.push(StageRecord { stage: stage.to_owned(), steps, scores: last });
    }
    write(&run.paths.predictions(), &predictions)?;
    probes::make(&run.backbone, &adaptation, &run.tasks).write(&run.paths.probes())?;
    let base = run.base.record(&run.config.model, run.backbone.config());
    let names: Vec<String> = records.iter().map(|record| record.name.clone()).collect();
    let to = Destination { paths: &run.paths, model: run.backbone.config(), base_model: &base.name, tasks: &names };
    let record = methods.export(set, &to)?;
    let folded = export_prompt(&run.backbone, &adaptation, methods, &to)?;
    run.base.write_tokenizer(run.tokenizer.json(), &run.paths)?;
    metrics.sync()?;
    costs.evaluation_seconds += start.elapsed().as_secs_f64();
    let busy = costs.search_seconds + costs.training_seconds + costs.retraining_seconds;
    if run.device_name != "cpu" {
        costs.device_seconds = busy + costs.evaluation_seconds;
    }
    costs.relative_to_lora = costs.lora_step_seconds.map(|step| busy / (step * run.config.training.steps as f64));
    costs.trainable_parameters = set.count();
    costs.peak_memory_bytes = costs.peak_memory_bytes.max(memory::peak());
    // A run that was killed while it wrote a file leaves a temporary one.
    let temporary = |path: &str| path.rsplit('/').next().is_some_and(|name| name.starts_with(".pemlc-"));
    let skip = |path: &str| matches!(path, "run.json" | "report.html" | "checkpoints") || temporary(path);
    let files = hash_directory(run.paths.root(), &skip).map_err(TrainError::io(run.paths.root()))?;
    let manifest = RunManifest {
        schema_version: RUN_SCHEMA_VERSION,
        pemlc_version: env!("CARGO_PKG_VERSION").to_owned(),
        base,
        method: run.config.method.name().to_owned(),
        tasks: records,
        lora: record.lora,
        prefix: folded.or(record.prefix),
        routing: record.routing,
        seed: run.config.seed,
        device: run.device_name.clone(),
        base_dtype: run.config.training.base_dtype,
        stages,
        costs,
        files,
    };
    manifest.write(run.paths.root())?;
    observer.event(Event::Finished);
    Ok(Some(TrainOutcome::Finished(Box::new(manifest))))
}

pub(crate) fn write(path: &Path, text: &str) -> Result<(), TrainError> {
    atomic::write(path, text.as_bytes()).map_err(TrainError::io(path))
}
