//! Probes: a few short inputs of each task with the trainer's own logits, to which every exported graph is held. They are computed
//! exactly, so that the differences that a check finds are the artifact's.

use crate::adaptation::Adaptation;
use crate::backbone::{Backbone, Input};
use pemlc_artifact::probes::Probes;
use pemlc_data::TaskSet;
use std::ops::Range;

/// Probes of a task.
pub(crate) const PER_TASK: usize = 3;
/// Tokens of a probe.
pub(crate) const LENGTH: usize = 24;
/// Scored positions of a probe.
const SCORED: usize = 4;

/// Makes the probes out of the ends of validation prompts.
pub(crate) fn make(backbone: &Backbone, adaptation: &Adaptation, tasks: &TaskSet) -> Probes {
    let mut texts: Vec<(usize, &[u32])> = Vec::new();
    for (index, task) in tasks.tasks.iter().enumerate() {
        let count = task.validation.len();
        let picked =
            (0..PER_TASK.min(count)).filter_map(|place| task.validation.get(place * count / PER_TASK.min(count)));
        // Different lengths, so that padding is probed too.
        texts.extend(picked.enumerate().map(|(place, example)| {
            let start = example.prompt.len().saturating_sub(LENGTH - 3 * place);
            (index, &example.prompt[start..])
        }));
    }
    let sheet = Sheet::new(&texts);
    let rows = 0..texts.len();
    let (logits, rounding) = sheet.answers(backbone, rows.clone(), &sheet.task_id, adaptation);
    let base_logits = sheet.logits(backbone, rows, &sheet.task_id, &Adaptation::default());
    sheet.probes(backbone.config().vocab_size, logits, base_logits, rounding)
}

/// Texts of tasks, padded on the right to one length, and which positions of them are scored.
pub(crate) struct Sheet {
    rows: usize,
    length: usize,
    scored: usize,
    input_ids: Vec<i64>,
    attention_mask: Vec<i64>,
    task_id: Vec<i64>,
    positions: Vec<i64>,
}

impl Sheet {
    /// Of `(task, tokens)`; no text is empty.
    pub(crate) fn new(texts: &[(usize, &[u32])]) -> Self {
        let length = texts.iter().map(|(_, tokens)| tokens.len()).max().unwrap_or(0);
        let scored = texts.iter().map(|(_, tokens)| tokens.len()).min().unwrap_or(0).min(SCORED);
        let (mut input_ids, mut attention_mask, mut positions) = (Vec::new(), Vec::new(), Vec::new());
        for (_, tokens) in texts {
            let padding = length - tokens.len();
            input_ids.extend(tokens.iter().map(|token| i64::from(*token)).chain(std::iter::repeat_n(0, padding)));
            attention_mask.extend(std::iter::repeat_n(1, tokens.len()).chain(std::iter::repeat_n(0, padding)));
            positions.extend((tokens.len() - scored..tokens.len()).map(|position| position as i64));
        }
        let task_id = texts.iter().map(|(task, _)| *task as i64).collect();
        Self { rows: texts.len(), length, scored, input_ids, attention_mask, task_id, positions }
    }

    /// Exact logits at the scored positions of `rows`, `[rows, scored, vocab]`, when `task_ids` say which set of `adaptation` each has.
    pub(crate) fn logits(
        &self,
        backbone: &Backbone,
        rows: Range<usize>,
        task_ids: &[i64],
        adaptation: &Adaptation,
    ) -> Vec<f32> {
        self.at_scored(rows, task_ids, |input, positions| backbone.exact_logits(input, positions, adaptation))
    }

    /// The same, and how far f32 logits are from them at each position, `[rows, scored]`, where exact ones are more than f32.
    pub(crate) fn answers(
        &self,
        backbone: &Backbone,
        rows: Range<usize>,
        task_ids: &[i64],
        adaptation: &Adaptation,
    ) -> (Vec<f32>, Option<Vec<f32>>) {
        let exact = self.logits(backbone, rows.clone(), task_ids, adaptation);
        let rounded = |input: &Input<'_>, positions: &[usize]| backbone.rounded_logits(input, positions, adaptation);
        let rounding = self.at_scored(rows, task_ids, rounded).map(|rounded| {
            let width = backbone.config().vocab_size;
            let positions = exact.chunks_exact(width).zip(rounded.chunks_exact(width));
            let largest = |(exact, rounded): (&[f32], &[f32])| {
                exact.iter().zip(rounded).map(|(exact, rounded)| (exact - rounded).abs()).fold(0.0, f32::max)
            };
            positions.map(largest).collect()
        });
        (exact, rounding)
    }

    /// What `answer` says of `rows` and their scored positions, counted over all of them.
    fn at_scored<T>(&self, rows: Range<usize>, task_ids: &[i64], answer: impl FnOnce(&Input<'_>, &[usize]) -> T) -> T {
        let tokens = rows.start * self.length..rows.end * self.length;
        let input = Input {
            rows: rows.len(),
            length: self.length,
            input_ids: &self.input_ids[tokens.clone()],
            attention_mask: &self.attention_mask[tokens],
            task_ids,
        };
        let positions = &self.positions[rows.start * self.scored..rows.end * self.scored];
        let absolute = positions.iter().enumerate();
        let absolute: Vec<usize> =
            absolute.map(|(index, position)| index / self.scored * self.length + *position as usize).collect();
        answer(&input, &absolute)
    }

    /// The probes that it and its logits are.
    pub(crate) fn probes(
        self,
        vocab_size: usize,
        logits: Vec<f32>,
        base_logits: Vec<f32>,
        f32_rounding: Option<Vec<f32>>,
    ) -> Probes {
        Probes {
            count: self.rows,
            length: self.length,
            scored: self.scored,
            vocab_size,
            input_ids: self.input_ids,
            attention_mask: self.attention_mask,
            task_id: self.task_id,
            positions: self.positions,
            logits,
            base_logits,
            f32_rounding,
        }
    }
}
