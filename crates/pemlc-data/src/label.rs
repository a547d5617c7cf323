//! Which answer a label means.

use crate::error::RowProblem;
use crate::record::{Record, scalar_text};
use crate::template::letter;
use serde_json::Value;

/// The index of the answer that the record's label means.
///
/// A label is an index, or the text of an answer (outer white space apart). Where the answers are the example's own
/// `candidates`, a JSON number is always an index (candidates are often numbers themselves), and `A`, `B`, ... are indices too. A
/// label that means one answer as an index and another as a text is an error: guessing would train on the wrong answers.
pub(crate) fn gold(record: &Record, field: &str, answers: &[String], candidates: bool) -> Result<usize, RowProblem> {
    let value = record.annotation("label", field)?;
    let unknown = || RowProblem::UnknownLabel {
        field: field.to_owned(),
        value: shown(value),
        allowed: allowed(answers, candidates),
    };
    let text = scalar_text(value).ok_or_else(unknown)?;
    let means = |answer: &String| answer == &text || answer.trim() == text.trim();
    let may_be_text = !(candidates && value.is_number());
    let by_text = answers.iter().position(means).filter(|_| may_be_text);
    let by_index = index(value).filter(|&index| index < answers.len());
    let by_letter = || (0..answers.len()).find(|&index| candidates && letter(index) == text.trim());
    match (by_text, by_index) {
        (Some(by_text), Some(by_index)) if !means(&answers[by_index]) => Err(RowProblem::AmbiguousLabel {
            field: field.to_owned(),
            value: shown(value),
            by_index: answers[by_index].clone(),
            by_text: answers[by_text].clone(),
            cure: if candidates {
                "write the label as a JSON number or as a letter"
            } else {
                "list the verbalizers in an order where both agree, or write the labels as other texts"
            },
        }),
        (_, Some(index)) | (Some(index), None) => Ok(index),
        (None, None) => by_letter().ok_or_else(unknown),
    }
}

/// A JSON integer, or a text that is one.
fn index(value: &Value) -> Option<usize> {
    match value {
        Value::Number(number) => match number.as_u64() {
            Some(integer) => usize::try_from(integer).ok(),
            None => {
                number.as_f64().filter(|float| float.fract() == 0.0 && (0.0..1e9).contains(float)).map(|f| f as usize)
            }
        },
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 60 { text } else { text.chars().take(57).chain("...".chars()).collect() }
}

fn allowed(answers: &[String], candidates: bool) -> String {
    let last = answers.len().saturating_sub(1);
    let range = if candidates { format!("0 to {last}, A to {}", letter(last)) } else { format!("0 to {last}") };
    let texts: Vec<String> = answers.iter().take(10).map(|answer| format!("{:?}", answer.trim())).collect();
    let more = if answers.len() > texts.len() { ", ..." } else { "" };
    format!("{range}, or {}{more}", texts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gold_of(label: &str, answers: &[&str], candidates: bool) -> Result<usize, String> {
        let record = Record::from_json(&format!("{{\"label\": {label}}}"), None).unwrap();
        let answers: Vec<String> = answers.iter().map(|&answer| answer.to_owned()).collect();
        gold(&record, "label", &answers, candidates).map_err(|problem| problem.to_string())
    }

    #[test]
    fn a_label_is_an_index_or_a_text() {
        let verbalizers = [" false", " true"];
        for label in ["1", "1.0", "\"1\"", "\"true\"", "\" true\"", "true"] {
            assert_eq!(gold_of(label, &verbalizers, false), Ok(1), "{label}");
        }
        for label in ["2", "0.5", "\"True\"", "\"B\"", "null", "[1]"] {
            assert!(gold_of(label, &verbalizers, false).unwrap_err().contains("unknown label"), "{label}");
        }
        assert_eq!(gold_of("3", &[" 0", " 1", " 2", " 3"], false), Ok(3), "text and index agree");
    }

    #[test]
    fn candidates_may_be_numbers_themselves() {
        let candidates = ["2", "3", "0"];
        assert_eq!(gold_of("2", &candidates, true), Ok(2));
        assert_eq!(gold_of("\"C\"", &candidates, true), Ok(2));
        assert_eq!(gold_of("\"3\"", &candidates, true), Ok(1), "not an index of three");
        insta::assert_snapshot!(gold_of("\"2\"", &candidates, true).unwrap_err(), @r#"field `label`: label "2" is ambiguous: as an index it means "0", as a text "2"; write the label as a JSON number or as a letter"#);
        insta::assert_snapshot!(gold_of("3", &candidates, true).unwrap_err(), @r#"field `label`: unknown label 3; allowed are 0 to 2, A to C, or "2", "3", "0""#);
    }
}
