//! From a data file to the examples of one split of a task.

use crate::answers;
use crate::config::{AnswerSource, Normalize, TaskConfig};
use crate::error::{DataError, FileProblem, RowProblem, TaskProblem};
use crate::example::Example;
use crate::expand::expand_path;
use crate::label::gold;
use crate::long::{Fate, fit};
use crate::notes::Notes;
use crate::reader::{self, ReadProblem};
use crate::record::Record;
use crate::task::evenly_spaced;
use crate::template::Template;
use crate::tokenizer::Tokenizer;
use std::path::Path;

/// Loads the splits of one task.
pub(crate) struct Loader<'a> {
    pub(crate) config: &'a TaskConfig,
    pub(crate) template: &'a Template,
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) max_length: usize,
    /// The run file's folder.
    pub(crate) base_dir: &'a Path,
}

/// The texts of one example.
struct Texts {
    prompt: String,
    /// As appended to the prompt.
    answers: Vec<String>,
    answer_chars: Vec<usize>,
    gold: usize,
}

impl Loader<'_> {
    /// The examples of a split (`key` is its setting's name), in file order, at most `limit` of them.
    pub(crate) fn split(
        &self,
        key: &'static str,
        path: &str,
        limit: Option<usize>,
    ) -> Result<(Vec<Example>, Notes), DataError> {
        let task = &self.config.name;
        let path = expand_path(path, self.base_dir)
            .map_err(|error| DataError::Task { task: task.clone(), problem: TaskProblem::Path { key, error } })?;
        let mut records =
            reader::read(&path, self.config.fields.as_deref()).map_err(|problem| problem.of(task, &path))?;
        let total = records.len();
        if limit.is_some_and(|limit| limit < total) {
            let mut kept = vec![false; total];
            evenly_spaced(total, limit).for_each(|index| kept[index] = true);
            let mut kept = kept.into_iter();
            records.retain(|_| kept.next().unwrap_or(false));
        }
        let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let (examples, notes) = self.in_parallel(&file, &records).map_err(|problem| problem.of(task, &path))?;
        if examples.is_empty() {
            let problem = FileProblem::AllDropped { examples: records.len(), max_length: self.max_length };
            return Err(ReadProblem::File(problem).of(task, &path));
        }
        Ok((examples, notes))
    }

    /// Tokenising long texts is the slow part, so every core takes a run of lines; the results, and the first error, are in file order.
    fn in_parallel(&self, file: &str, records: &[(u64, Record)]) -> Result<(Vec<Example>, Notes), ReadProblem> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let size = records.len().div_ceil(threads).max(1);
        let parts = std::thread::scope(|scope| {
            let workers: Vec<_> =
                records.chunks(size).map(|part| scope.spawn(move || self.in_order(file, part))).collect();
            let join = |worker: std::thread::ScopedJoinHandle<'_, _>| match worker.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            workers.into_iter().map(join).collect::<Vec<Result<_, ReadProblem>>>()
        });
        let mut examples = Vec::with_capacity(records.len());
        let mut notes = Notes::default();
        for part in parts {
            let (part, later) = part?;
            examples.extend(part);
            notes.add(later);
        }
        Ok((examples, notes))
    }

    fn in_order(&self, file: &str, records: &[(u64, Record)]) -> Result<(Vec<Example>, Notes), ReadProblem> {
        let mut examples = Vec::with_capacity(records.len());
        let mut notes = Notes::default();
        for (line, record) in records {
            let id = format!("{}/{file}:{line}", self.config.name);
            let example = self.example(id, record, &mut notes).map_err(|problem| ReadProblem::Row(*line, problem))?;
            examples.extend(example);
        }
        Ok((examples, notes))
    }

    /// One example; `None` if it is too long and dropped.
    fn example(&self, id: String, record: &Record, notes: &mut Notes) -> Result<Option<Example>, RowProblem> {
        let texts = self.texts(record)?;
        let score = match &self.config.score {
            Some(field) => Some(record.number("score", field)?),
            None => None,
        };
        let mut tokens = answers::tokenize(self.tokenizer, &texts.prompt, &texts.answers)?;
        if self.config.answer.is_some() {
            for answer in &mut tokens.answers {
                let end = self.tokenizer.end_of_text().filter(|end| answer.last() != Some(end));
                answer.extend(end);
            }
        }
        self.compare_answers(&id, &texts, &tokens.answers, notes)?;
        if tokens.merged && notes.merged.is_none() {
            notes.merged = Some(id.clone());
        }
        match fit(&mut tokens, self.max_length, self.config.on_long)? {
            Fate::Fits => {}
            Fate::Truncated => notes.long.truncated += 1,
            Fate::Dropped => {
                notes.long.dropped += 1;
                return Ok(None);
            }
        }
        Ok(Some(Example {
            id,
            prompt: tokens.prompt,
            answers: tokens.answers,
            gold: texts.gold,
            score,
            answer_chars: texts.answer_chars,
            text: texts.prompt,
        }))
    }

    fn texts(&self, record: &Record) -> Result<Texts, RowProblem> {
        let config = self.config;
        let source = config.answer_source(self.template.shows_choices());
        let listed = match source {
            Some(AnswerSource::Letters(field) | AnswerSource::Choices(field)) => record.texts("choices", field)?,
            _ if self.template.shows_choices() => record.texts("choices", config.choices_field())?,
            _ => Vec::new(),
        };
        let prompt = self.template.render(record, &listed)?;
        let separated = |texts: &[String]| answers::separated(&prompt, config.separator.as_deref(), texts);
        let count = |texts: &[String]| texts.iter().map(|text| text.chars().count()).collect();
        let label = |answers: &[String], letters| gold(record, &config.label, answers, letters);
        Ok(match source {
            Some(AnswerSource::FreeText(field)) => {
                let answer = [record.text("answer", field)?];
                Texts { answers: separated(&answer), prompt, answer_chars: count(&answer), gold: 0 }
            }
            Some(AnswerSource::Choices(_)) => {
                let gold = label(&listed, true)?;
                Texts { answers: separated(&listed), prompt, answer_chars: count(&listed), gold }
            }
            Some(AnswerSource::Letters(field)) => {
                let answers = config.verbalizers.get(..listed.len()).ok_or_else(|| RowProblem::ManyChoices {
                    field: field.to_owned(),
                    found: listed.len(),
                    verbalizers: config.verbalizers.len(),
                })?;
                let gold = label(answers, false)?;
                Texts { prompt, answers: answers.to_vec(), answer_chars: count(answers), gold }
            }
            // `check` has refused a task without a source of answers.
            Some(AnswerSource::Verbalizers) | None => {
                let answers = config.verbalizers.clone();
                let gold = label(&answers, false)?;
                Texts { prompt, answer_chars: count(&answers), answers, gold }
            }
        })
    }

    fn compare_answers(
        &self,
        id: &str,
        texts: &Texts,
        tokens: &[Vec<u32>],
        notes: &mut Notes,
    ) -> Result<(), RowProblem> {
        let fixed = !self.config.verbalizers.is_empty();
        if let Some((first, second)) = answers::same(tokens) {
            if fixed {
                return Err(RowProblem::SameTokens {
                    first: texts.answers[first].clone(),
                    second: texts.answers[second].clone(),
                    tokens: tokens[first].clone(),
                });
            }
            notes.same_choices.get_or_insert_with(|| id.to_owned());
        }
        if fixed && notes.prefix.is_none() && self.config.normalize() == Normalize::None {
            notes.prefix = answers::prefix(tokens)
                .map(|(short, long)| (texts.answers[short].clone(), texts.answers[long].clone()));
        }
        Ok(())
    }
}
