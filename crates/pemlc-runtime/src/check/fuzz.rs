//! Batches of drawn sizes: every row as it is alone, without padding or cache.

use super::compare::PerTask;
use super::subject::Subject;
use crate::{Inputs, Padding, Row, RuntimeError};
use ndarray::{Array2, s};
use pemlc_artifact::artifact::CheckResult;

/// Largest batch, and most new and cached tokens of a case.
const MOST: [usize; 3] = [9, 70, 130];
/// A case's logits stay below this many numbers, which a batch of a real model's vocabulary would pass.
const NUMBERS: usize = 24 << 20;

/// A drawn case; what it draws depends on its number alone, so that one that fails can be drawn again.
struct Case {
    number: usize,
    batch: usize,
    new: usize,
    past: usize,
    padding: Padding,
    /// Of each row: its task, how many tokens it has, and where they are taken from.
    rows: Vec<(usize, usize, usize)>,
}

impl Case {
    fn draw(number: usize, tasks: usize, vocabulary: usize, positions: usize) -> Self {
        let mut state = number as u64;
        let mut below = |limit: usize| (next(&mut state) % limit.max(1) as u64) as usize;
        let new = (1 + below(MOST[1])).min(positions.max(1));
        // Every third case has no cache, as a prefill has none.
        let past = if number.is_multiple_of(3) { 0 } else { below(MOST[2] + 1).min(positions.saturating_sub(new)) };
        let fitting = (NUMBERS / (vocabulary * (new + past)).max(1)).clamp(1, MOST[0]);
        let batch = 1 + below(fitting);
        let padding = if below(2) == 0 { Padding::Left } else { Padding::Right };
        // Right padding leaves no place for new tokens, so it is drawn without a cache alone.
        let padding = if past > 0 { Padding::Left } else { padding };
        let length = past + new;
        let rows = (0..batch)
            .map(|row| {
                // The first row is full; of the others at least the new tokens are there.
                let used = if row == 0 || past == 0 && new == 1 {
                    length
                } else {
                    length - below(length.min(past.max(new - 1)) + 1).min(length - 1)
                };
                (below(tasks), used, below(1 << 20))
            })
            .collect();
        Self { number, batch, new, past, padding, rows }
    }

    fn describe(&self) -> String {
        let (batch, new, past) = (self.batch, self.new, self.past);
        format!("case {}: batch {batch}, sequence {new}, past {past}, {:?} padding", self.number, self.padding)
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

/// Draws and checks `cases` cases, none longer than `positions` tokens.
pub(crate) fn check(
    subject: &mut Subject<'_>,
    cases: usize,
    positions: usize,
) -> Result<Vec<CheckResult>, RuntimeError> {
    let mut per_task = subject.per_task();
    let tokens: Vec<i64> = subject.probes.tokens.iter().flatten().copied().collect();
    for number in 0..cases {
        let case = Case::draw(number, subject.tasks.len(), subject.probes.vocabulary(), positions);
        run(subject, &case, &tokens, &mut per_task)?;
    }
    let drawn: Vec<CheckResult> =
        per_task.results("drawn-shapes", &format!("{cases} drawn batches, each row against itself alone"));
    // A few cases do not draw every task.
    Ok(drawn.into_iter().filter(|result| result.max_abs.is_some()).collect())
}

fn run(subject: &mut Subject<'_>, case: &Case, source: &[i64], per_task: &mut PerTask<'_>) -> Result<(), RuntimeError> {
    let length = case.past + case.new;
    let texts: Vec<Vec<i64>> = case
        .rows
        .iter()
        .map(|(_, used, start)| source.iter().copied().cycle().skip(start % source.len()).take(*used).collect())
        .collect();
    let rows: Vec<Row<'_>> =
        texts.iter().zip(&case.rows).map(|(tokens, (task, ..))| Row { tokens, task_id: *task as i64 }).collect();
    let whole = Inputs::prefill(&rows, length, case.padding);
    let outputs = if case.past == 0 {
        subject.session.run(&whole)?
    } else {
        // The cached tokens are run first, then the new ones behind them.
        let columns = |array: &Array2<i64>, from: usize, to: usize| array.slice(s![.., from..to]).to_owned();
        let mut first = whole.clone();
        first.input_ids = columns(&whole.input_ids, 0, case.past);
        first.attention_mask = columns(&whole.attention_mask, 0, case.past);
        first.position_ids = columns(&whole.position_ids, 0, case.past);
        let cached = subject.session.run(&first)?;
        let new = columns(&whole.input_ids, case.past, length);
        let mut second = Inputs::continued(&first.attention_mask, new, whole.task_id.clone(), cached.present);
        second.attention_mask.clone_from(&whole.attention_mask);
        second.position_ids = columns(&whole.position_ids, case.past, length);
        subject.session.run(&second)?
    };
    for (index, row) in rows.iter().enumerate() {
        let alone = Inputs::prefill(std::slice::from_ref(row), row.tokens.len(), Padding::Right);
        let alone = subject.session.run(&alone)?;
        let used = row.tokens.len();
        // Of the row's tokens, those that the second run computed: from `skipped` on.
        let (start, skipped) = match case.padding {
            Padding::Left => ((length - used).saturating_sub(case.past), case.past.saturating_sub(length - used)),
            Padding::Right => (0, 0),
        };
        let count = used - skipped;
        let found = outputs.logits.slice(s![index, start..start + count, ..]);
        let expected = alone.logits.slice(s![0, skipped.., ..]);
        per_task
            .of(row.task_id as usize)
            .add_rows(found, expected, |position| format!("{}, row {index}, token {position}", case.describe()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_stay_in_their_ranges_and_reach_their_ends() {
        let cases: Vec<Case> = (0..2000).map(|number| Case::draw(number, 3, 512, 512)).collect();
        for case in &cases {
            assert!((1..=MOST[0]).contains(&case.batch) && (1..=MOST[1]).contains(&case.new) && case.past <= MOST[2]);
            assert_eq!(case.rows.len(), case.batch);
            let length = case.past + case.new;
            assert!(
                case.rows.iter().all(|(task, used, _)| *task < 3 && (1..=length).contains(used)),
                "{}",
                case.describe()
            );
            // Some token of every row is new.
            assert!(case.padding == Padding::Left || case.past == 0);
        }
        let any = |wanted: &dyn Fn(&Case) -> bool| cases.iter().any(wanted);
        assert!(
            any(&|case| case.batch == MOST[0]) && any(&|case| case.new == MOST[1]) && any(&|case| case.past == MOST[2])
        );
        assert!(
            any(&|case| case.padding == Padding::Right) && any(&|case| case.rows.iter().any(|row| row.1 < case.new))
        );
    }

    #[test]
    fn no_row_is_longer_than_the_model_has_positions() {
        assert!((0..300).map(|number| Case::draw(number, 3, 512, 64)).all(|case| case.past + case.new <= 64));
    }

    #[test]
    fn a_real_vocabulary_gets_smaller_batches() {
        for number in 0..300 {
            let case = Case::draw(number, 3, 49_152, 2048);
            assert!(case.batch == 1 || case.batch * (case.past + case.new) * 49_152 <= NUMBERS, "{}", case.describe());
        }
    }
}
