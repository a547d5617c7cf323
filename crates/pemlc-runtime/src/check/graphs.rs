//! Graphs beside `model.onnx`, held to the trainer's probes or, where those do not say, to `model.onnx`.

use super::compare::{Comparison, PerTask};
use super::probes::Probes;
use crate::{
    CacheShape, CacheType, Inputs, OpenOptions, Padding, RawSession, RawTensor, Row, RuntimeError, RuntimeKind,
    ScoreRow, Scorer, Session, score,
};
use ndarray::{ArrayD, ArrayView1, IxDyn, s};
use pemlc_artifact::artifact::{CheckResult, GraphProfile, GraphRecord};
use std::path::Path;

/// What the graphs are held to.
pub(super) struct Expected<'a> {
    pub(super) probes: &'a Probes,
    pub(super) tasks: &'a [String],
    pub(super) tolerance: f64,
    /// Against the trainer.
    pub(super) trainer_tolerance: f64,
    /// Whether rows of a batch must have one task.
    pub(super) one_task_per_batch: bool,
}

/// Checks one graph. `session` is `model.onnx` on the same runtime.
pub(super) fn check(
    session: &mut dyn Session,
    directory: &Path,
    record: &GraphRecord,
    expected: &Expected<'_>,
    options: &OpenOptions,
) -> Result<Vec<CheckResult>, RuntimeError> {
    let path = directory.join(&record.file);
    match record.profile {
        GraphProfile::PinnedCausalLm => pinned(session, &path, record, expected, options),
        GraphProfile::Scorer => scorer(session, &path, record, expected, options),
        // Only ONNX Runtime knows adapters; what fills them is in no probe.
        GraphProfile::AdapterCausalLm if session.kind() == RuntimeKind::Tract => Ok(Vec::new()),
        GraphProfile::AdapterCausalLm => unadapted(session, &path, record, expected, options),
    }
}

/// Tensors of a prefill without `task_id`.
fn feed(inputs: &Inputs, cache: CacheShape) -> Vec<(String, RawTensor)> {
    let mut feed = vec![
        ("input_ids".to_owned(), RawTensor::I64(inputs.input_ids.clone().into_dyn())),
        ("attention_mask".to_owned(), RawTensor::I64(inputs.attention_mask.clone().into_dyn())),
        ("position_ids".to_owned(), RawTensor::I64(inputs.position_ids.clone().into_dyn())),
    ];
    let empty = || ArrayD::zeros(IxDyn(&[inputs.batch_size(), cache.kv_heads, 0, cache.head_dim]));
    for layer in 0..cache.layers {
        for part in ["key", "value"] {
            let empty = match cache.dtype {
                CacheType::F32 => RawTensor::F32(empty()),
                CacheType::F16 => RawTensor::F16(empty()),
            };
            feed.push((format!("past_key_values.{layer}.{part}"), empty));
        }
    }
    feed
}

fn logits(session: &mut RawSession, inputs: &Inputs, cache: CacheShape) -> Result<ArrayD<f32>, RuntimeError> {
    let feed = feed(inputs, cache);
    let feed: Vec<(&str, RawTensor)> = feed.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
    session.run(&feed, "logits")
}

/// Every probe of the graph's task, one by one.
fn pinned(
    session: &mut dyn Session,
    path: &Path,
    record: &GraphRecord,
    expected: &Expected<'_>,
    options: &OpenOptions,
) -> Result<Vec<CheckResult>, RuntimeError> {
    let name = record.task.as_deref().unwrap_or_default();
    let mut comparison = Comparison::new(expected.trainer_tolerance);
    let Some(task) = expected.tasks.iter().position(|task| task == name) else {
        comparison.fail(|| format!("{} is of task `{name}`, which the artifact does not have", record.file));
        return Ok(vec![comparison.result(&record.file, Some(name), "runtime against trainer")]);
    };
    let mut graph = RawSession::open(session.kind(), path, options)?;
    let probes = expected.probes;
    for probe in probes.of_task(task) {
        let tokens = &probes.tokens[probe];
        let inputs = Inputs::prefill(&[Row { tokens, task_id: 0 }], tokens.len(), Padding::Right);
        let found = logits(&mut graph, &inputs, session.cache_shape())?;
        for (index, &position) in probes.positions[probe].iter().enumerate() {
            let row = found.slice(s![0, position, ..]);
            comparison.add(row, probes.logits(probe, index), || format!("probe {probe}, position {position}"));
        }
    }
    Ok(vec![comparison.result(&record.file, Some(name), "runtime against trainer")])
}

