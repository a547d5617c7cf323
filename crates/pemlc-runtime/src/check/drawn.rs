//! What drawn batches hold: sizes, tasks, unknown ids and padding, all out of a seed and a case's number.

use super::bad_task_id::unknown_ids;
use crate::Inputs;
use crate::io::positions;
use ndarray::{Array1, Array2, s};

/// Largest batch, and most new and cached tokens of a case.
pub(super) const MOST: [usize; 3] = [9, 70, 130];
/// A case's logits stay below this many numbers, which a batch of a real model's vocabulary would pass.
const NUMBERS: usize = 24 << 20;
/// One row in so many has an id that is no task's.
const UNKNOWN: usize = 8;

/// Which cases to draw. What a case holds depends on the seed, its number and the artifact alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drawn {
    /// Cases 0 to below this are run, and of `model.onnx` more until every task was drawn.
    pub cases: usize,
    /// Other seeds draw other cases.
    pub seed: u64,
    /// Run this case and no other.
    pub only: Option<usize>,
}

impl Default for Drawn {
    fn default() -> Self {
        Self { cases: super::DEFAULT_DRAWN, seed: 0, only: None }
    }
}

impl Drawn {
    /// How many cases are asked for.
    pub fn count(&self) -> usize {
        if self.only.is_some() { 1 } else { self.cases }
    }

    /// Numbers of the cases that are asked for. Any number is a case's, the largest too.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = usize> + use<> {
        let all = if self.only.is_some() { 0 } else { self.cases };
        self.only.into_iter().chain(0..all)
    }

    /// Numbers of the cases after them with which each of `tasks` tasks has had its turn.
    pub(crate) fn further(&self, tasks: usize) -> impl Iterator<Item = usize> + use<> {
        let all = if self.only.is_some() { 0 } else { tasks };
        self.cases..all
    }

    /// A quarter of the cases, at least one with a cache: for graphs that `model.onnx` stands beside.
    pub(crate) fn quarter(&self) -> Self {
        match (self.only, self.cases) {
            (None, 1..=4) => Self { only: Some(1), ..self.clone() },
            _ => Self { cases: self.cases.div_ceil(4), ..self.clone() },
        }
    }
}

/// Where a row's tokens are among columns of the cache or of the new tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) start: usize,
    pub(super) count: usize,
}

impl Segment {
    /// At least `least` tokens among `columns`, padded before, after, or on both sides.
    fn draw(below: &mut impl FnMut(usize) -> usize, columns: usize, least: usize) -> Self {
        // Half of the rows are full.
        let count = if below(2) == 0 { columns } else { least + below(columns + 1 - least) };
        let free = columns - count;
        let start = match below(3) {
            0 => free,
            1 => 0,
            _ => below(free + 1),
        };
        Self { start, count }
    }
}

/// One row of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DrawnRow {
    pub(super) task_id: i64,
    /// Where its tokens are taken from.
    pub(super) source: usize,
    pub(super) cached: Segment,
    pub(super) new: Segment,
}

/// One batch.
pub(super) struct Case {
    pub(super) seed: u64,
    pub(super) number: usize,
    /// Columns of new tokens.
    pub(super) new: usize,
    /// Columns of cached ones.
    pub(super) past: usize,
    pub(super) rows: Vec<DrawnRow>,
}

