//! One JSON object a line.

use super::ReadProblem;
use crate::record::Record;

/// The records of a JSON-lines text; blank lines are skipped.
pub(super) fn parse(text: &str, fields: Option<&str>) -> Result<Vec<(u64, Record)>, ReadProblem> {
    let lines = text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
    lines
        .map(|(line, number)| {
            Record::from_json(line, fields)
                .map(|record| (number, record))
                .map_err(|problem| ReadProblem::Row(number, problem))
        })
        .collect()
}
