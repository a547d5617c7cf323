//! CSV (RFC 4180, quoted fields may hold line breaks) and TSV (no quoting: a field ends at the next tab or line break).

use super::ReadProblem;
use crate::error::{FileProblem, RowProblem};
use crate::record::Record;
use serde_json::{Map, Value};

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Csv,
    Tsv,
}

/// The records of a text whose first line names the columns.
pub(super) fn parse(text: &str, fields: Option<&str>, format: Format) -> Result<Vec<(u64, Record)>, ReadProblem> {
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(if format == Format::Csv { b',' } else { b'\t' })
        .quoting(format == Format::Csv)
        .from_reader(text.as_bytes());
    let header = reader.headers().map_err(row_problem)?.clone();
    for (number, column) in (1..).zip(&header) {
        if column.trim().is_empty() {
            return Err(ReadProblem::File(FileProblem::UnnamedColumn { number }));
        }
        if header.iter().take(number - 1).any(|earlier| earlier == column) {
            return Err(ReadProblem::File(FileProblem::DuplicateColumn { column: column.to_owned() }));
        }
    }
    let mut records = Vec::new();
    for row in reader.records() {
        let row = row.map_err(row_problem)?;
        let line = row.position().map_or(0, csv::Position::line);
        let values: Map<String, Value> =
            header.iter().zip(&row).map(|(column, value)| (column.to_owned(), value.into())).collect();
        let record = Record::new(values, fields).map_err(|problem| ReadProblem::Row(line, problem))?;
        records.push((line, record));
    }
    Ok(records)
}

fn row_problem(error: csv::Error) -> ReadProblem {
    let line = error.position().map_or(1, csv::Position::line);
    let problem = match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            RowProblem::Columns { found: *len, expected: *expected_len }
        }
        _ => RowProblem::Csv { message: error.to_string() },
    };
    ReadProblem::Row(line, problem)
}
