//! Which examples each training step sees.

use crate::batch::{Batch, Target, pad};
use crate::random::{Purpose, generator, permutation, unit};
use crate::task::TaskSet;
use std::sync::{Mutex, PoisonError};

/// Mixes the tasks' training examples.
///
/// Each row of a batch draws its task with probability proportional to `n_t^exponent` (`n_t` training examples: 0 is uniform
/// over tasks, 1 is in proportion to size), and takes that task's next example. A task's examples come in epochs, each in a
/// random order of its own. A batch is a pure function of the seed and the step, so a resumed run sees what an uninterrupted one sees.
#[derive(Debug)]
pub struct Mixer {
    tasks: Vec<Vec<Row>>,
    /// Cumulative probabilities; the last is 1.
    thresholds: Vec<f64>,
    batch_size: usize,
    seed: u64,
    /// Only a cache: how many rows each task gave before a step, so that steps in order need no recount.
    progress: Mutex<Progress>,
}

#[derive(Debug, Clone)]
struct Row {
    id: String,
    tokens: Vec<u32>,
    /// Position that predicts the first token of the answer.
    first: usize,
    answer: Vec<u32>,
}

#[derive(Debug, Clone)]
struct Progress {
    step: u64,
    /// Rows taken from each task before `step`.
    taken: Vec<u64>,
    /// Epoch and order of each task's examples.
    orders: Vec<Option<(u64, Vec<usize>)>>,
}

impl Mixer {
    /// A mixer over the training examples of `tasks`; `exponent` is finite.
    pub fn new(tasks: &TaskSet, exponent: f64, batch_size: usize, seed: u64) -> Self {
        let rows: Vec<Vec<Row>> = tasks
            .tasks
            .iter()
            .map(|task| {
                let rows = task.train.iter().filter_map(|example| {
                    let answer = example.answers.get(example.gold)?;
                    Some(Row {
                        id: example.id.clone(),
                        tokens: example.input_for(answer),
                        first: example.first_position(),
                        answer: answer.clone(),
                    })
                });
                rows.collect()
            })
            .collect();
        let weights: Vec<f64> =
            rows.iter().map(|rows| if rows.is_empty() { 0.0 } else { (rows.len() as f64).powf(exponent) }).collect();
        let total: f64 = weights.iter().sum();
        let thresholds = weights
            .iter()
            .scan(0.0, |sum, weight| {
                *sum += weight / total;
                Some(*sum)
            })
            .collect();
        let progress = Mutex::new(Progress { step: 0, taken: vec![0; rows.len()], orders: vec![None; rows.len()] });
        Self { tasks: rows, thresholds, batch_size, seed, progress }
    }

    /// The probability of each task.
    pub fn probabilities(&self) -> Vec<f64> {
        let mut before = 0.0;
        self.thresholds.iter().map(|&threshold| threshold - std::mem::replace(&mut before, threshold)).collect()
    }

    /// The batch of a step, steps from 0.
    ///
    /// Steps in order cost what the batch costs; a step far ahead first recounts the task choices before it, a microsecond each.
    pub fn batch(&self, step: u64) -> Batch {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        if progress.step > step {
            progress.step = 0;
            progress.taken.fill(0);
        }
        while progress.step < step {
            for task in self.choose_tasks(progress.step) {
                progress.taken[task] += 1;
            }
            progress.step += 1;
        }
        // The counts before `step` stay cached; the rows of this step are counted apart.
        let mut taken = progress.taken.clone();
        let chosen: Vec<(usize, &Row)> = self
            .choose_tasks(step)
            .into_iter()
            .filter_map(|task| {
                let rows = &self.tasks[task];
                let count = u64::try_from(rows.len()).ok().filter(|&count| count > 0)?;
                let (epoch, place) = (taken[task] / count, taken[task] % count);
                taken[task] += 1;
                let order = match &mut progress.orders[task] {
                    Some((cached, order)) if *cached == epoch => order,
                    slot => {
                        let mut random = generator(self.seed, Purpose::EpochOrder, task as u64, epoch);
                        &mut slot.insert((epoch, permutation(&mut random, rows.len()))).1
                    }
                };
                Some((task, &rows[order[place as usize]]))
            })
            .collect();
        assemble(&chosen)
    }

    /// The task of each row of a step's batch.
    fn choose_tasks(&self, step: u64) -> Vec<usize> {
        let mut random = generator(self.seed, Purpose::TaskChoice, step, 0);
        let last = self.thresholds.len().saturating_sub(1);
        let draw = |random: &mut _| {
            let draw = unit(random);
            self.thresholds.partition_point(|&threshold| threshold <= draw).min(last)
        };
        (0..self.batch_size).map(|_| draw(&mut random)).collect()
    }
}

fn assemble(chosen: &[(usize, &Row)]) -> Batch {
    let (input_ids, attention_mask, length) = pad(chosen.iter().map(|(_, row)| row.tokens.as_slice()));
    let targets = chosen.iter().enumerate().flat_map(|(index, (_, row))| {
        row.answer.iter().enumerate().map(move |(offset, &token)| Target {
            row: index,
            position: row.first + offset,
            token,
        })
    });
    Batch {
        rows: chosen.len(),
        length,
        input_ids,
        attention_mask,
        task_ids: chosen.iter().map(|&(task, _)| task as i64).collect(),
        targets: targets.collect(),
        example_ids: chosen.iter().map(|(_, row)| row.id.clone()).collect(),
    }
}
