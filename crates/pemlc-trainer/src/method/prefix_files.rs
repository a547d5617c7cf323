//! Prefix rows as files of the run directory.

use super::{Destination, PrefixShape};
use crate::adaptation::PrefixRows;
use crate::config::PrefixSharing;
use crate::error::TrainError;
use crate::parameters::host;
use pemlc_artifact::peft::write_prefix;
use pemlc_artifact::prompt::{Prefix, PrefixLayer};
use pemlc_artifact::run::PrefixRecord;

/// Writes `prompt/prefix.safetensors` and, when no row is gated, a PEFT folder for each task.
pub(super) fn write(
    rows: Option<PrefixRows>,
    shape: &PrefixShape,
    to: &Destination<'_>,
) -> Result<Option<PrefixRecord>, TrainError> {
    let Some(rows) = rows else { return Ok(None) };
    let [sets, layers, kv_heads, length, head_dim] = shape.rows();
    let (key, value, log_gate) = (host(rows.key), host(rows.value), host(rows.log_gate));
    let size = kv_heads * length * head_dim;
    let layer = |index: usize| PrefixLayer {
        key: key[index * size..(index + 1) * size].to_vec(),
        value: value[index * size..(index + 1) * size].to_vec(),
        log_gate: log_gate[index * length..(index + 1) * length].to_vec(),
    };
    let tasks = (0..sets).map(|set| (0..layers).map(|index| layer(set * layers + index)).collect()).collect();
    let prefix = Prefix { kv_heads, length, head_dim, tasks };
    prefix.write(&to.paths.prefix())?;
    if prefix.is_ungated() {
        for (index, task) in to.tasks.iter().enumerate() {
            if let Some(rows) = prefix.of_task(index) {
                write_prefix(&to.paths.task_prefix(task), to.model, to.base_model, rows)?;
            }
        }
    }
    let per_task = shape.config.sharing == PrefixSharing::PerTask;
    Ok(Some(PrefixRecord { length, per_task, gated: shape.config.log_gate }))
}
