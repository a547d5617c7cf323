//! One line of a data file, whatever its format.

use crate::error::{RowProblem, list};
use serde_json::{Map, Value};

/// A line's keys, and the nested object that holds its fields, if the task names one.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    line: Map<String, Value>,
    nested: Option<Map<String, Value>>,
}

impl Record {
    /// Parses one line of a JSON-lines file; `fields` is the task's setting of that name.
    pub(crate) fn from_json(text: &str, fields: Option<&str>) -> Result<Self, RowProblem> {
        let value: Value = serde_json::from_str(text).map_err(|error| {
            let whole = error.to_string();
            let message = whole.split(" at line ").next().unwrap_or(&whole).to_owned();
            RowProblem::NotJson { column: error.column(), message }
        })?;
        match value {
            Value::Object(line) => Self::new(line, fields),
            other => Err(RowProblem::NotObject { found: kind(&other) }),
        }
    }

    /// A record of a line's keys and values.
    pub(crate) fn new(mut line: Map<String, Value>, fields: Option<&str>) -> Result<Self, RowProblem> {
        let Some(key) = fields else { return Ok(Self { line, nested: None }) };
        match line.get_mut(key).map(Value::take) {
            Some(Value::Object(nested)) => {
                line.shift_remove(key);
                Ok(Self { line, nested: Some(nested) })
            }
            other => Err(RowProblem::NoFieldsObject {
                key: key.to_owned(),
                found: other.as_ref().map_or("nothing", kind),
                keys: list(line.keys().map(String::as_str)),
            }),
        }
    }

    /// The value of a field that describes the example: looked for among the nested fields, then in the line.
    pub(crate) fn field(&self, setting: &'static str, name: &str) -> Result<&Value, RowProblem> {
        let nested = self.nested.as_ref().and_then(|nested| nested.get(name));
        nested.or_else(|| self.line.get(name)).ok_or_else(|| self.unknown(setting, name))
    }

    /// The value of a field that annotates the example (`label`, `score`): looked for in the line, then among the nested fields.
    pub(crate) fn annotation(&self, setting: &'static str, name: &str) -> Result<&Value, RowProblem> {
        let nested = || self.nested.as_ref().and_then(|nested| nested.get(name));
        self.line.get(name).or_else(nested).ok_or_else(|| self.unknown(setting, name))
    }

    /// A field as text: strings as they are, numbers and booleans as JSON writes them.
    pub(crate) fn text(&self, setting: &'static str, name: &str) -> Result<String, RowProblem> {
        let value = self.field(setting, name)?;
        let text = scalar_text(value).ok_or_else(|| RowProblem::FieldType {
            field: name.to_owned(),
            found: kind(value),
            expected: "a text, number or boolean",
        })?;
        if text.trim().is_empty() {
            return Err(RowProblem::EmptyField { field: name.to_owned() });
        }
        Ok(text)
    }

    /// A list of texts: a JSON array, or a text that is one (as CSV and TSV hold it).
    pub(crate) fn texts(&self, setting: &'static str, name: &str) -> Result<Vec<String>, RowProblem> {
        let value = self.field(setting, name)?;
        let wrong = |value: &Value| RowProblem::FieldType {
            field: name.to_owned(),
            found: kind(value),
            expected: "a list of texts like [\"red\", \"blue\"]",
        };
        let parsed;
        let items = match value {
            Value::Array(items) => items,
            Value::String(text) => {
                parsed = serde_json::from_str::<Vec<Value>>(text).map_err(|_| wrong(value))?;
                &parsed
            }
            other => return Err(wrong(other)),
        };
        let mut texts = Vec::with_capacity(items.len());
        for item in items {
            let text = scalar_text(item).ok_or_else(|| wrong(value))?;
            if text.trim().is_empty() {
                return Err(RowProblem::EmptyField { field: name.to_owned() });
            }
            texts.push(text);
        }
        if texts.len() < 2 {
            return Err(RowProblem::FewChoices { field: name.to_owned(), found: texts.len() });
        }
        Ok(texts)
    }

    /// A finite number: a JSON number, or a text that is one.
    pub(crate) fn number(&self, setting: &'static str, name: &str) -> Result<f64, RowProblem> {
        let value = self.annotation(setting, name)?;
        let number = match value {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        number.filter(|number| number.is_finite()).ok_or_else(|| RowProblem::FieldType {
            field: name.to_owned(),
            found: kind(value),
            expected: "a finite number",
        })
    }

    fn unknown(&self, setting: &'static str, name: &str) -> RowProblem {
        let nested = self.nested.iter().flat_map(Map::keys);
        RowProblem::UnknownField {
            setting,
            field: name.to_owned(),
            fields: list(nested.chain(self.line.keys()).map(String::as_str)),
        }
    }
}

/// A scalar as text; `None` for null, lists and objects.
pub(crate) fn scalar_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// What a JSON value is, for messages.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_from_the_nested_object_and_annotations_from_the_line() {
        let json = r#"{"fields": {"label": "inner", "text": "hello"}, "label": 1, "extra": 2}"#;
        let record = Record::from_json(json, Some("fields")).unwrap();
        assert_eq!(record.text("template", "label").unwrap(), "inner");
        assert_eq!(record.annotation("label", "label").unwrap(), 1);
        assert_eq!(record.text("template", "extra").unwrap(), "2");
    }

    #[test]
    fn a_list_may_be_written_as_text() {
        let record = Record::from_json(r#"{"options": "[\"red\", 2]"}"#, None).unwrap();
        assert_eq!(record.texts("choices", "options").unwrap(), ["red", "2"]);
    }

    #[test]
    fn errors_name_the_field_and_what_exists() {
        let parse = |json: &str, fields| Record::from_json(json, fields).unwrap_err().to_string();
        insta::assert_snapshot!(parse(r#"{"a": 1,}"#, None), @"not JSON at column 9: trailing comma; each line must be one JSON object");
        insta::assert_snapshot!(parse("[1]", None), @r#"expected a JSON object like {"field": "text"}, found a list"#);
        insta::assert_snapshot!(parse(r#"{"a": 1, "b": 2}"#, Some("fields")), @"`fields = \"fields\"` asks for an object under `fields`, found nothing; the keys are `a`, `b`");
        let record = Record::from_json(r#"{"a": " ", "b": null, "c": ["x"], "d": "x", "e": "inf"}"#, None).unwrap();
        insta::assert_snapshot!(record.text("template", "z").unwrap_err(), @"template names the field `z`, which is not here; the fields are `a`, `b`, `c`, `d`, `e`");
        insta::assert_snapshot!(record.text("template", "a").unwrap_err(), @"field `a` is empty");
        insta::assert_snapshot!(record.text("template", "b").unwrap_err(), @"field `b` is null, expected a text, number or boolean");
        insta::assert_snapshot!(record.texts("choices", "c").unwrap_err(), @"field `c`: 1 choices, expected at least 2");
        insta::assert_snapshot!(record.texts("choices", "d").unwrap_err(), @r#"field `d` is a text, expected a list of texts like ["red", "blue"]"#);
        insta::assert_snapshot!(record.number("score", "e").unwrap_err(), @"field `e` is a text, expected a finite number");
    }
}
