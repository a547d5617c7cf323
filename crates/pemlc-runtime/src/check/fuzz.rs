//! Batches of drawn sizes: every row as it is alone, without padding or cache.

use super::bad_task_id;
use super::compare::{Comparison, PerTask};
use super::subject::Subject;
use crate::io::positions;
use crate::{Inputs, Outputs, Padding, Row, RuntimeError};
use ndarray::{Array1, Array2, s};
use pemlc_artifact::artifact::CheckResult;

const NAME: &str = "drawn-shapes";
/// Largest batch, and most new and cached tokens of a case.
const MOST: [usize; 3] = [9, 70, 130];
/// A case's logits stay below this many numbers, which a batch of a real model's vocabulary would pass.
const NUMBERS: usize = 24 << 20;
/// One row in so many has an id that is no task's.
const UNKNOWN: usize = 8;

/// Which cases to draw. What a case holds depends on the seed and its number alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drawn {
    /// Cases 0 to below this are run.
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
    /// How many cases are run.
    pub fn count(&self) -> usize {
        if self.only.is_some() { 1 } else { self.cases }
    }

    /// Numbers of the cases that are run.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = usize> + use<> {
        match self.only {
            Some(number) => number..number + 1,
            None => 0..self.cases,
        }
    }

    /// A quarter of the cases, at least one with a cache: for graphs that `model.onnx` stands beside.
    pub(crate) fn quarter(&self) -> Self {
        match (self.only, self.cases) {
            (None, 1..=4) => Self { only: Some(1), ..self.clone() },
            _ => Self { cases: self.cases.div_ceil(4), ..self.clone() },
        }
    }

    /// Prompts of case `number`, for a graph without a cache.
    pub(crate) fn prompts(&self, number: usize, tasks: usize) -> DrawnPrompts {
        let case = Case::draw(self, number, tasks, true, 1, MOST[1]);
        let padding = if number.is_multiple_of(2) { Padding::Left } else { Padding::Right };
        DrawnPrompts { length: case.new, padding, case }
    }
}

/// Prompts of drawn lengths and tasks, in one batch.
pub(crate) struct DrawnPrompts {
    /// Tokens of the longest.
    pub(crate) length: usize,
    pub(crate) padding: Padding,
    case: Case,
}

impl DrawnPrompts {
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

/// Where a row's tokens are among columns of the cache or of the new tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    start: usize,
    count: usize,
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
struct DrawnRow {
    task_id: i64,
    /// Where its tokens are taken from.
    source: usize,
    cached: Segment,
    new: Segment,
}

struct Case {
    seed: u64,
    number: usize,
    new: usize,
    past: usize,
    rows: Vec<DrawnRow>,
}

impl Case {
    /// `task_ids` of valid tasks; unknown ones are drawn where the graph takes ids at all.
    fn draw(drawn: &Drawn, number: usize, tasks: usize, takes_ids: bool, vocabulary: usize, positions: usize) -> Self {
        let mut state = drawn.seed.wrapping_mul(0x2545_f491_4f6c_dd1d).wrapping_add(number as u64);
        let mut below = move |limit: usize| (next(&mut state) % limit.max(1) as u64) as usize;
        let new = (1 + below(MOST[1])).min(positions.max(1));
        // Every third case has no cache, as a prefill has none.
        let past = if number.is_multiple_of(3) { 0 } else { below(MOST[2] + 1).min(positions.saturating_sub(new)) };
        let fitting = (NUMBERS / (vocabulary * (new + past)).max(1)).clamp(1, MOST[0]);
        let batch = 1 + below(fitting);
        let (mix, first) = (below(3), below(tasks));
        let unknown = [-1, tasks as i64, 1 << 32, i64::MAX, i64::MIN];
        let rows = (0..batch)
            .map(|row| {
                // One task, all in turn, or as they come.
                let task = match mix {
                    0 => first,
                    1 => (first + row) % tasks.max(1),
                    _ => below(tasks),
                };
                let is_unknown = below(UNKNOWN) == 0 && takes_ids;
                let other = unknown[below(unknown.len())];
                let source = below(1 << 20);
                let cached = Segment::draw(&mut below, past, 0);
                let new = Segment::draw(&mut below, new, 1);
                DrawnRow { task_id: if is_unknown { other } else { task as i64 }, source, cached, new }
            })
            .collect();
        Self { seed: drawn.seed, number, new, past, rows }
    }

