//! Prompt templates: `Review: {sentence}\nSentiment:`.

use crate::error::RowProblem;
use crate::record::Record;
use serde_json::Value;

/// A parsed template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Field(String),
    Choices,
}

/// Why a template does not parse. Columns count characters from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// `{` without `}`.
    #[error("`{{` at character {at} has no `}}`: close it, or write `{{{{` for a brace")]
    Unclosed {
        /// Position of the brace.
        at: usize,
    },
    /// `}` without `{`.
    #[error("`}}` at character {at} has no `{{`: write `}}}}` for a brace")]
    Unopened {
        /// Position of the brace.
        at: usize,
    },
    /// `{}` or a name that no field can have.
    #[error("`{{{name}}}` at character {at} does not name a field: write {{field}}, or `{{{{` for a brace")]
    BadName {
        /// Position of the brace.
        at: usize,
        /// What was between the braces.
        name: String,
    },
    /// The template has no text.
    #[error("the template is empty")]
    Empty,
}

impl Template {
    /// Parses a template.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        if text.is_empty() {
            return Err(TemplateError::Empty);
        }
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut characters = text.chars().enumerate().map(|(index, c)| (index + 1, c)).peekable();
        while let Some((at, character)) = characters.next() {
            match character {
                '{' | '}' if characters.peek().is_some_and(|&(_, next)| next == character) => {
                    literal.push(character);
                    characters.next();
                }
                '}' => return Err(TemplateError::Unopened { at }),
                '{' => {
                    let mut name = String::new();
                    loop {
                        match characters.next() {
                            Some((_, '}')) => break,
                            Some((_, '{')) | None => return Err(TemplateError::Unclosed { at }),
                            Some((_, c)) => name.push(c),
                        }
                    }
                    if name.trim().is_empty() || name.trim() != name {
                        return Err(TemplateError::BadName { at, name });
                    }
                    if !literal.is_empty() {
                        pieces.push(Piece::Text(std::mem::take(&mut literal)));
                    }
                    pieces.push(if name == "choices" { Piece::Choices } else { Piece::Field(name) });
                }
                other => literal.push(other),
            }
        }
        if !literal.is_empty() {
            pieces.push(Piece::Text(literal));
        }
        Ok(Self { pieces })
    }

    /// Names of the fields, in order of appearance, `{choices}` left out.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Field(name) => Some(name.as_str()),
            Piece::Text(_) | Piece::Choices => None,
        })
    }

    /// Whether `{choices}` appears.
    pub fn shows_choices(&self) -> bool {
        self.pieces.contains(&Piece::Choices)
    }

    /// The prompt of one request from outside a data file. `choices` are its candidates.
    ///
    /// # Errors
    /// When it names a field that is not in `fields` or is empty.
    pub fn fill(
        &self,
        fields: impl IntoIterator<Item = (String, String)>,
        choices: &[String],
    ) -> Result<String, RowProblem> {
        let line = fields.into_iter().map(|(name, text)| (name, Value::String(text))).collect();
        self.render(&Record::new(line, None)?, choices)
    }

    /// The text for one record. `choices` are its candidates, as texts.
    pub(crate) fn render(&self, record: &Record, choices: &[String]) -> Result<String, RowProblem> {
        let mut text = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(literal) => text.push_str(literal),
                Piece::Field(name) => text.push_str(&record.text("template", name)?),
                Piece::Choices => {
                    for (index, choice) in choices.iter().enumerate() {
                        if index > 0 {
                            text.push('\n');
                        }
                        text.push_str(&letter(index));
                        text.push_str(". ");
                        text.push_str(choice);
                    }
                }
            }
        }
        Ok(text)
    }
}

/// `A`, `B`, ..., `Z`, then `27`, `28`, ...
pub(crate) fn letter(index: usize) -> String {
    match u8::try_from(index) {
        Ok(small) if small < 26 => char::from(b'A' + small).to_string(),
        _ => (index + 1).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Record;
    use proptest::prelude::*;

    fn record(json: &str) -> Record {
        Record::from_json(json, None).unwrap()
    }

    fn render(template: &str, json: &str) -> String {
        Template::parse(template).unwrap().render(&record(json), &["red".to_owned(), "blue".to_owned()]).unwrap()
    }

    #[test]
    fn fields_choices_and_escapes() {
        assert_eq!(render("Q: {q}\n{choices}\nA:", r#"{"q": "Which?"}"#), "Q: Which?\nA. red\nB. blue\nA:");
        assert_eq!(render("{{{q}}} {{}}", r#"{"q": 3}"#), "{3} {}");
        assert_eq!(render("{a b}", r#"{"a b": true}"#), "true");
        assert_eq!(render("{q}{q}", r#"{"q": "{q}"}"#), "{q}{q}");
    }

    #[test]
    fn errors_say_where() {
        let message = |text: &str| Template::parse(text).unwrap_err().to_string();
        insta::assert_snapshot!(message("Text: {sentence"), @"`{` at character 7 has no `}`: close it, or write `{{` for a brace");
        insta::assert_snapshot!(message("é {a{b}"), @"`{` at character 3 has no `}`: close it, or write `{{` for a brace");
        insta::assert_snapshot!(message("a } b"), @"`}` at character 3 has no `{`: write `}}` for a brace");
        insta::assert_snapshot!(message("a {} b"), @"`{}` at character 3 does not name a field: write {field}, or `{{` for a brace");
        insta::assert_snapshot!(message("{ a}"), @"`{ a}` at character 1 does not name a field: write {field}, or `{{` for a brace");
        insta::assert_snapshot!(message(""), @"the template is empty");
    }

    #[test]
    fn letters_run_out_gracefully() {
        assert_eq!([0, 25, 26].map(letter), ["A", "Z", "27"]);
    }

    proptest! {
        #[test]
        fn any_text_survives_escaping(text in "\\PC{1,40}") {
            let escaped = text.replace('{', "{{").replace('}', "}}");
            prop_assert_eq!(render(&escaped, "{}"), text);
        }

        #[test]
        fn any_value_is_inserted_as_it_is(before in "[a-z \n]{0,10}", value in "\\PC{1,20}", after in "[a-z \n]{0,10}") {
            let json = serde_json::json!({ "field": value }).to_string();
            prop_assume!(!value.trim().is_empty());
            prop_assert_eq!(render(&format!("{before}{{field}}{after}"), &json), format!("{before}{value}{after}"));
        }

        #[test]
        fn never_panics(text in "[{}a é]{0,20}") {
            let _ = Template::parse(&text);
        }
    }
}
