//! Graphs beside `model.onnx`, held to the trainer's probes or, where those do not say, to `model.onnx`.

mod decoder;
mod scorer;

use super::by_task::ByTask;
use super::{CheckOptions, Prepared};
use crate::session::Decoder;
use crate::{RuntimeError, RuntimeKind, Session};
use pemlc_artifact::artifact::{CheckResult, GraphProfile, GraphRecord};

/// Checks one graph. `session` is `model.onnx` on the same runtime.
pub(super) fn check(
    session: &mut dyn Session,
    prepared: &Prepared,
    record: &GraphRecord,
    options: &CheckOptions,
) -> Result<Vec<CheckResult>, RuntimeError> {
    let path = prepared.paths.root().join(&record.file);
    let kind = session.kind();
    match record.profile {
        GraphProfile::PinnedCausalLm => {
            let name = record.task.as_deref().unwrap_or_default();
            let Some(task) = prepared.tasks.iter().position(|task| task == name) else {
                let detail = format!("{} is of task `{name}`, which the artifact does not have", record.file);
                return Ok(vec![verdict(record, Some(name), false, detail)]);
            };
            let mut graph = crate::session::open_decoder(kind, &path, &Decoder::Pinned, &options.open)?;
            Ok(vec![decoder::check(graph.as_mut(), prepared, record, task, options)?])
        }
        GraphProfile::Scorer if prepared.manifest.one_task_per_batch => {
            scorer::check(&mut ByTask(session), &path, prepared, record, options)
        }
        GraphProfile::Scorer => scorer::check(session, &path, prepared, record, options),
        // Only ONNX Runtime knows adapters.
        GraphProfile::AdapterCausalLm if kind == RuntimeKind::Tract => Ok(Vec::new()),
        GraphProfile::AdapterCausalLm => {
            let mut results = vec![decoder::unadapted(kind, &path, prepared, record, options)?];
            for (task, name) in prepared.tasks.iter().enumerate() {
                let adapter = prepared.paths.root().join("onnx_adapters").join(format!("{name}.onnx_adapter"));
                let decoder = Decoder::Adapted(Some(adapter));
                let mut graph = crate::session::open_decoder(kind, &path, &decoder, &options.open)?;
                results.push(decoder::check(graph.as_mut(), prepared, record, task, options)?);
            }
            Ok(results)
        }
    }
}

/// A result without numbers.
fn verdict(record: &GraphRecord, task: Option<&str>, passed: bool, detail: String) -> CheckResult {
    CheckResult {
        check: record.file.clone(),
        task: task.map(str::to_owned),
        max_abs: None,
        max_rel: None,
        argmax_agreement: None,
        passed,
        detail,
    }
}
