//! No task answers as the base model does: an adapter that matched no module, or a `task_id` that is ignored, would. The task that is the
//! base model does.

use super::compare::rounded;
use super::distortion;
use super::subject::Subject;
use crate::{Inputs, Padding, Row, RuntimeError};
use ndarray::{Array3, ArrayView1, s};
use pemlc_artifact::BASE_TASK;
use pemlc_artifact::artifact::CheckResult;

const NAME: &str = "differs-from-base";
/// Tokens that every task answers to, and how many tasks.
const TOKENS: usize = 12;
const MOST_TASKS: usize = 8;

pub(crate) fn check(subject: &mut Subject<'_>) -> Result<Vec<CheckResult>, RuntimeError> {
    if subject.tolerances.weights_are_rounded() {
        return Ok(nearer_to_trainer(subject));
    }
    let twins = twins(subject)?;
    let probes = subject.probes;
    let mut results = Vec::new();
    for (task, name) in subject.tasks.iter().enumerate() {
        let (mut runtime, mut trainer, mut compared) = (0.0, 0.0, false);
        for probe in probes.of_task(task) {
            let answers = subject.answers.get(&probe);
            for index in 0..probes.positions[probe].len() {
                let base = probes.base_logits(probe, index);
                trainer = larger(trainer, distance(probes.logits(probe, index), base));
                if let Some(answers) = answers {
                    runtime = larger(runtime, distance(answers.row(index), base));
                    compared = true;
                }
            }
        }
        // Below the tolerance, the base model's answer and the task's cannot be told apart.
        let same = |difference: f64| difference <= subject.tolerances.of(task).at(0.0);
        let is_base = name == BASE_TASK;
        let finite = trainer.is_finite() && runtime.is_finite();
        let passed = compared && finite && (is_base || !same(trainer) && !same(runtime));
        let mut detail = if !trainer.is_finite() {
            "some of the probes' logits, the trainer's or the base model's, are not finite".to_owned()
        } else if !runtime.is_finite() {
            "some logits are not finite".to_owned()
        } else if is_base {
            // How near it is, in proportion where logits are large, is what prefill checks.
            "the base model itself: max_abs is how far the runtime is from it".to_owned()
        } else if same(trainer) {
            "base model answering in place of task: the trainer's own logits are the base model's".to_owned()
        } else if !compared {
            "prefill left no answers to compare".to_owned()
        } else if same(runtime) {
            "base model answering in place of task: the runtime's logits are the base model's".to_owned()
        } else {
            "runtime against the untouched base model: max_abs is how far the task moved it".to_owned()
        };
        for twin in twins.iter().filter(|(one, other)| *one == task || *other == task) {
            let other = if twin.0 == task { twin.1 } else { twin.0 };
            detail.push_str(&format!("; warning: answers as task `{}` does on the same tokens", subject.tasks[other]));
        }
        results.push(CheckResult {
            check: NAME.to_owned(),
            task: Some(name.clone()),
            max_abs: (compared && runtime.is_finite()).then(|| rounded(runtime)),
            max_rel: None,
            argmax_agreement: None,
            passed,
            detail,
        });
    }
    Ok(results)
}

/// Rounded weights move every answer away from the base model's, so being elsewhere proves nothing: the way to the trainer must be less
/// than half of the way from the base model to the trainer.
fn nearer_to_trainer(subject: &Subject<'_>) -> Vec<CheckResult> {
    let meters = distortion::measure(&subject.answers, subject.probes, subject.tasks.len());
    let result = |(task, meter): (&String, distortion::Meter)| {
        let (passed, detail) = match meter.finish(task) {
            Ok(found) => {
                let (own, base) = (found.total_variation, found.base_total_variation);
                let kept = distortion::keeps_task(&found);
                let reason = if kept { "" } else { "base model answering in place of task: " };
                let measured = format!("mean total variation from the trainer {own:.4}, of the base model {base:.4}");
                match task == BASE_TASK {
                    true => (true, format!("the base model itself: {measured}")),
                    false => (kept, format!("{reason}{measured}; less than half is kept")),
                }
            }
            Err(reason) => (false, reason),
        };
        let task = Some(task.clone());
        CheckResult {
            check: NAME.to_owned(),
            task,
            max_abs: None,
            max_rel: None,
            argmax_agreement: None,
            passed,
            detail,
        }
    };
    subject.tasks.iter().zip(meters).map(result).collect()
}

/// Pairs of tasks whose logits are the same on the same tokens. Tasks that share all of their deltas and prefix rightly are.
fn twins(subject: &mut Subject<'_>) -> Result<Vec<(usize, usize)>, RuntimeError> {
    let tasks = subject.tasks.len().min(MOST_TASKS);
    let rows: Vec<Row<'_>> =
        (0..tasks).map(|task| Row { tokens: &subject.rows[0].tokens[..TOKENS], task_id: task as i64 }).collect();
    let inputs = Inputs::prefill(&rows, TOKENS, Padding::Right);
    let logits: Array3<f32> = subject.session.run(&inputs)?.logits;
    let mut twins = Vec::new();
    for one in 0..tasks {
        for other in one + 1..tasks {
            let difference = (0..TOKENS)
                .map(|position| distance(logits.slice(s![one, position, ..]), logits.slice(s![other, position, ..])))
                .fold(0.0, larger);
            if difference <= subject.tolerances.of(one).at(0.0).max(subject.tolerances.of(other).at(0.0)) {
                twins.push((one, other));
            }
        }
    }
    Ok(twins)
}

/// Largest absolute difference; NaN when one is.
fn distance(one: ArrayView1<'_, f32>, other: ArrayView1<'_, f32>) -> f64 {
    one.iter().zip(other).map(|(one, other)| (f64::from(*one) - f64::from(*other)).abs()).fold(0.0, larger)
}

fn larger(one: f64, other: f64) -> f64 {
    if one.is_nan() || other.is_nan() { f64::NAN } else { one.max(other) }
}
