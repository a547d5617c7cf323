//! Probes: a few short inputs of each task with the trainer's own logits, to which every exported graph is held. They are computed
//! exactly, so that the differences that a check finds are the artifact's.

use crate::adaptation::Adaptation;
use crate::backbone::{Backbone, Input};
use pemlc_artifact::probes::Probes;
use pemlc_data::TaskSet;

/// Probes of a task.
const PER_TASK: usize = 3;
/// Tokens of a probe.
const LENGTH: usize = 24;
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
    let length = texts.iter().map(|(_, tokens)| tokens.len()).max().unwrap_or(0);
    let scored = texts.iter().map(|(_, tokens)| tokens.len()).min().unwrap_or(0).min(SCORED);
    let (mut input_ids, mut attention_mask, mut positions) = (Vec::new(), Vec::new(), Vec::new());
    for (_, tokens) in &texts {
        let padding = length - tokens.len();
        input_ids.extend(tokens.iter().map(|token| i64::from(*token)).chain(std::iter::repeat_n(0, padding)));
        attention_mask.extend(std::iter::repeat_n(1, tokens.len()).chain(std::iter::repeat_n(0, padding)));
        positions.extend((tokens.len() - scored..tokens.len()).map(|position| position as i64));
    }
    let task_id: Vec<i64> = texts.iter().map(|(task, _)| *task as i64).collect();
    let input =
        Input { rows: texts.len(), length, input_ids: &input_ids, attention_mask: &attention_mask, task_ids: &task_id };
    let absolute: Vec<usize> =
        positions.iter().enumerate().map(|(index, position)| index / scored * length + *position as usize).collect();
    let logits = backbone.exact_logits(&input, &absolute, adaptation);
    let base_logits = backbone.exact_logits(&input, &absolute, &Adaptation::default());
    let vocab_size = backbone.config().vocab_size;
    Probes {
        count: texts.len(),
        length,
        scored,
        vocab_size,
        input_ids,
        attention_mask,
        task_id,
        positions,
        logits,
        base_logits,
    }
}