impl Case {
    /// `task_ids` of valid tasks; unknown ones are drawn where the graph takes ids at all. One row, whose place is drawn, has the task
    /// whose turn it is, case after case: as many cases as tasks draw every one.
    pub(super) fn draw(
        drawn: &Drawn,
        number: usize,
        tasks: usize,
        takes_ids: bool,
        vocabulary: usize,
        positions: usize,
    ) -> Self {
        let tasks = tasks.max(1);
        let mut state = drawn.seed.wrapping_mul(0x2545_f491_4f6c_dd1d).wrapping_add(number as u64);
        let mut below = move |limit: usize| (next(&mut state) % limit.max(1) as u64) as usize;
        let new = (1 + below(MOST[1])).min(positions.max(1));
        // Every third case has no cache, as a prefill has none.
        let past = if number.is_multiple_of(3) { 0 } else { below(MOST[2] + 1).min(positions.saturating_sub(new)) };
        let fitting = (NUMBERS / (vocabulary * (new + past)).max(1)).clamp(1, MOST[0]);
        let batch = 1 + below(fitting);
        let (mix, due, turn) = (below(3), below(batch), number % tasks);
        let unknown = unknown_ids(tasks);
        let rows = (0..batch)
            .map(|row| {
                // One task, all in turn, or as they come.
                let task = match mix {
                    0 => turn,
                    1 => (turn + tasks - due % tasks + row) % tasks,
                    _ if row == due => turn,
                    _ => below(tasks),
                };
                let is_unknown = below(UNKNOWN) == 0 && takes_ids && row != due;
                let other = unknown[below(unknown.len())];
                let source = below(1 << 20);
                let cached = Segment::draw(&mut below, past, 0);
                let new = Segment::draw(&mut below, new, 1);
                DrawnRow { task_id: if is_unknown { other } else { task as i64 }, source, cached, new }
            })
            .collect();
        Self { seed: drawn.seed, number, new, past, rows }
    }

    pub(super) fn describe(&self) -> String {
        let (batch, new, past) = (self.rows.len(), self.new, self.past);
        format!("case {} of seed {}: batch {batch}, sequence {new}, past {past}", self.number, self.seed)
    }

    /// Inputs of the cached tokens and of the new ones behind them, the second still without its cache.
    pub(super) fn inputs(&self, texts: &[Vec<i64>]) -> (Inputs, Inputs) {
        let columns = self.past + self.new;
        let mut tokens = Array2::zeros((self.rows.len(), columns));
        let mut mask = Array2::zeros((self.rows.len(), columns));
        for (index, (row, text)) in self.rows.iter().zip(texts).enumerate() {
            let cached = (0..row.cached.count).map(|offset| row.cached.start + offset);
            let new = (0..row.new.count).map(|offset| self.past + row.new.start + offset);
            for (column, token) in cached.chain(new).zip(text) {
                tokens[[index, column]] = *token;
                mask[[index, column]] = 1;
            }
        }
        let task_id: Array1<i64> = self.rows.iter().map(|row| row.task_id).collect();
        let part = |from: usize, to: usize| {
            let attention_mask = mask.slice(s![.., ..to]).to_owned();
            Inputs {
                input_ids: tokens.slice(s![.., from..to]).to_owned(),
                position_ids: positions(&attention_mask, to - from),
                attention_mask,
                task_id: task_id.clone(),
                past: None,
            }
        };
        (part(0, self.past), part(self.past, columns))
    }
}

