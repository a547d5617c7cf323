//! `pemlc evaluate`: the artifact's answers to every validation example, beside the trainer's.

use crate::Outcome;
use crate::arguments::EvaluateArguments;
use crate::run_file::RunFile;
use crate::table::{Table, difference};
use anyhow::{Context, bail};
use pemlc_artifact::BASE_TASK;
use pemlc_artifact::artifact::ArtifactPaths;
use pemlc_artifact::run::{RunManifest, RunPaths};
use pemlc_data::{Prediction, Task, evaluate_metric, predict, predict_free_text, scoring_batches, scoring_rows};
use pemlc_runtime::{OpenOptions, ScoreRow, Session};
use std::collections::BTreeMap;
use std::path::Path;

pub(crate) fn run(arguments: &EvaluateArguments) -> anyhow::Result<Outcome> {
    let artifact = super::open_artifact(&arguments.dir)?;
    let manifest = RunManifest::read(&arguments.run)?;
    if manifest.method == pemlc_trainer::import::METHOD {
        bail!(
            "{} was imported: it has no validation data and no predictions to compare with. `pemlc check` holds the artifact to its probes",
            arguments.run.display()
        );
    }
    let names =
        |tasks: &[pemlc_artifact::run::TaskRecord]| tasks.iter().map(|task| task.name.clone()).collect::<Vec<_>>();
    // The base model, if the artifact has it as a task, was not trained.
    let exported = names(&artifact.tasks);
    if exported.strip_suffix(&[BASE_TASK.to_owned()]).unwrap_or(&exported) != names(&manifest.tasks) {
        bail!("{} was not exported from {}: their tasks differ", arguments.dir.display(), arguments.run.display());
    }
    let paths = ArtifactPaths::new(&arguments.dir);
    let (set, _) = RunFile::read(&RunPaths::new(&arguments.run).config(), &[])?.load_tasks()?;
    let tasks = set.tasks;
    let trained = read_predictions(&RunPaths::new(&arguments.run).predictions())?;
    eprintln!("{}: loading {}", arguments.runtime, paths.graph().display());
    let mut session = pemlc_runtime::open(arguments.runtime, &paths.graph(), &OpenOptions::default())?;

    let mut table = Table::new(&[
        "task",
        "metric",
        ">trainer",
        ">artifact",
        ">examples",
        ">max score difference",
        ">answers differ",
    ]);
    let mut differing = 0;
    for (index, task) in tasks.iter().enumerate() {
        eprintln!("{}: scoring {}", arguments.runtime, task.name);
        let expected = trained
            .get(&task.name)
            .with_context(|| format!("predictions.jsonl has no line of task `{}`", task.name))?;
        let found = score(session.as_mut(), index, task, expected, usize::from(arguments.batch_size))?;
        let comparison = compare(expected, &found);
        differing += comparison.differing;
        table.row([
            task.name.clone(),
            task.metric.name().to_owned(),
            format!("{:.4}", evaluate_metric(task, expected).value),
            format!("{:.4}", evaluate_metric(task, &found).value),
            found.len().to_string(),
            difference(Some(comparison.largest)),
            comparison.differing.to_string(),
        ]);
    }
    print!("\n{}", table.render());
    Ok(if differing == 0 {
        println!("\nevery answer is the trainer's");
        Outcome::Done
    } else {
        println!("\n{differing} answers differ from the trainer's");
        Outcome::Failed
    })
}

fn read_predictions(path: &Path) -> anyhow::Result<BTreeMap<String, Vec<Prediction>>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut predictions: BTreeMap<String, Vec<Prediction>> = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let line: TaskPrediction =
            serde_json::from_str(line).with_context(|| format!("{}:{} is no prediction", path.display(), index + 1))?;
        predictions.entry(line.task).or_default().push(line.prediction);
    }
    Ok(predictions)
}

/// One line of `predictions.jsonl`.
#[derive(Debug, serde::Deserialize)]
struct TaskPrediction {
    task: String,
    #[serde(flatten)]
    prediction: Prediction,
}

/// The artifact's predictions for the examples of `expected`, in their order.
fn score(
    session: &mut dyn Session,
    index: usize,
    task: &Task,
    expected: &[Prediction],
    batch_size: usize,
) -> anyhow::Result<Vec<Prediction>> {
    let positions: BTreeMap<&str, usize> =
        task.validation.iter().enumerate().map(|(position, example)| (example.id.as_str(), position)).collect();
    let wanted = expected
        .iter()
        .map(|prediction| {
            positions.get(prediction.id.as_str()).copied().with_context(|| {
                format!(
                    "task `{}`: the validation data no longer has {}, which the run scored",
                    task.name, prediction.id
                )
            })
        })
        .collect::<anyhow::Result<Vec<usize>>>()?;
    let mut rows = scoring_rows(index, task, None);
    rows.retain(|row| wanted.contains(&row.example));

    // Log-likelihoods of each answer, and whether every token of it was the likeliest.
    let mut sums: BTreeMap<usize, Vec<(f64, bool)>> = BTreeMap::new();
    for batch in scoring_batches(rows, batch_size) {
        let task_id = i64::try_from(index)?;
        let requests: Vec<ScoreRow> = batch
            .rows
            .iter()
            .map(|row| ScoreRow {
                tokens: row.tokens.clone(),
                task_id,
                queries: row.queries.iter().map(|query| (query.position, query.token)).collect(),
            })
            .collect();
        for (row, scores) in batch.rows.iter().zip(pemlc_runtime::score(session, &requests)?) {
            let answers = task.validation.get(row.example).map_or(0, |example| example.answers.len());
            let sums = sums.entry(row.example).or_insert_with(|| vec![(0.0, true); answers]);
            for (query, score) in row.queries.iter().zip(scores) {
                if let Some((sum, greedy)) = sums.get_mut(query.choice) {
                    *sum += score.log_probability;
                    *greedy &= score.is_argmax;
                }
            }
        }
    }
    let predictions = wanted.iter().filter_map(|position| {
        let (example, sums) = (task.validation.get(*position)?, sums.get(position)?);
        Some(match sums.as_slice() {
            [(sum, greedy)] if task.is_free_text() => predict_free_text(task, example, *sum, *greedy),
            sums => predict(task, example, &sums.iter().map(|(sum, _)| *sum).collect::<Vec<_>>()),
        })
    });
    Ok(predictions.collect())
}

/// How two lists of predictions of the same examples differ.
struct Comparison {
    /// Largest absolute difference of a score.
    largest: f64,
    /// Examples with another answer.
    differing: usize,
}

fn compare(expected: &[Prediction], found: &[Prediction]) -> Comparison {
    let pairs = || expected.iter().zip(found);
    let scores = pairs().flat_map(|(left, right)| left.scores.iter().zip(&right.scores));
    let unanswered = expected.len().abs_diff(found.len());
    Comparison {
        largest: scores.map(|(left, right)| (left - right).abs()).fold(0.0, f64::max),
        differing: unanswered + pairs().filter(|(left, right)| left.predicted != right.predicted).count(),
    }
}
