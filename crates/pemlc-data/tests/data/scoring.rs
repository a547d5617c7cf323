//! Log-likelihoods are asked for, and become predictions and scores.

use crate::support::{folder, load, yes_no};
use pemlc_data::{Normalize, Task, evaluate_metric, predict, predict_free_text, ranked, scoring_batches, scoring_rows};

const DATA: &str =
    "{\"text\": \"ok\", \"label\": 1}\n{\"text\": \"a longer text\", \"label\": 0}\n{\"text\": \"x\", \"label\": 0}\n";

fn task(toml: &str, data: &str) -> Task {
    let folder = folder(&[("train.jsonl", data), ("validation.jsonl", data)]);
    load(folder.path(), toml).unwrap().tasks.remove(0)
}

#[test]
fn one_token_answers_share_a_row() {
    let task = task(&yes_no(""), DATA);
    let rows = scoring_rows(7, &task, None);
    assert_eq!(rows.len(), 3);
    for row in &rows {
        let example = &task.validation[row.example];
        assert_eq!((row.task, &row.tokens), (7, &example.prompt));
        let asked: Vec<_> = row.queries.iter().map(|query| (query.position, query.token, query.choice)).collect();
        let last = example.prompt.len() - 1;
        assert_eq!(asked, [(last, example.answers[0][0], 0), (last, example.answers[1][0], 1)]);
    }
    assert_eq!(scoring_rows(7, &task, Some(2)).iter().map(|row| row.example).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn answers_that_differ_in_their_last_token_share_a_row() {
    let task = task(&yes_no("").replace("' no', ' yes'", "' 1', ' 2'"), "{\"text\": \"x\", \"label\": 0}\n");
    let rows = scoring_rows(0, &task, None);
    let example = &task.validation[0];
    assert_eq!(example.answers.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2], "a space and a digit");
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].tokens, [&example.prompt[..], &example.answers[0][..1]].concat());
    assert_eq!(rows[0].queries.iter().map(|query| query.choice).collect::<Vec<_>>(), [0, 0, 1, 1]);
}

#[test]
fn longer_answers_have_rows_of_their_own() {
    let task = task(&yes_no("").replace("' no'", "' nok'"), DATA);
    let rows = scoring_rows(0, &task, Some(1));
    let example = &task.validation[0];
    assert_eq!(
        rows.iter().map(|row| row.queries.len()).collect::<Vec<_>>(),
        example.answers.iter().map(Vec::len).collect::<Vec<_>>()
    );
    let (row, answer) = (&rows[0], &example.answers[0]);
    assert_eq!(row.tokens, [&example.prompt[..], &answer[..answer.len() - 1]].concat());
    // Each queried token stands right after the position that predicts it.
    for query in &row.queries[..row.queries.len() - 1] {
        assert_eq!(row.tokens[query.position + 1], query.token);
    }
    assert_eq!(
        row.queries.last().map(|query| (query.position, query.token)),
        Some((row.tokens.len() - 1, answer[answer.len() - 1]))
    );
}

#[test]
fn batches_hold_rows_of_like_length() {
    let task = task(&yes_no(""), DATA);
    let batches = scoring_batches(scoring_rows(3, &task, None), 2);
    assert_eq!(batches.iter().map(|batch| batch.rows.len()).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(batches[0].rows[0].example, 1, "the longest first");
    for batch in &batches {
        assert_eq!(batch.input_ids.len(), batch.rows.len() * batch.length);
        assert_eq!(
            batch.attention_mask.iter().sum::<i64>(),
            batch.rows.iter().map(|row| row.tokens.len() as i64).sum::<i64>()
        );
        assert!(batch.task_ids.iter().all(|&id| id == 3));
    }
}

#[test]
fn the_most_likely_answer_wins() {
    let task = task(&yes_no(""), DATA);
    let example = &task.validation[0];
    let predicted = |logliks: [f64; 2]| predict(&task, example, &logliks).predicted;
    assert_eq!(predicted([-1.0, -0.5]), 1);
    assert_eq!(predicted([-1.0, -1.0]), 0, "the first of equals");
    assert_eq!(predicted([f64::NAN, -9.0]), 1);
    assert_eq!(predicted([f64::NAN, f64::NAN]), 2, "no answer, so never the right one");
    let predictions: Vec<_> = task.validation.iter().map(|example| predict(&task, example, &[-1.0, -2.0])).collect();
    let score = evaluate_metric(&task, &predictions);
    assert_eq!((score.value, score.n), (2.0 / 3.0, 3));
}

#[test]
fn answers_are_ranked_as_the_winner_is_chosen() {
    assert_eq!(ranked(&[-1.0, f64::NAN, -0.5, -1.0]), [2, 0, 3, 1]);
    assert_eq!(ranked(&[-0.0, 0.0]), [0, 1]);
}

#[test]
fn a_normalisation_is_known_by_its_name() {
    for normalize in [Normalize::None, Normalize::Tokens, Normalize::Characters] {
        assert_eq!(serde_json::to_value(normalize).unwrap(), normalize.name());
        assert_eq!(Normalize::from_name(normalize.name()), Some(normalize));
    }
    assert_eq!(Normalize::from_name("words"), None);
}

#[test]
fn length_normalisation_divides_by_tokens_or_characters() {
    let scores = |settings: &str| {
        let task = task(&yes_no(settings).replace("' no'", "' nok'"), DATA);
        assert_eq!(task.validation[0].answers.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1]);
        predict(&task, &task.validation[0], &[-6.0, -4.0]).scores
    };
    assert_eq!(scores(""), [-6.0, -4.0]);
    assert_eq!(scores("normalize = 'tokens'"), [-3.0, -4.0]);
    assert_eq!(scores("normalize = 'characters'"), [-1.5, -1.0]);
}

#[test]
fn pearson_predicts_the_expected_index() {
    let data = "{\"text\": \"ok\", \"label\": 1, \"s\": 0.9}\n";
    let task = task(&yes_no("metric = 'pearson'\nscore = 's'"), data);
    let prediction = predict(&task, &task.validation[0], &[0.25_f64.ln(), 0.75_f64.ln()]);
    assert!((prediction.value.unwrap() - 0.75).abs() < 1e-12);
    assert_eq!(prediction.target, Some(0.9));
    // Far below what exp() can represent, the expectation is still right.
    let prediction = predict(&task, &task.validation[0], &[-5000.0, -5000.0]);
    assert_eq!(prediction.value, Some(0.5));
}

#[test]
fn free_text_is_right_when_greedy_decoding_gives_it() {
    let toml = "[[tasks]]\nname = 't'\ntrain = 'train.jsonl'\nvalidation = 'validation.jsonl'\ntemplate = '{text} ='\nanswer = 'label'";
    let task = task(toml, DATA);
    assert!(task.is_free_text());
    let predictions: Vec<_> = task
        .validation
        .iter()
        .zip([true, false, true])
        .map(|(e, greedy)| predict_free_text(&task, e, -1.0, greedy))
        .collect();
    assert_eq!(evaluate_metric(&task, &predictions).value, 2.0 / 3.0);
}

#[test]
fn predictions_survive_being_written() {
    let task = task(&yes_no(""), DATA);
    let prediction = predict(&task, &task.validation[0], &[-1.5, -0.25]);
    let line = serde_json::to_string(&prediction).unwrap();
    insta::assert_snapshot!(line, @r#"{"id":"t/validation.jsonl:1","scores":[-1.5,-0.25],"predicted":1,"gold":1}"#);
    assert_eq!(serde_json::from_str::<pemlc_data::Prediction>(&line).unwrap(), prediction);
}
