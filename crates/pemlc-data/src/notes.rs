//! What loading noticed that is worth a warning, but not an error.

use crate::config::TaskConfig;
use crate::task::LongCounts;

/// Notes on one split of a task, with the first example that each applies to.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    pub(crate) long: LongCounts,
    /// A token spans the end of the prompt.
    pub(crate) merged: Option<String>,
    /// Two choices are the same.
    pub(crate) same_choices: Option<String>,
    /// One answer's tokens begin with another's, and lengths are not normalised: the shorter answer, the longer one.
    pub(crate) prefix: Option<(String, String)>,
}

impl Notes {
    /// Keeps the first of each kind.
    pub(crate) fn add(&mut self, later: Notes) {
        self.long.truncated += later.long.truncated;
        self.long.dropped += later.long.dropped;
        self.merged = self.merged.take().or(later.merged);
        self.same_choices = self.same_choices.take().or(later.same_choices);
        self.prefix = self.prefix.take().or(later.prefix);
    }

    /// One sentence each, on a task's training and validation examples.
    pub(crate) fn warnings(train: &Notes, validation: &Notes, config: &TaskConfig) -> Vec<String> {
        let mut warnings = Vec::new();
        let mut warn = |text: String| warnings.push(format!("task `{}`: {text}", config.name));
        for (split, notes) in [("training", train), ("validation", validation)] {
            if notes.long.dropped > 0 {
                warn(format!("left out because longer than max_length: {} {split} examples", notes.long.dropped));
            }
            if notes.long.truncated > 0 {
                warn(format!(
                    "prompts that lost their middle because longer than max_length: {} {split} examples",
                    notes.long.truncated
                ));
            }
            if let Some(id) = &notes.same_choices {
                warn(format!("some {split} examples have two choices with the same tokens (first at {id})"));
            }
        }
        if let Some(id) = train.merged.as_ref().or(validation.merged.as_ref()) {
            warn(format!(
                "a token spans the end of the prompt and the answer (first at {id}), so a program that sends the prompt \
                 alone sends other tokens; end the template without white space and begin the answers with it"
            ));
        }
        if let Some((short, long)) = train.prefix.as_ref().or(validation.prefix.as_ref()) {
            warn(format!(
                "the tokens of answer {long:?} begin with those of {short:?}, so the shorter one can never be the less \
                 likely; change one, or set normalize = \"tokens\""
            ));
        }
        warnings
    }
}