    fn describe(&self) -> String {
        let (batch, new, past) = (self.rows.len(), self.new, self.past);
        format!("case {} of seed {}: batch {batch}, sequence {new}, past {past}", self.number, self.seed)
    }

    /// Inputs of the cached tokens and of the new ones behind them, the second still without its cache.
    fn inputs(&self, texts: &[Vec<i64>]) -> (Inputs, Inputs) {
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

/// Draws and checks the cases of `drawn`, none longer than `positions` tokens.
pub(crate) fn check(
    subject: &mut Subject<'_>,
    drawn: &Drawn,
    positions: usize,
) -> Result<Vec<CheckResult>, RuntimeError> {
    let mut per_task = subject.per_task();
    let mut answered = Comparison::new(subject.tolerances.widest());
    let source: Vec<i64> = subject.probes.tokens.iter().flatten().copied().collect();
    for number in drawn.numbers() {
        let (tasks, takes_ids) = (subject.tasks.len(), subject.session.takes_task_id());
        let case = Case::draw(drawn, number, tasks, takes_ids, subject.probes.vocabulary(), positions);
        run(subject, &case, &source, &mut per_task, &mut answered)?;
    }
    let compared = format!("{} drawn batches of seed {}, each row against itself alone", drawn.count(), drawn.seed);
    // A few cases do not draw every task.
    let mut results = per_task.results(NAME, &compared);
    if answered.has_failed() {
        results.push(answered.result(NAME, None, &compared));
    }
    Ok(results)
}

/// `answered` fails when an unknown id was.
fn run(
    subject: &mut Subject<'_>,
    case: &Case,
    source: &[i64],
    per_task: &mut PerTask<'_>,
    answered: &mut Comparison,
) -> Result<(), RuntimeError> {
    let text = |row: &DrawnRow| -> Vec<i64> {
        let tokens = source.iter().copied().cycle().skip(row.source % source.len().max(1));
        tokens.take(row.cached.count + row.new.count).collect()
    };
    let texts: Vec<Vec<i64>> = case.rows.iter().map(text).collect();
    let outputs = match answer(subject, case, &texts) {
        Ok(outputs) => outputs,
        // A runtime may refuse unknown ids; then the rows beside them are run without.
        Err(RuntimeError::Run { .. }) if case.rows.iter().any(|row| task(subject, row).is_none()) => {
            let rows = case.rows.iter().filter(|row| task(subject, row).is_some()).cloned().collect();
            let known = Case { rows, ..*case };
            return if known.rows.is_empty() { Ok(()) } else { run(subject, &known, source, per_task, answered) };
        }
        Err(error) => return Err(error),
    };
    for (index, (row, tokens)) in case.rows.iter().zip(&texts).enumerate() {
        let Some(task) = task(subject, row) else {
            bad_task_id::must_be_nan(answered, &outputs, index, row.task_id, &case.describe());
            continue;
        };
        let alone = Row { tokens, task_id: row.task_id };
        let alone = subject.session.run(&Inputs::prefill(&[alone], tokens.len(), Padding::Right))?;
        let found = outputs.logits.slice(s![index, row.new.start..row.new.start + row.new.count, ..]);
        let expected = alone.logits.slice(s![0, row.cached.count.., ..]);
        per_task
            .of(task)
            .add_rows(found, expected, |position| format!("{}, row {index}, new token {position}", case.describe()));
    }
    Ok(())
}

/// The row's task, unless its id is none's.
fn task(subject: &Subject<'_>, row: &DrawnRow) -> Option<usize> {
    usize::try_from(row.task_id).ok().filter(|task| *task < subject.tasks.len())
}

/// The cached tokens are run first, then the new ones behind them.
fn answer(subject: &mut Subject<'_>, case: &Case, texts: &[Vec<i64>]) -> Result<Outputs, RuntimeError> {
    let (first, mut second) = case.inputs(texts);
    if case.past > 0 {
        second.past = Some(subject.session.run(&first)?.present);
    }
    subject.session.run(&second)
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
