//! Decoders that answer as one task: graphs of one task, and the graph for adapters with a task's adapter.

use super::super::subject::Subject;
use super::super::{CheckOptions, Prepared, cached_decode, differs_from_base, fuzz, left_padding, prefill};
use super::verdict;
use crate::session::{Decoder, open_decoder};
use crate::{Inputs, Padding, Row, RuntimeError, RuntimeKind, Session};
use pemlc_artifact::artifact::{CheckResult, GraphRecord};
use std::path::Path;

/// What is compared with the trainer and with the graph's own answers; one result for all of it.
pub(super) fn check(
    session: &mut dyn Session,
    prepared: &Prepared,
    record: &GraphRecord,
    task: usize,
    options: &CheckOptions,
) -> Result<CheckResult, RuntimeError> {
    let probes = prepared.probes.of_task_alone(task);
    let tasks = &prepared.tasks[task..=task];
    let tolerances = prepared.tolerances.of_task_alone(task);
    let mut subject = Subject::new(session, &probes, tasks, &tolerances);
    let mut results = prefill::check(&mut subject)?;
    results.extend(cached_decode::check(&mut subject)?);
    results.extend(left_padding::check(&mut subject)?);
    let drawn = options.drawn.quarter();
    if drawn.count() > 0 {
        let positions = prepared.manifest.config.max_position_embeddings;
        results.extend(fuzz::check(&mut subject, &drawn, positions)?);
    }
    let moved = differs_from_base::check(&mut subject)?;
    Ok(together(record, &tasks[0], results, moved))
}

/// The worst of `results`, and the first that failed of these and `moved`, whose numbers are not differences.
fn together(record: &GraphRecord, task: &str, results: Vec<CheckResult>, moved: Vec<CheckResult>) -> CheckResult {
    let failed = results.iter().chain(&moved).find(|result| !result.passed);
    let worst = |number: fn(&CheckResult) -> Option<f64>| results.iter().filter_map(number).reduce(f64::max);
    let names: Vec<&str> = results.iter().chain(&moved).map(|result| result.check.as_str()).collect();
    CheckResult {
        check: record.file.clone(),
        task: Some(task.to_owned()),
        max_abs: worst(|result| result.max_abs),
        max_rel: worst(|result| result.max_rel),
        argmax_agreement: results.iter().filter_map(|result| result.argmax_agreement).reduce(f64::min),
        passed: failed.is_none(),
        detail: match failed {
            Some(failed) => format!("{}: {}", failed.check, failed.detail),
            None => names.join(", "),
        },
    }
}

/// Without an adapter nothing may answer.
pub(super) fn unadapted(
    kind: RuntimeKind,
    path: &Path,
    prepared: &Prepared,
    record: &GraphRecord,
    options: &CheckOptions,
) -> Result<CheckResult, RuntimeError> {
    let mut graph = open_decoder(kind, path, &Decoder::Adapted(None), &options.open)?;
    let tokens = &prepared.probes.tokens[0];
    let inputs = Inputs::prefill(&[Row { tokens, task_id: 0 }], tokens.len(), Padding::Right);
    let passed = graph.run(&inputs)?.logits.iter().all(|logit| logit.is_nan());
    let detail = if passed { "NaN without an adapter" } else { "answers without an adapter: this is the base model" };
    Ok(verdict(record, None, passed, detail.to_owned()))
}
