//! Every mistake is found before training, and its message names the file, the line and the field.

use crate::support::{configs, folder, load, yes_no};
use proptest::prelude::*;

const GOOD: &str = "{\"text\": \"good\", \"label\": 1}\n";

/// The message for a training file's text, the folder's name left out.
fn message(settings: &str, train: &str) -> String {
    message_for(&yes_no(settings), &[("train.jsonl", train), ("validation.jsonl", GOOD)])
}

fn message_for(toml: &str, files: &[(&str, &str)]) -> String {
    let folder = folder(files);
    let error = load(folder.path(), toml).unwrap_err().to_string();
    error.replace(&format!("{}/", folder.path().display()), "")
}

#[test]
fn rows() {
    let row = |line: &str| message("", &format!("{GOOD}\n{line}\n"));
    insta::assert_snapshot!(row("{\"text\": \"x\", \"label\": 1"), @"train.jsonl:3: not JSON at column 24: EOF while parsing an object; each line must be one JSON object (task `t`)");
    insta::assert_snapshot!(row("[\"x\", 1]"), @r#"train.jsonl:3: expected a JSON object like {"field": "text"}, found a list (task `t`)"#);
    insta::assert_snapshot!(row("{\"sentence\": \"x\", \"label\": 1}"), @"train.jsonl:3: template names the field `text`, which is not here; the fields are `sentence`, `label` (task `t`)");
    insta::assert_snapshot!(row("{\"text\": \"x\", \"gold\": 1}"), @"train.jsonl:3: label names the field `label`, which is not here; the fields are `text`, `gold` (task `t`)");
    insta::assert_snapshot!(row("{\"text\": \"\", \"label\": 1}"), @"train.jsonl:3: field `text` is empty (task `t`)");
    insta::assert_snapshot!(row("{\"text\": [\"x\"], \"label\": 1}"), @"train.jsonl:3: field `text` is a list, expected a text, number or boolean (task `t`)");
    insta::assert_snapshot!(row("{\"text\": \"x\", \"label\": 2}"), @r#"train.jsonl:3: field `label`: unknown label 2; allowed are 0 to 1, or "no", "yes" (task `t`)"#);
    insta::assert_snapshot!(row("{\"text\": \"x\", \"label\": -1}"), @r#"train.jsonl:3: field `label`: unknown label -1; allowed are 0 to 1, or "no", "yes" (task `t`)"#);
    insta::assert_snapshot!(row("{\"text\": \"x\", \"label\": \"maybe\"}"), @r#"train.jsonl:3: field `label`: unknown label "maybe"; allowed are 0 to 1, or "no", "yes" (task `t`)"#);
    insta::assert_snapshot!(row("{\"text\": \"x\", \"label\": null}"), @r#"train.jsonl:3: field `label`: unknown label null; allowed are 0 to 1, or "no", "yes" (task `t`)"#);
    insta::assert_snapshot!(row(&format!("{{\"text\": \"{}\", \"label\": 1}}", "x".repeat(80))), @r#"train.jsonl:3: 88 tokens with the longest answer, but max_length = 64: raise training.max_length, shorten the template, or set on_long = "truncate" or "drop" for this task (task `t`)"#);
}

#[test]
fn settings_that_data_contradict() {
    insta::assert_snapshot!(message("fields = 'fields'", GOOD), @r#"train.jsonl:1: `fields = "fields"` asks for an object under `fields`, found nothing; the keys are `text`, `label` (task `t`)"#);
    insta::assert_snapshot!(message("choices = 'options'", GOOD), @"train.jsonl:1: choices names the field `options`, which is not here; the fields are `text`, `label` (task `t`)");
    insta::assert_snapshot!(message("choices = 'text'", GOOD), @r#"train.jsonl:1: field `text` is a text, expected a list of texts like ["red", "blue"] (task `t`)"#);
    insta::assert_snapshot!(message("choices = 'o'", "{\"text\": \"x\", \"o\": [\"a\", \"b\", \"c\"], \"label\": 1}"), @"train.jsonl:1: field `o`: 3 choices, but only 2 verbalizers to answer with (task `t`)");
    insta::assert_snapshot!(message("metric = 'pearson'\nscore = 'text'", GOOD), @"train.jsonl:1: field `text` is a text, expected a finite number (task `t`)");
    insta::assert_snapshot!(message("on_long = 'drop'", &format!("{{\"text\": \"{}\", \"label\": 1}}", "x".repeat(80))), @r#"train.jsonl: each of the 1 examples has more than max_length = 64 tokens: raise training.max_length or set on_long = "truncate" (task `t`)"#);
}

#[test]
fn verbalizers() {
    let verbalizers = |list: &str, label: &str| {
        let toml = yes_no("").replace("[' no', ' yes']", list);
        let data = format!("{{\"text\": \"x\", \"label\": {label}}}");
        message_for(&toml, &[("train.jsonl", &data), ("validation.jsonl", GOOD)])
    };
    insta::assert_snapshot!(verbalizers("[' yes']", "0"), @"task `t`: verbalizers: a task needs at least 2 answers to choose from, found 1");
    insta::assert_snapshot!(verbalizers("[' yes', '']", "0"), @"task `t`: verbalizers: number 2 is empty");
    insta::assert_snapshot!(verbalizers("[' yes', ' yes']", "0"), @r#"train.jsonl:1: verbalizers " yes" and " yes" become the same tokens [100], so the model cannot tell them apart: change one (task `t`)"#);
    insta::assert_snapshot!(verbalizers("[]", "0"), @"task `t`: give exactly one of `verbalizers` (a fixed set of answers), `choices` (the field with each example's candidates) or `answer` (the field with a free-text answer); only `verbalizers` with `choices` go together (answer by letter)");
    insta::assert_snapshot!(verbalizers("[' 1', ' 2', ' 3']", "1"), @r#"train.jsonl:1: field `label`: label 1 is ambiguous: as an index it means " 2", as a text " 1"; list the verbalizers in an order where both agree, or write the labels as other texts (task `t`)"#);
}

#[test]
fn files() {
    let file = |name: &str, text: &str| {
        message_for(&yes_no("").replace("train.jsonl", name), &[(name, text), ("validation.jsonl", GOOD)])
    };
    insta::assert_snapshot!(file("a.jsonl", "\n \n"), @"a.jsonl: no example in the file (task `t`)");
    insta::assert_snapshot!(file("a.csv", ""), @"a.csv: no example in the file (task `t`)");
    insta::assert_snapshot!(file("a.csv", "text,label\n"), @"a.csv: no example in the file (task `t`)");
    insta::assert_snapshot!(file("a.csv", "text,label\nx,1\ny\n"), @"a.csv:3: found 1 columns, but the header has 2 (task `t`)");
    insta::assert_snapshot!(file("a.csv", "text,text\nx,1\n"), @"a.csv: line 1: column `text` appears twice in the header (task `t`)");
    insta::assert_snapshot!(file("a.csv", "text,,label\nx,1,1\n"), @"a.csv: line 1: column 2 has no name; the first line must name the columns (task `t`)");
    insta::assert_snapshot!(file("a.csv", "text,label\n\"x\ny\",0\nz,7\n"), @r#"a.csv:4: field `label`: unknown label "7"; allowed are 0 to 1, or "no", "yes" (task `t`)"#);
    insta::assert_snapshot!(file("a.tsv", "text\tlabel\nx\t1\t2\n"), @"a.tsv:2: found 3 columns, but the header has 2 (task `t`)");
    insta::assert_snapshot!(file("a.txt", "x"), @"a.txt: the extension says the format; expected .jsonl, .csv or .tsv (task `t`)");
    insta::assert_snapshot!(message_for(&yes_no(""), &[("validation.jsonl", GOOD)]), @"train.jsonl: cannot read: No such file or directory (os error 2) (task `t`)");
}

#[test]
fn files_that_are_not_utf8() {
    let folder = folder(&[("validation.jsonl", GOOD)]);
    std::fs::write(folder.path().join("train.jsonl"), [GOOD.as_bytes(), b"{\"text\": \"\xff\"}\n"].concat()).unwrap();
    let error = load(folder.path(), &yes_no("")).unwrap_err().to_string();
    assert!(error.ends_with("train.jsonl:2: not UTF-8 text: save the file as UTF-8 (task `t`)"), "{error}");
}

#[test]
fn settings() {
    let setting = |toml: &str| message_for(toml, &[]);
    let replaced = |from: &str, to: &str| setting(&yes_no("").replace(from, to));
    insta::assert_snapshot!(replaced("'t'", "'a/b'"), @"task `a/b`: a task name has 1 to 64 letters, digits, `.`, `_` or `-` and begins with a letter or digit");
    insta::assert_snapshot!(replaced("'t'", "'Shared'"), @"task `Shared`: the name `shared` is taken by the run directory (adapters/shared): choose another");
    insta::assert_snapshot!(setting(&(yes_no("") + &yes_no("").replace("'t'", "'T'"))), @"task `T`: another task is named `t`: names must differ by more than case");
    insta::assert_snapshot!(replaced("{text}", "{text"), @"task `t`: template: `{` at character 4 has no `}`: close it, or write `{{` for a brace");
    insta::assert_snapshot!(replaced("train.jsonl", "${PEMLC_NO_SUCH_VARIABLE}/train.jsonl"), @r#"task `t`: train: the environment variable PEMLC_NO_SUCH_VARIABLE is not set: set it, or write ${PEMLC_NO_SUCH_VARIABLE:-default} (in "${PEMLC_NO_SUCH_VARIABLE}/train.jsonl")"#);
    insta::assert_snapshot!(setting(&yes_no("answer = 'text'")), @"task `t`: give exactly one of `verbalizers` (a fixed set of answers), `choices` (the field with each example's candidates) or `answer` (the field with a free-text answer); only `verbalizers` with `choices` go together (answer by letter)");
    insta::assert_snapshot!(setting(&yes_no("metric = 'exact_match'")), @"task `t`: metric `exact_match` needs `answer`, the field with a free-text answer");
    insta::assert_snapshot!(setting(&yes_no("metric = 'pearson'")), @"task `t`: metric `pearson` needs `verbalizers` (number i stands for the value i - 1) and `score`, the field with the true value");
    insta::assert_snapshot!(setting(&yes_no("score = 'similarity'")), @r#"task `t`: score is read by metric = "pearson" alone: set that metric or remove score"#);
    insta::assert_snapshot!(setting(&yes_no("metric = 'f1'").replace("' no',", "' no', ' maybe',")), @"task `t`: metric `f1` needs exactly 2 verbalizers, the second of which is the positive class");
    insta::assert_snapshot!(setting(&yes_no("train_limit = 0")), @"task `t`: train_limit = 0 leaves no example: remove it or give a positive number");
    insta::assert_snapshot!(setting("tasks = []"), @"the run file has no task: add a [[tasks]] table");
}

#[test]
fn unknown_settings_are_named() {
    let error = toml::from_str::<pemlc_data::TaskConfig>("name = 't'\nverbaliser = ['a']").unwrap_err().to_string();
    assert!(error.contains("unknown field `verbaliser`, expected one of `name`, `train`"), "{error}");
}

#[test]
fn settings_survive_being_written() {
    let tasks = configs(&yes_no("metric = 'f1'\non_long = 'drop'\ntrain_limit = 7"));
    let text = toml::to_string(&tasks[0]).unwrap();
    assert_eq!(toml::from_str::<pemlc_data::TaskConfig>(&text).unwrap(), tasks[0]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the bytes, the readers answer with examples or an error that names the file.
    #[test]
    fn readers_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), format in prop::sample::select(vec!["jsonl", "csv", "tsv"])) {
        let name = format!("a.{format}");
        let folder = folder(&[("validation.jsonl", GOOD)]);
        std::fs::write(folder.path().join(&name), bytes).unwrap();
        match load(folder.path(), &yes_no("").replace("train.jsonl", &name)) {
            Ok(set) => prop_assert!(!set.tasks[0].train.is_empty()),
            Err(error) => prop_assert!(error.to_string().contains(&name)),
        }
    }

    /// CSV quoting and JSON escaping give back the text that went in.
    #[test]
    fn readers_agree_on_any_text(text in "[ -~\n]{1,20}") {
        prop_assume!(!text.trim().is_empty());
        let csv = format!("text,label\n\"{}\",1\n", text.replace('"', "\"\""));
        let json = serde_json::json!({"text": text, "label": 1}).to_string();
        let folder = folder(&[("a.csv", &csv), ("validation.jsonl", &json)]);
        let task = load(folder.path(), &yes_no("").replace("train.jsonl", "a.csv")).unwrap().tasks.remove(0);
        prop_assert_eq!(&task.train[0].text, &format!("T: {text} A:"));
        prop_assert_eq!(&task.train[0].prompt, &task.validation[0].prompt);
    }
}
