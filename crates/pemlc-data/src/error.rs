//! Everything that can be wrong with tasks and their data.

use crate::expand::ExpandError;
use crate::template::TemplateError;
use crate::tokenizer::TokenizerError;
use std::path::PathBuf;

/// Why tasks could not be loaded. Every message names the task, and the file, line and field where there is one.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The run file has no `[[tasks]]`.
    #[error("the run file has no task: add a [[tasks]] table")]
    NoTasks,
    /// A task's settings are wrong, whatever its data.
    #[error("task `{task}`: {problem}")]
    Task {
        /// The task's name.
        task: String,
        /// What is wrong.
        problem: TaskProblem,
    },
    /// A data file cannot be used.
    #[error("{}: {problem} (task `{task}`)", path.display())]
    File {
        /// The task's name.
        task: String,
        /// The data file.
        path: PathBuf,
        /// What is wrong.
        problem: FileProblem,
    },
    /// One line of a data file cannot be used.
    #[error("{}:{line}: {problem} (task `{task}`)", path.display())]
    Row {
        /// The task's name.
        task: String,
        /// The data file.
        path: PathBuf,
        /// Line, from 1.
        line: u64,
        /// What is wrong.
        problem: Box<RowProblem>,
    },
}

/// What is wrong with a task's settings.
#[derive(Debug, thiserror::Error)]
pub enum TaskProblem {
    /// The name cannot name a folder.
    #[error("a task name has 1 to 64 letters, digits, `.`, `_` or `-` and begins with a letter or digit")]
    BadName,
    /// The name is one that the run directory uses itself.
    #[error("the name `shared` is taken by the run directory (adapters/shared): choose another")]
    ReservedName,
    /// Two tasks have this name.
    #[error("another task is named `{other}`: names must differ by more than case")]
    DuplicateName {
        /// The earlier task.
        other: String,
    },
    /// The template does not parse.
    #[error("template: {0}")]
    Template(#[from] TemplateError),
    /// A path's variables cannot be expanded.
    #[error("{key}: {error}")]
    Path {
        /// `train` or `validation`.
        key: &'static str,
        /// What is wrong.
        error: ExpandError,
    },
    /// Not exactly one source of answers.
    #[error(
        "give exactly one of `verbalizers` (a fixed set of answers), `choices` (the field with each example's candidates) or \
         `answer` (the field with a free-text answer); only `verbalizers` with `choices` go together (answer by letter)"
    )]
    AnswerSource,
    /// Fewer than two verbalizers.
    #[error("verbalizers: a task needs at least 2 answers to choose from, found 1")]
    OneVerbalizer,
    /// A verbalizer is empty.
    #[error("verbalizers: number {number} is empty")]
    EmptyVerbalizer {
        /// Number, from 1.
        number: usize,
    },
    /// The metric does not suit the answers.
    #[error("metric `{metric}` needs {needs}")]
    Metric {
        /// The metric's name.
        metric: &'static str,
        /// What it needs.
        needs: &'static str,
    },
    /// `score` without `pearson`.
    #[error("score is read by metric = \"pearson\" alone: set that metric or remove score")]
    UnusedScore,
    /// A limit of zero.
    #[error("{key} = 0 leaves no example: remove it or give a positive number")]
    ZeroLimit {
        /// The setting.
        key: &'static str,
    },
}

/// What is wrong with a data file.
#[derive(Debug, thiserror::Error)]
pub enum FileProblem {
    /// It cannot be read.
    #[error("cannot read: {0}")]
    Read(#[from] std::io::Error),
    /// Its extension is not one we know.
    #[error("the extension says the format; expected .jsonl, .csv or .tsv")]
    Extension,
    /// It has no example.
    #[error("no example in the file")]
    Empty,
    /// Two columns have one name.
    #[error("line 1: column `{column}` appears twice in the header")]
    DuplicateColumn {
        /// The column.
        column: String,
    },
    /// A column has no name.
    #[error("line 1: column {number} has no name; the first line must name the columns")]
    UnnamedColumn {
        /// Column number, from 1.
        number: usize,
    },
    /// `on_long = "drop"` dropped every example.
    #[error(
        "each of the {examples} examples has more than max_length = {max_length} tokens: raise training.max_length or set on_long = \"truncate\""
    )]
    AllDropped {
        /// Examples before dropping.
        examples: usize,
        /// The limit.
        max_length: usize,
    },
}