/// Without an adapter nothing may answer.
fn unadapted(
    session: &mut dyn Session,
    path: &Path,
    record: &GraphRecord,
    expected: &Expected<'_>,
    options: &OpenOptions,
) -> Result<Vec<CheckResult>, RuntimeError> {
    let mut graph = RawSession::open(session.kind(), path, options)?;
    let tokens = &expected.probes.tokens[0];
    let inputs = Inputs::prefill(&[Row { tokens, task_id: 0 }], tokens.len(), Padding::Right);
    let found = logits(&mut graph, &inputs, session.cache_shape())?;
    let passed = found.iter().all(|logit| logit.is_nan());
    let detail = if passed { "NaN without an adapter" } else { "answers without an adapter: this is the base model" };
    Ok(vec![CheckResult {
        check: record.file.clone(),
        task: None,
        max_abs: None,
        max_rel: None,
        argmax_agreement: None,
        passed,
        detail: detail.to_owned(),
    }])
}

/// Every probe's tokens as a prompt, all in one batch or one for each task, against likelihoods from the logits of `model.onnx`.
fn scorer(
    session: &mut dyn Session,
    path: &Path,
    record: &GraphRecord,
    expected: &Expected<'_>,
    options: &OpenOptions,
) -> Result<Vec<CheckResult>, RuntimeError> {
    let probes = expected.probes;
    let mut graph = Scorer::open(session.kind(), path, options)?;
    let row = |probe: usize| Row { tokens: &probes.tokens[probe], task_id: probes.tasks[probe] as i64 };
    let rows: Vec<Row<'_>> = (0..probes.tokens.len()).map(row).collect();
    let mut found = vec![Vec::new(); rows.len()];
    let batches: Vec<Vec<usize>> = if expected.one_task_per_batch {
        (0..expected.tasks.len()).map(|task| probes.of_task(task).collect()).collect()
    } else {
        vec![(0..rows.len()).collect()]
    };
    for batch in batches {
        let own: Vec<Row<'_>> = batch.iter().map(|probe| rows[*probe]).collect();
        let scores = graph.scores(&own, probes.longest(), Padding::Left)?;
        for (probe, scores) in batch.iter().zip(scores.rows()) {
            found[*probe] = scores.to_vec();
        }
    }
    let mut per_task = PerTask::new(expected.tasks, expected.tolerance);
    for (probe, row) in rows.iter().enumerate() {
        let task = probes.tasks[probe];
        let answers = record.answers.get(task).map_or(&[][..], Vec::as_slice);
        if answers.is_empty() {
            continue;
        }
        let mut likelihoods = Vec::with_capacity(answers.len());
        for answer in answers {
            let read = answer.len().saturating_sub(1);
            let prompt = row.tokens.iter().filter_map(|token| u32::try_from(*token).ok());
            let request = ScoreRow {
                tokens: prompt.chain(answer.iter().take(read).copied()).collect(),
                task_id: row.task_id,
                queries: answer
                    .iter()
                    .enumerate()
                    .map(|(place, token)| (row.tokens.len() - 1 + place, *token))
                    .collect(),
            };
            let scores = score(session, &[request])?;
            likelihoods.push(scores.iter().flatten().map(|token| token.log_probability).sum::<f64>() as f32);
        }
        let own = found[probe].get(..answers.len()).unwrap_or_default();
        let likelihoods = ArrayView1::from(&likelihoods);
        per_task.of(task).add(ArrayView1::from(own), likelihoods, || format!("probe {probe}"));
    }
    Ok(per_task.results(&record.file, "log-likelihoods against model.onnx"))
}
