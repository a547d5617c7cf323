//! What methods with soft prompts share: the prompt's shape, and the vectors that it starts from.
//!
//! A run folds its prompt, through its deltas, into prefix rows once it is trained, and leaves both.

use super::{Destination, Methods, PrefixShape, Start, prefix_files, warm_start};
use crate::adaptation::Adaptation;
use crate::backbone::Backbone;
use crate::config::{PrefixConfig, PrefixSharing, PromptConfig, PromptInit, RunConfig};
use crate::error::TrainError;
use crate::parameters::{Group, ParameterSet, host};
use crate::random::Stream;
use pemlc_artifact::ModelConfig;
use pemlc_artifact::prompt::{Insertion, SoftPrompts};
use pemlc_artifact::run::PrefixRecord;

/// Vectors of one prompt or several.
#[derive(Debug, Clone)]
pub(super) struct PromptShape {
    pub(super) config: PromptConfig,
    pub(super) init: PromptInit,
    pub(super) tasks: usize,
    /// Width of an embedding.
    pub(super) width: usize,
}

impl PromptShape {
    /// `init` is what the method starts from unless the run file says otherwise.
    pub(super) fn new(config: &RunConfig, model: &ModelConfig, init: PromptInit) -> Self {
        let prompt = config.prompt.clone();
        let init = prompt.init.unwrap_or(init);
        Self { config: prompt, init, tasks: config.tasks.len(), width: model.hidden_size }
    }

    /// Prompts that are learned: 1, or one for each task.
    pub(super) fn sets(&self) -> usize {
        match self.config.sharing {
            PrefixSharing::Shared => 1,
            PrefixSharing::PerTask => self.tasks,
        }
    }

    /// Adds `sets` prompts of random numbers under `name`, `[sets, length, width]`.
    pub(super) fn insert_random(&self, name: &str, sets: usize, seed: u64, set: &mut ParameterSet) {
        let shape = [sets, self.config.length, self.width];
        set.insert(name, Group::Prefix, &shape, Stream::new(seed, name, 0).normal(shape.iter().product(), 1.0));
    }

    /// Puts embeddings of tokens in the place of random numbers, unless those are wanted.
    pub(super) fn warm(
        &self,
        name: &str,
        sets: usize,
        start: &Start<'_>,
        set: &mut ParameterSet,
    ) -> Result<(), TrainError> {
        let length = self.config.length;
        let mut tokens = Vec::with_capacity(sets * length);
        for index in 0..sets {
            match self.init {
                PromptInit::Random => return Ok(()),
                PromptInit::Vocabulary => tokens.extend(drawn(start.backbone, name, index, length, start.seed)),
                PromptInit::Text => {
                    let text = warm_start::tokens(start, self.config.text.as_deref(), index)?;
                    if text.is_empty() {
                        return Err(TrainError::NoPromptText);
                    }
                    tokens.extend((0..length).map(|row| text[warm_start::token(row, length, text.len())]));
                }
            }
        }
        let values = host(start.backbone.embeddings(&tokens));
        set.insert(name, Group::Prefix, &[sets, length, self.width], values);
        Ok(())
    }
}

/// `count` tokens, uniform over the vocabulary.
fn drawn(backbone: &Backbone, name: &str, index: usize, count: usize, seed: u64) -> Vec<u32> {
    let vocabulary = backbone.config().vocab_size;
    let mut stream = Stream::new(seed, &format!("{name}.vocabulary"), index as u64);
    (0..count).map(|_| (f64::from(stream.unit()) * vocabulary as f64) as u32).collect()
}

/// Writes the soft prompt of `adaptation`, and the prefix rows that it or its hidden states come to, if it has any: what depends on all
/// methods.
pub(crate) fn export(
    backbone: &Backbone,
    adaptation: &Adaptation,
    methods: &Methods,
    to: &Destination<'_>,
) -> Result<Option<PrefixRecord>, TrainError> {
    let hidden = methods.architecture().is_some_and(|architecture| architecture.insertion == Insertion::Hidden);
    if adaptation.prompt.is_none() && !hidden {
        return Ok(None);
    }
    if let Some(prompt) = &adaptation.prompt {
        let [_, length, hidden] = prompt.dims();
        let tasks = host(prompt.clone()).chunks_exact(length * hidden).map(<[f32]>::to_vec).collect();
        SoftPrompts { hidden, tasks }.write(&to.paths.soft_prompt())?;
    }
    let prefix = backbone.fold(adaptation, to.tasks.len()).prefix;
    let [sets, _, _, length, _] = prefix.as_ref().map_or([0; 5], |rows| rows.key.dims());
    let sharing = if sets == 1 { PrefixSharing::Shared } else { PrefixSharing::PerTask };
    let config = PrefixConfig { length, sharing, log_gate: hidden, ..PrefixConfig::default() };
    let shape = PrefixShape { config, log_gate: 0.0, sets, model: to.model.clone() };
    prefix_files::write(prefix, &shape, to)
}