/// What is wrong with one line of a data file.
#[derive(Debug, thiserror::Error)]
pub enum RowProblem {
    /// Not UTF-8.
    #[error("not UTF-8 text: save the file as UTF-8")]
    NotUtf8,
    /// Not JSON.
    #[error("not JSON at column {column}: {message}; each line must be one JSON object")]
    NotJson {
        /// Column, from 1.
        column: usize,
        /// The parser's words.
        message: String,
    },
    /// JSON, but not an object.
    #[error("expected a JSON object like {{\"field\": \"text\"}}, found {found}")]
    NotObject {
        /// What it is.
        found: &'static str,
    },
    /// The nested object is not there.
    #[error("`fields = \"{key}\"` asks for an object under `{key}`, found {found}; the keys are {keys}")]
    NoFieldsObject {
        /// The key asked for.
        key: String,
        /// What is there.
        found: &'static str,
        /// Keys of the line.
        keys: String,
    },
    /// A CSV or TSV line with another number of columns than the header.
    #[error("found {found} columns, but the header has {expected}")]
    Columns {
        /// Columns of the line.
        found: u64,
        /// Columns of the header.
        expected: u64,
    },
    /// CSV that cannot be read.
    #[error("{message}")]
    Csv {
        /// The parser's words.
        message: String,
    },
    /// A field that a setting names is not there.
    #[error("{setting} names the field `{field}`, which is not here; the fields are {fields}")]
    UnknownField {
        /// The setting: `template`, `label`, ...
        setting: &'static str,
        /// The field.
        field: String,
        /// Fields of the line.
        fields: String,
    },
    /// A field is empty.
    #[error("field `{field}` is empty")]
    EmptyField {
        /// The field.
        field: String,
    },
    /// A field has the wrong type.
    #[error("field `{field}` is {found}, expected {expected}")]
    FieldType {
        /// The field.
        field: String,
        /// What it is.
        found: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// A label that is no answer.
    #[error("field `{field}`: unknown label {value}; allowed are {allowed}")]
    UnknownLabel {
        /// The label's field.
        field: String,
        /// What it holds.
        value: String,
        /// What it may hold.
        allowed: String,
    },
    /// A label that means one answer as an index and another as a text.
    #[error(
        "field `{field}`: label {value} is ambiguous: as an index it means {by_index:?}, as a text {by_text:?}; {cure}"
    )]
    AmbiguousLabel {
        /// The label's field.
        field: String,
        /// What it holds.
        value: String,
        /// The answer by index.
        by_index: String,
        /// The answer by text.
        by_text: String,
        /// What to do.
        cure: &'static str,
    },
    /// Not enough choices.
    #[error("field `{field}`: {found} choices, expected at least 2")]
    FewChoices {
        /// The field.
        field: String,
        /// Number of choices.
        found: usize,
    },
    /// More choices than verbalizers.
    #[error("field `{field}`: {found} choices, but only {verbalizers} verbalizers to answer with")]
    ManyChoices {
        /// The field.
        field: String,
        /// Number of choices.
        found: usize,
        /// Number of verbalizers.
        verbalizers: usize,
    },
    /// Two verbalizers become the same tokens.
    #[error(
        "verbalizers {first:?} and {second:?} become the same tokens {tokens:?}, so the model cannot tell them apart: change one"
    )]
    SameTokens {
        /// The earlier one.
        first: String,
        /// The later one.
        second: String,
        /// Their tokens.
        tokens: Vec<u32>,
    },
    /// Too many tokens.
    #[error(
        "{tokens} tokens with the longest answer, but max_length = {max_length}: raise training.max_length, shorten the template, or set \
         on_long = \"truncate\" or \"drop\" for this task"
    )]
    TooLong {
        /// Tokens of prompt and longest answer.
        tokens: usize,
        /// The limit.
        max_length: usize,
    },
    /// Too many tokens in the answer alone.
    #[error(
        "an answer has {tokens} tokens, which leaves no room for a prompt within max_length = {max_length}: raise training.max_length"
    )]
    LongAnswer {
        /// Tokens of the longest answer.
        tokens: usize,
        /// The limit.
        max_length: usize,
    },
    /// A prompt that becomes no token.
    #[error("the prompt becomes no token: the template needs text before the answer")]
    EmptyPrompt,
    /// An answer that becomes no token.
    #[error("answer {answer:?} becomes no token of its own after this prompt")]
    EmptyAnswer {
        /// The answer's text.
        answer: String,
    },
    /// The tokenizer failed.
    #[error("{0}")]
    Tokenizer(#[from] TokenizerError),
}

/// Names as `a, b, c` for messages.
pub(crate) fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
