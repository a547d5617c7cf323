//! Graphs beside `model.onnx`, held to the trainer's probes or, where those do not say, to `model.onnx`.

mod decoder;
mod scorer;

use super::by_task::ByTask;
use super::{CheckOptions, Prepared};
use crate::session::Decoder;
use crate::{RuntimeError, RuntimeKind, Session};
use pemlc_artifact::artifact::{CheckResult, GraphProfile, GraphRecord};

/// Whether `kind` reads graphs of `profile`: only ONNX Runtime knows adapters.
pub(super) fn reads(kind: RuntimeKind, profile: GraphProfile) -> bool {
    kind != RuntimeKind::Tract || profile != GraphProfile::AdapterCausalLm
}

/// A failed result for each graph that none of `kinds` reads: what did not run is not validated.
pub(super) fn unread(prepared: &Prepared, kinds: &[RuntimeKind]) -> Vec<CheckResult> {
    let nobody = |record: &&GraphRecord| !kinds.iter().any(|kind| reads(*kind, record.profile));
    let asked = kinds.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(",");
    let result = |record: &GraphRecord| {
        let detail = format!(
            "{} was not run: {asked} does not read adapters, ONNX Runtime does; check on both, with --runtime ort-cpu,{asked}",
            record.file
        );
        verdict(record, None, false, detail)
    };
    prepared.manifest.graphs.iter().filter(nobody).map(result).collect()
}

/// Checks one graph, which the runtime [`reads`]. `session` is `model.onnx` on it.
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