/// SplitMix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(seed: u64, number: usize, vocabulary: usize, positions: usize) -> Case {
        Case::draw(&Drawn { seed, ..Drawn::default() }, number, 3, true, vocabulary, positions)
    }

    #[test]
    fn cases_stay_in_their_ranges_and_reach_their_ends() {
        let cases: Vec<Case> = (0..2000).map(|number| draw(0, number, 512, 512)).collect();
        let rows = || cases.iter().flat_map(|case| case.rows.iter().map(move |row| (case, row)));
        for (case, row) in rows() {
            assert!((1..=MOST[0]).contains(&case.rows.len()));
            assert!((1..=MOST[1]).contains(&case.new) && case.past <= MOST[2], "{}", case.describe());
            assert!(row.cached.start + row.cached.count <= case.past);
            assert!(row.new.count > 0 && row.new.start + row.new.count <= case.new);
        }
        assert!(cases.iter().any(|case| case.rows.len() == MOST[0]));
        assert!(cases.iter().any(|case| case.new == MOST[1]) && cases.iter().any(|case| case.past == MOST[2]));
        let any = |wanted: &dyn Fn(&Case, &DrawnRow) -> bool| rows().any(|(case, row)| wanted(case, row));
        let behind = |columns: usize, segment: Segment| columns - segment.start - segment.count;
        assert!(any(&|case, row| row.new.start > 0 && behind(case.new, row.new) > 0), "padding on both sides");
        assert!(any(&|case, row| row.cached.count > 0 && behind(case.past, row.cached) > 0), "a gap before new tokens");
        assert!(any(&|case, row| case.past > 0 && row.cached.count == 0), "nothing in the cache but padding");
        assert!((0..3).all(|task| any(&|_, row| row.task_id == task)) && any(&|_, row| row.task_id == i64::MIN));
        let one_task = |case: &&Case| case.rows.iter().all(|row| row.task_id == case.rows[0].task_id);
        assert!(cases.iter().filter(|case| case.rows.len() == MOST[0]).any(|case| one_task(&case)));
    }

    #[test]
    fn a_case_is_drawn_again_from_its_seed_and_number_alone() {
        let rows = |seed: u64, number: usize| draw(seed, number, 512, 512).rows;
        assert_eq!(rows(7, 40), rows(7, 40));
        assert_ne!(rows(7, 40), rows(8, 40));
        let one = Drawn { only: Some(40), ..Drawn::default() };
        assert_eq!((one.count(), one.numbers().collect::<Vec<_>>()), (1, vec![40]));
    }

    #[test]
    fn the_largest_number_is_a_case_too() {
        let last = Drawn { only: Some(usize::MAX), ..Drawn::default() };
        assert_eq!(last.numbers().chain(last.further(11)).collect::<Vec<_>>(), [usize::MAX]);
        assert_eq!(draw(7, usize::MAX, 512, 512).rows, draw(7, usize::MAX, 512, 512).rows);
    }

    #[test]
    fn as_many_cases_as_tasks_draw_every_task() {
        let drawn = Drawn { cases: 4, seed: 3, only: None };
        for tasks in [1, 3, 11, 64] {
            let case = |number| Case::draw(&drawn, number, tasks, true, 49_152, 2048);
            let numbers: Vec<usize> = drawn.numbers().chain(drawn.further(tasks)).collect();
            assert_eq!(numbers, (0..tasks.max(4)).collect::<Vec<_>>());
            let rows: Vec<DrawnRow> = numbers.into_iter().flat_map(|number| case(number).rows).collect();
            let drawn = |task: usize| rows.iter().any(|row| row.task_id == task as i64);
            assert!((0..tasks).all(drawn), "{tasks} tasks");
        }
    }

    #[test]
    fn masks_and_positions_have_gaps_where_padding_is() {
        let segment = |start: usize, count: usize| Segment { start, count };
        let row = DrawnRow { task_id: 1, source: 0, cached: segment(0, 2), new: segment(1, 2) };
        let case = Case { seed: 0, number: 0, new: 3, past: 4, rows: vec![row] };
        let (first, second) = case.inputs(&[vec![7, 8, 9, 10]]);
        assert_eq!(first.input_ids, ndarray::array![[7, 8, 0, 0]]);
        assert_eq!(first.position_ids, ndarray::array![[0, 1, 1, 1]]);
        assert_eq!(second.attention_mask, ndarray::array![[1, 1, 0, 0, 0, 1, 1]]);
        assert_eq!(second.input_ids, ndarray::array![[0, 9, 10]]);
        assert_eq!(second.position_ids, ndarray::array![[1, 2, 3]]);
    }

    #[test]
    fn no_row_is_longer_than_the_model_has_positions() {
        assert!((0..300).map(|number| draw(0, number, 512, 64)).all(|case| case.past + case.new <= 64));
    }

    #[test]
    fn a_graph_of_one_task_is_given_no_other() {
        let case = |number| Case::draw(&Drawn::default(), number, 1, false, 512, 512);
        assert!((0..300).flat_map(|number| case(number).rows).all(|row| row.task_id == 0));
    }

    #[test]
    fn a_real_vocabulary_gets_smaller_batches() {
        for number in 0..300 {
            let case = draw(0, number, 49_152, 2048);
            let numbers = case.rows.len() * (case.past + case.new) * 49_152;
            assert!(case.rows.len() == 1 || numbers <= NUMBERS, "{}", case.describe());
        }
    }
}
