//! Which examples a step learns from.

use super::prepare::Prepared;
use crate::config::Update;
use crate::error::TrainError;
use crate::random::Stream;
use pemlc_data::{Mixer, TaskSet};

/// All training examples and, for a bilevel search, two parts of them.
pub(crate) struct Mixers {
    all: Mixer,
    parts: Option<Parts>,
}

struct Parts {
    weights: Mixer,
    architecture: Mixer,
}

impl Mixers {
    pub(crate) fn new(run: &Prepared) -> Result<Self, TrainError> {
        let training = &run.config.training;
        let mixer =
            |tasks: &TaskSet| Mixer::new(tasks, training.sampling_exponent, training.batch_size, run.config.seed);
        let bilevel = run.config.prefix.update == Update::Bilevel && run.config.search_steps() > 0;
        let parts = match bilevel {
            false => None,
            true => {
                let (weights, architecture) = split(&run.tasks, run.config.prefix.architecture_share, run.config.seed)?;
                Some(Parts { weights: mixer(&weights), architecture: mixer(&architecture) })
            }
        };
        Ok(Self { all: mixer(&run.tasks), parts })
    }

    /// For the weights: during a bilevel search, the part that is theirs.
    pub(crate) fn weights(&self, searching: bool) -> &Mixer {
        match &self.parts {
            Some(parts) if searching => &parts.weights,
            _ => &self.all,
        }
    }

    /// For the mixture's logits, if they have examples of their own.
    pub(crate) fn architecture(&self) -> Option<&Mixer> {
        self.parts.as_ref().map(|parts| &parts.architecture)
    }
}

/// `share` of each task's training examples, drawn at random, and the rest before it.
fn split(tasks: &TaskSet, share: f64, seed: u64) -> Result<(TaskSet, TaskSet), TrainError> {
    let (mut rest, mut held) = (tasks.clone(), tasks.clone());
    for (index, task) in tasks.tasks.iter().enumerate() {
        let count = task.train.len();
        if count < 2 {
            return Err(TrainError::Setting {
                key: "prefix.update",
                value: "bilevel".to_owned(),
                expected: format!(
                    "single_level, or at least 2 training examples of task `{}`, which has {count}: some are for the \
                     weights and some for the architecture",
                    task.name
                ),
            });
        }
        let taken = ((count as f64 * share).round() as usize).clamp(1, count - 1);
        let mut order: Vec<usize> = (0..count).collect();
        let keys = Stream::new(seed, "architecture.examples", index as u64).uniform(count, 1.0);
        order.sort_by(|left, right| keys[*left].total_cmp(&keys[*right]).then(left.cmp(right)));
        let mut is_held = vec![false; count];
        order[..taken].iter().for_each(|example| is_held[*example] = true);
        let part = |wanted: bool| {
            let examples = task.train.iter().zip(&is_held).filter(|(_, held)| **held == wanted);
            examples.map(|(example, _)| example.clone()).collect()
        };
        rest.tasks[index].train = part(false);
        held.tasks[index].train = part(true);
    }
    Ok((rest, held))
}
