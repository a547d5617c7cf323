//! What every check works on: one session, the probes, and rows of every task with the session's own answers to them.

use super::compare::PerTask;
use super::probes::Probes;
use super::tolerance::Tolerances;
use crate::{Inputs, Outputs, Padding, Row, RuntimeError, Session};
use ndarray::Array2;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Tokens of a row.
pub(crate) const ROW_LENGTH: usize = 40;
/// Rows of one batch.
pub(crate) const MOST_ROWS: usize = 8;
/// Logits of one run are kept below this size, since a runtime holds them too.
const LOGIT_BYTES: usize = 128 << 20;
const FEWEST_ROWS: usize = 5;
/// References are kept of so many rows: of all where tasks are few, and however many there are of no more.
const KEPT_ROWS: usize = 2 * MOST_ROWS;

/// A row of exactly [`ROW_LENGTH`] tokens: a probe's tokens, and then other probes'.
#[derive(Debug)]
pub(crate) struct LongRow {
    pub(crate) tokens: Vec<i64>,
    pub(crate) task: usize,
    /// The probe that it begins with.
    pub(crate) probe: usize,
}

/// A session's logits at each probe's scored positions `[positions, vocab]`.
pub(crate) type Answers = BTreeMap<usize, Array2<f32>>;

/// A session's logits of one row in full, without padding or cache, `[ROW_LENGTH, vocab]`.
pub(crate) type Reference = Rc<Array2<f32>>;

pub(crate) struct Subject<'a> {
    pub(crate) session: &'a mut dyn Session,
    pub(crate) probes: &'a Probes,
    pub(crate) tasks: &'a [String],
    pub(crate) tolerances: &'a Tolerances,
    /// One row of each task or more, at least 5; tasks take turns.
    pub(crate) rows: Vec<LongRow>,
    /// Left by `prefill`.
    pub(crate) answers: Answers,
    /// The session's logits of the first tokens (at most [`ROW_LENGTH`]) of the probes that rows begin with, left by `prefill`.
    pub(crate) beginnings: BTreeMap<usize, Array2<f32>>,
    references: BTreeMap<usize, Reference>,
}

impl<'a> Subject<'a> {
    pub(crate) fn new(
        session: &'a mut dyn Session,
        probes: &'a Probes,
        tasks: &'a [String],
        tolerances: &'a Tolerances,
    ) -> Self {
        let rows = rows(probes, tasks.len());
        let (answers, beginnings, references) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { session, probes, tasks, tolerances, rows, answers, beginnings, references }
    }

    pub(crate) fn per_task(&self) -> PerTask<'a> {
        PerTask::new(self.tasks, self.tolerances)
    }

    /// How many rows of `length` tokens one run takes.
    pub(crate) fn batch_limit(&self, length: usize) -> usize {
        (LOGIT_BYTES / (4 * length * self.probes.vocabulary()).max(1)).clamp(2, MOST_ROWS)
    }

    /// Runs probes in one batch, right-padded to `length`.
    pub(crate) fn run_probes(&mut self, batch: &[usize], length: usize) -> Result<Outputs, RuntimeError> {
        let probes = self.probes;
        let rows: Vec<Row<'_>> = batch
            .iter()
            .map(|&probe| Row { tokens: &probes.tokens[probe], task_id: probes.tasks[probe] as i64 })
            .collect();
        self.session.run(&Inputs::prefill(&rows, length, Padding::Right))
    }

    /// Inputs of the first `lengths[i]` tokens of row `batch[i]`.
    pub(crate) fn inputs(&self, batch: &[(usize, usize)], length: usize, padding: Padding) -> Inputs {
        let rows: Vec<Row<'_>> = batch
            .iter()
            .map(|&(row, used)| Row { tokens: &self.rows[row].tokens[..used], task_id: self.rows[row].task as i64 })
            .collect();
        Inputs::prefill(&rows, length, padding)
    }

    /// The references of `rows`, in that order. Those that are not there yet are run in full batches.
    pub(crate) fn references(&mut self, rows: &[usize]) -> Result<Vec<Reference>, RuntimeError> {
        let wanted: BTreeSet<usize> = rows.iter().copied().collect();
        let missing: Vec<usize> = wanted.iter().copied().filter(|row| !self.references.contains_key(row)).collect();
        if self.references.len() + missing.len() > KEPT_ROWS {
            self.references.retain(|row, _| wanted.contains(row));
        }
        for rows in missing.chunks(self.batch_limit(ROW_LENGTH)) {
            let batch: Vec<(usize, usize)> = rows.iter().map(|row| (*row, ROW_LENGTH)).collect();
            let inputs = self.inputs(&batch, ROW_LENGTH, Padding::Right);
            let logits = self.session.run(&inputs)?.logits;
            for (row, logits) in rows.iter().zip(logits.outer_iter()) {
                self.references.insert(*row, Rc::new(logits.to_owned()));
            }
        }
        Ok(rows.iter().map(|row| self.references[row].clone()).collect())
    }
}

/// Row i has task i, and tasks take turns where they are fewer than rows.
fn rows(probes: &Probes, tasks: usize) -> Vec<LongRow> {
    let all: Vec<i64> = probes.tokens.iter().flatten().copied().collect();
    (0..tasks.max(FEWEST_ROWS))
        .map(|index| {
            let task = index % tasks;
            let of_task: Vec<usize> = probes.of_task(task).collect();
            let probe = of_task[(index / tasks) % of_task.len()];
            // Other tokens follow, from another place for each row.
            let others = all.iter().copied().cycle().skip(index * 7);
            let tokens = probes.tokens[probe].iter().copied().chain(others).take(ROW_LENGTH).collect();
            LongRow { tokens, task, probe }
        })
        .collect()
}

/// The numbers below `count` in groups of `size`, or in one of fewer. Each group begins with the last number of the one before, and the
/// last one ends with the first numbers: where there are several, no number is first in every group that it is in.
pub(crate) fn groups(count: usize, size: usize) -> Vec<Vec<usize>> {
    if count <= size {
        return vec![(0..count).collect()];
    }
    let group = |first: usize| -> Vec<usize> { (first..first + size).map(|number| number % count).collect() };
    (0..count).step_by(size.max(2) - 1).map(group).collect()
}

#[cfg(test)]
mod tests {
    use super::groups;

    #[test]
    fn every_number_is_in_a_group_where_it_is_not_first() {
        assert_eq!(groups(3, 8), [[0, 1, 2]]);
        assert_eq!(groups(5, 4), [[0, 1, 2, 3], [3, 4, 0, 1]]);
        assert_eq!(groups(11, 8), [[0, 1, 2, 3, 4, 5, 6, 7], [7, 8, 9, 10, 0, 1, 2, 3]]);
        for (count, size) in (3..40).flat_map(|count| (2..9).map(move |size| (count, size))) {
            let groups = groups(count, size);
            let behind = |number: usize| groups.iter().any(|group| group[1..].contains(&number));
            assert!((0..count).all(|number| behind(number) || count <= size && number == 0), "{count} {size}");
        }
    }
}
