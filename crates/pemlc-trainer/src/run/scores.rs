//! Scores of all tasks, after training and at the ends of its stages.

use super::evaluate;
use super::metrics::{Metrics, ScoreLine};
use super::prepare::Prepared;
use crate::adaptation::Adaptation;
use crate::error::TrainError;
use crate::event::{Event, Observer};
use pemlc_artifact::run::{Costs, StageRecord, StageScore};
use pemlc_data::{Prediction, Score, evaluate_metric};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// Where scores go, and what they cost.
pub(crate) struct Scoring<'a> {
    pub(crate) run: &'a Prepared,
    pub(crate) metrics: &'a mut Metrics,
    pub(crate) costs: &'a mut Costs,
    pub(crate) stop: &'a AtomicBool,
    pub(crate) observer: &'a mut dyn Observer,
}

/// One task's predictions and score.
pub(crate) type Scored = (Vec<Prediction>, Score);

impl Scoring<'_> {
    /// Scores task `index`. `stage` is what the adaptation is: `base`, or a stage of training. `None` when `stop` was set meanwhile.
    pub(crate) fn task(
        &mut self,
        index: usize,
        adaptation: &Adaptation,
        stage: &'static str,
    ) -> Result<Option<Scored>, TrainError> {
        let run = self.run;
        let (task, evaluation) = (&run.tasks.tasks[index], &run.config.evaluation);
        let scored =
            evaluate::score(&run.backbone, adaptation, index, task, evaluation.limit, evaluation.batch_size, self.stop);
        let Some((predictions, tokens)) = scored else { return Ok(None) };
        self.costs.evaluation_tokens += tokens;
        let score = evaluate_metric(task, &predictions);
        let metric = task.metric.name();
        self.metrics.line(&ScoreLine { task: &task.name, metric, base: stage == "base", stage, score })?;
        self.observer.event(Event::Evaluated { task: task.name.clone(), metric: metric.to_owned(), score, stage });
        Ok(Some((predictions, score)))
    }

    /// Scores all tasks as what they are after `steps` steps, at the end of `stage`.
    pub(crate) fn stage(
        &mut self,
        adaptation: &Adaptation,
        stage: &'static str,
        steps: u64,
    ) -> Result<Option<StageRecord>, TrainError> {
        let start = Instant::now();
        let mut scores = Vec::new();
        for index in 0..self.run.tasks.tasks.len() {
            let Some((_, score)) = self.task(index, adaptation, stage)? else { return Ok(None) };
            scores.push(stage_score(&self.run.tasks.tasks[index].name, score));
        }
        self.costs.evaluation_seconds += start.elapsed().as_secs_f64();
        Ok(Some(StageRecord { stage: stage.to_owned(), steps, scores }))
    }
}

pub(crate) fn stage_score(task: &str, score: Score) -> StageScore {
    StageScore { task: task.to_owned(), value: score.value, standard_error: score.standard_error }
}
