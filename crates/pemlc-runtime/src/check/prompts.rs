//! Prompts of drawn lengths and tasks in one batch, for graphs without a cache.

use super::drawn::{Case, Drawn, DrawnRow, MOST};
use crate::Padding;

/// See the module.
pub(crate) struct DrawnPrompts {
    /// Tokens of the longest.
    pub(crate) length: usize,
    pub(crate) padding: Padding,
    case: Case,
}

impl DrawnPrompts {
    /// Those of case `number`.
    pub(crate) fn draw(drawn: &Drawn, number: usize, tasks: usize) -> Self {
        let case = Case::draw(drawn, number, tasks, true, 1, MOST[1]);
        let padding = if number.is_multiple_of(2) { Padding::Left } else { Padding::Right };
        Self { length: case.new, padding, case }
    }

    /// Tokens of each prompt, taken from `source`.
    pub(crate) fn texts(&self, source: &[i64]) -> Vec<Vec<i64>> {
        let text = |row: &DrawnRow| {
            let tokens = source.iter().copied().cycle().skip(row.source % source.len().max(1));
            tokens.take(row.new.count).collect()
        };
        self.case.rows.iter().map(text).collect()
    }

    /// Task of each prompt, or an id that is none's.
    pub(crate) fn task_ids(&self) -> impl Iterator<Item = i64> + '_ {
        self.case.rows.iter().map(|row| row.task_id)
    }

    pub(crate) fn describe(&self) -> String {
        let Case { seed, number, rows, .. } = &self.case;
        format!("case {number} of seed {seed}: {} prompts padded to {}, {:?}", rows.len(), self.length, self.padding)
    }
}
