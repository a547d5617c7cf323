//! Every probe, in batches of one task, against the trainer's logits.

use super::distortion;
use super::subject::{ROW_LENGTH, Subject};
use crate::RuntimeError;
use ndarray::{Array2, s};
use pemlc_artifact::artifact::CheckResult;

pub(crate) fn check(subject: &mut Subject<'_>) -> Result<Vec<CheckResult>, RuntimeError> {
    let (mut per_task, tolerances) = (subject.per_task(), subject.tolerances);
    let length = subject.probes.longest();
    let limit = subject.batch_limit(length);
    for task in 0..subject.tasks.len() {
        let probes: Vec<usize> = subject.probes.of_task(task).collect();
        for batch in probes.chunks(limit) {
            let outputs = subject.run_probes(batch, length)?;
            for (row, &probe) in batch.iter().enumerate() {
                let known = subject.probes;
                let positions = &known.positions[probe];
                let mut answers = Array2::zeros((positions.len(), outputs.logits.dim().2));
                for (index, &position) in positions.iter().enumerate() {
                    let found = outputs.logits.slice(s![row, position, ..]);
                    if tolerances.max_distortion().is_none() {
                        per_task.of(task).add_within(
                            tolerances.to_trainer(task),
                            found,
                            known.logits(probe, index),
                            || format!("probe {probe}, position {position} (batch {}, sequence {length})", batch.len()),
                        );
                    }
                    answers.row_mut(index).assign(&found);
                }
                subject.answers.insert(probe, answers);
                if subject.rows.iter().any(|row| row.probe == probe) {
                    let used = known.tokens[probe].len().min(ROW_LENGTH);
                    subject.beginnings.insert(probe, outputs.logits.slice(s![row, ..used, ..]).to_owned());
                }
            }
        }
    }
    let Some(bound) = tolerances.max_distortion() else {
        return Ok(per_task.results("prefill", "runtime against trainer"));
    };
    let meters = distortion::measure(&subject.answers, subject.probes, subject.tasks.len());
    Ok(subject.tasks.iter().zip(meters).map(|(task, meter)| meter.result("prefill", task, bound)).collect())
}
