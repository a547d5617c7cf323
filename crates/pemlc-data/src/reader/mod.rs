//! Data files: JSON lines, CSV and TSV, told apart by extension.

mod delimited;
mod json_lines;

use crate::error::{DataError, FileProblem, RowProblem};
use crate::record::Record;
use std::path::Path;

/// Why a file's text is not records.
#[derive(Debug)]
pub(crate) enum ReadProblem {
    File(FileProblem),
    Row(u64, RowProblem),
}

impl ReadProblem {
    /// The error that names the task and the file.
    pub(crate) fn of(self, task: &str, path: &Path) -> DataError {
        let (task, path) = (task.to_owned(), path.to_owned());
        match self {
            ReadProblem::File(problem) => DataError::File { task, path, problem },
            ReadProblem::Row(line, problem) => DataError::Row { task, path, line, problem: Box::new(problem) },
        }
    }
}

/// Reads a file's records with their line numbers (from 1); `fields` is the task's setting of that name.
pub(crate) fn read(path: &Path, fields: Option<&str>) -> Result<Vec<(u64, Record)>, ReadProblem> {
    let extension = path.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase);
    let parse: fn(&str, Option<&str>) -> _ = match extension.as_deref() {
        Some("jsonl") => json_lines::parse,
        Some("csv") => |text, fields| delimited::parse(text, fields, delimited::Format::Csv),
        Some("tsv") => |text, fields| delimited::parse(text, fields, delimited::Format::Tsv),
        _ => return Err(ReadProblem::File(FileProblem::Extension)),
    };
    let bytes = std::fs::read(path).map_err(|error| ReadProblem::File(FileProblem::Read(error)))?;
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        let line = bytes.iter().take(error.valid_up_to()).filter(|&&byte| byte == b'\n').count() as u64 + 1;
        ReadProblem::Row(line, RowProblem::NotUtf8)
    })?;
    let records = parse(text.strip_prefix('\u{feff}').unwrap_or(text), fields)?;
    if records.is_empty() { Err(ReadProblem::File(FileProblem::Empty)) } else { Ok(records) }
}
