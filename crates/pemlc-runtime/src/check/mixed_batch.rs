//! Probes of several tasks in one batch, against the trainer's logits and against the runtime's own answers to each task alone.

use super::subject::{Subject, groups};
use crate::RuntimeError;
use ndarray::s;
use pemlc_artifact::artifact::CheckResult;

pub(crate) fn check(subject: &mut Subject<'_>) -> Result<Vec<CheckResult>, RuntimeError> {
    let (mut per_task, tolerances) = (subject.per_task(), subject.tolerances);
    let length = subject.probes.longest();
    let limit = subject.batch_limit(length);
    // Rows take turns over the tasks, so that neighbours differ wherever there is more than one task.
    let mut probes: Vec<usize> = Vec::new();
    for row in &subject.rows {
        if !probes.contains(&row.probe) {
            probes.push(row.probe);
        }
    }
    for group in groups(probes.len(), limit) {
        let batch: Vec<usize> = group.iter().map(|place| probes[*place]).collect();
        let outputs = subject.run_probes(&batch, length)?;
        for (row, &probe) in batch.iter().enumerate() {
            let known = subject.probes;
            let comparison = per_task.of(known.tasks[probe]);
            let batch_size = batch.len();
            let held_to_trainer = tolerances.max_distortion().is_none();
            let to_trainer = tolerances.to_trainer(known.tasks[probe]);
            for (index, &position) in known.positions[probe].iter().enumerate().filter(|_| held_to_trainer) {
                let found = outputs.logits.slice(s![row, position, ..]);
                comparison.add_within(to_trainer, found, known.logits(probe, index), || {
                    format!("against the trainer, probe {probe}, position {position} (row {row} of {batch_size}, sequence {length})")
                });
            }
            if let Some(alone) = subject.beginnings.get(&probe) {
                comparison.add_rows(outputs.logits.slice(s![row, .., ..]), alone.view(), |position| {
                    format!("against its task alone, probe {probe}, position {position} (row {row} of {batch_size}, sequence {length})")
                });
            }
        }
    }
    let several = if subject.tasks.len() > 1 { "tasks mixed in a batch" } else { "one task only" };
    let trainer = if tolerances.max_distortion().is_none() { "trainer and " } else { "" };
    Ok(per_task.results("mixed-batch", &format!("{several}, against {trainer}single-task batches")))
}
