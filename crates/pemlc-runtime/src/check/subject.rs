//! What every check works on: one session, the probes, and rows of several tasks with the session's own answers to them.

use super::compare::PerTask;
use super::probes::Probes;
use super::tolerance::Tolerances;
use crate::{Inputs, Outputs, Padding, Row, RuntimeError, Session};
use ndarray::{Array2, Array3};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Tokens of a row.
pub(crate) const ROW_LENGTH: usize = 40;
/// Logits of one run are kept below this size, since a runtime holds them too.
const LOGIT_BYTES: usize = 128 << 20;
const MOST_ROWS: usize = 8;
const FEWEST_ROWS: usize = 5;

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

pub(crate) struct Subject<'a> {
    pub(crate) session: &'a mut dyn Session,
    pub(crate) probes: &'a Probes,
    pub(crate) tasks: &'a [String],
    pub(crate) tolerances: &'a Tolerances,
    /// Between 5 and 8 rows that cover as many tasks as they can.
    pub(crate) rows: Vec<LongRow>,
    /// Left by `prefill`.
    pub(crate) answers: Answers,
    /// The session's logits of the first tokens (at most [`ROW_LENGTH`]) of the probes that rows begin with, left by `prefill`.
    pub(crate) beginnings: BTreeMap<usize, Array2<f32>>,
    reference: Option<Rc<Array3<f32>>>,
}

impl<'a> Subject<'a> {
    pub(crate) fn new(
        session: &'a mut dyn Session,
        probes: &'a Probes,
        tasks: &'a [String],
        tolerances: &'a Tolerances,
    ) -> Self {
        let rows = rows(probes, tasks.len());
        let (answers, beginnings) = (BTreeMap::new(), BTreeMap::new());
        Self { session, probes, tasks, tolerances, rows, answers, beginnings, reference: None }
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

    /// The session's logits of all rows in one full run without padding or cache, `[rows, ROW_LENGTH, vocab]`.
    pub(crate) fn reference(&mut self) -> Result<Rc<Array3<f32>>, RuntimeError> {
        if let Some(reference) = &self.reference {
            return Ok(reference.clone());
        }
        let batch: Vec<_> = (0..self.rows.len()).map(|row| (row, ROW_LENGTH)).collect();
        let inputs = self.inputs(&batch, ROW_LENGTH, Padding::Right);
        let reference = Rc::new(self.session.run(&inputs)?.logits);
        self.reference = Some(reference.clone());
        Ok(reference)
    }
}

/// Row i has task `i * tasks / rows` when there are many tasks, else tasks take turns.
fn rows(probes: &Probes, tasks: usize) -> Vec<LongRow> {
    let count = tasks.clamp(FEWEST_ROWS, MOST_ROWS);
    let all: Vec<i64> = probes.tokens.iter().flatten().copied().collect();
    (0..count)
        .map(|index| {
            let task = if tasks > count { index * tasks / count } else { index % tasks };
            let of_task: Vec<usize> = probes.of_task(task).collect();
            let probe = of_task[(index / tasks) % of_task.len()];
            // Other tokens follow, from another place for each row.
            let others = all.iter().copied().cycle().skip(index * 7);
            let tokens = probes.tokens[probe].iter().copied().chain(others).take(ROW_LENGTH).collect();
            LongRow { tokens, task, probe }
        })
        .collect()
}
