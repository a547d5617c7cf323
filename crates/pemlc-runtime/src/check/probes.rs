//! The trainer's probes, probe by probe.

use super::files::CheckError;
use ndarray::ArrayView1;
use pemlc_artifact::probes::Probes as StoredProbes;
use std::path::Path;
use std::rc::Rc;

/// Inputs and the trainer's answers.
#[derive(Debug)]
pub(crate) struct Probes {
    /// Tokens of each probe, without padding.
    pub(crate) tokens: Vec<Vec<i64>>,
    /// Task of each probe, an index into the task table.
    pub(crate) tasks: Vec<usize>,
    /// Scored positions of each probe.
    pub(crate) positions: Vec<Vec<usize>>,
    /// Where each probe is among those stored.
    places: Vec<usize>,
    stored: Rc<StoredProbes>,
}

impl Probes {
    /// Reads the probes of an artifact with these `tasks`, each of which needs one.
    pub(crate) fn read(path: &Path, tasks: &[String], vocabulary: usize) -> Result<Self, CheckError> {
        let stored = StoredProbes::read(path)?;
        Self::new(stored, tasks, vocabulary).map_err(|message| CheckError::Probes { path: path.to_owned(), message })
    }

    fn new(stored: StoredProbes, tasks: &[String], vocabulary: usize) -> Result<Self, String> {
        if stored.vocab_size != vocabulary {
            return Err(format!("logits over {} tokens, but the model has {vocabulary}", stored.vocab_size));
        }
        let index = |value: &i64| usize::try_from(*value).map_err(|_| format!("negative index {value}"));
        let task_ids: Vec<usize> = stored.task_id.iter().map(index).collect::<Result<_, _>>()?;
        if let Some(task) = task_ids.iter().find(|task| **task >= tasks.len()) {
            return Err(format!("task_id {task}, but there are {} tasks", tasks.len()));
        }
        if let Some((_, name)) = tasks.iter().enumerate().find(|(task, _)| !task_ids.contains(task)) {
            return Err(format!("task `{name}` has no probe"));
        }
        let positions: Vec<usize> = stored.positions.iter().map(index).collect::<Result<_, _>>()?;
        Ok(Self {
            tokens: (0..stored.count).map(|probe| stored.tokens(probe).to_vec()).collect(),
            tasks: task_ids,
            positions: positions.chunks(stored.scored).map(<[usize]>::to_vec).collect(),
            places: (0..stored.count).collect(),
            stored: Rc::new(stored),
        })
    }

    /// The probes of `task` as those of the only task.
    pub(crate) fn of_task_alone(&self, task: usize) -> Self {
        let chosen: Vec<usize> = self.of_task(task).collect();
        Self {
            tokens: chosen.iter().map(|probe| self.tokens[*probe].clone()).collect(),
            tasks: vec![0; chosen.len()],
            positions: chosen.iter().map(|probe| self.positions[*probe].clone()).collect(),
            places: chosen.iter().map(|probe| self.places[*probe]).collect(),
            stored: self.stored.clone(),
        }
    }

    /// The trainer's logits `[vocab]` of probe `probe` at its `index`-th scored position.
    pub(crate) fn logits(&self, probe: usize, index: usize) -> ArrayView1<'_, f32> {
        self.row(&self.stored.logits, probe, index)
    }

    /// The same of the untouched base model.
    pub(crate) fn base_logits(&self, probe: usize, index: usize) -> ArrayView1<'_, f32> {
        self.row(&self.stored.base_logits, probe, index)
    }

    fn row<'a>(&self, values: &'a [f32], probe: usize, index: usize) -> ArrayView1<'a, f32> {
        let width = self.stored.vocab_size;
        let start = (self.places[probe] * self.stored.scored + index) * width;
        ArrayView1::from(values.get(start..start + width).unwrap_or_default())
    }

    /// How far the trainer's f32 logits are from its exact ones at the scored positions of a task's probes, if the run says so.
    pub(crate) fn rounding(&self, task: usize) -> Option<f64> {
        let all = self.stored.f32_rounding.as_ref()?;
        let of_probe = |probe: usize| all.get(probe * self.stored.scored..(probe + 1) * self.stored.scored);
        let largest = self.of_task(task).filter_map(of_probe).flatten().copied().fold(0.0, f32::max);
        Some(f64::from(largest))
    }

    /// Tokens in the vocabulary.
    pub(crate) fn vocabulary(&self) -> usize {
        self.stored.vocab_size
    }

    /// The probes of one task.
    pub(crate) fn of_task(&self, task: usize) -> impl Iterator<Item = usize> + '_ {
        self.tasks.iter().enumerate().filter(move |(_, found)| **found == task).map(|(probe, _)| probe)
    }

    /// Tokens of the longest probe.
    pub(crate) fn longest(&self) -> usize {
        self.tokens.iter().map(Vec::len).max().unwrap_or(0)
    }
}
