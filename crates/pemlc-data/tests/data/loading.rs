//! Data files become examples.

use crate::support::{LIMITS, configs, folder, load, tokenizer, yes_no};
use pemlc_data::{Limits, Request, Template, load_tasks, separated};

const TWO: &str = "{\"text\": \"good\", \"label\": 1}\n\n{\"text\": \"bad\", \"label\": \"no\"}\n";

#[test]
fn prompt_and_answers_are_tokenised_as_one_text() {
    let folder = folder(&[("train.jsonl", TWO), ("validation.jsonl", TWO)]);
    let set = load(folder.path(), &yes_no("")).unwrap();
    let example = &set.tasks[0].train[0];
    let tokenizer = tokenizer();
    assert_eq!(example.text, "T: good A:");
    assert_eq!(example.prompt, tokenizer.encode("T: good A:").unwrap());
    assert_eq!(example.prompt[0], 0, "the beginning-of-sequence token that the post-processor adds");
    assert_eq!(example.answers.concat(), [example.answers[0][0], example.answers[1][0]], "one token each");
    for (answer, text) in example.answers.iter().zip([" no", " yes"]) {
        let whole = tokenizer.encode(&format!("T: good A:{text}")).unwrap();
        assert_eq!([example.prompt.clone(), answer.clone()].concat(), whole);
    }
    assert_eq!((example.gold, set.tasks[0].train[1].gold), (1, 0));
    assert_eq!([&example.id, &set.tasks[0].train[1].id], ["t/train.jsonl:1", "t/train.jsonl:3"]);
    assert_eq!(set.warnings, [""; 0]);
}

#[test]
fn a_request_has_the_tokens_of_the_same_example() {
    let folder = folder(&[("train.jsonl", TWO), ("validation.jsonl", TWO)]);
    let set = load(folder.path(), &yes_no("")).unwrap();
    let task = &set.tasks[0];
    let template = Template::parse(&task.config.template).unwrap();
    let request = |field: &str| {
        let fields = [(field.to_owned(), "good".to_owned())];
        Request::new(&tokenizer(), &template, fields, &[], &task.config.verbalizers)
    };
    let made = request("text").unwrap();
    let example = &task.train[0];
    assert_eq!((&made.text, &made.prompt, &made.answers), (&example.text, &example.prompt, &example.answers));
    assert_eq!(Request::raw(&tokenizer(), "T: good A:".to_owned(), &task.config.verbalizers).unwrap(), made);
    insta::assert_snapshot!(request("sentence").unwrap_err(), @"template names the field `text`, which is not here; the fields are `sentence`");
}

#[test]
fn choices_of_a_request_follow_its_prompt_as_those_of_an_example() {
    let data = "{\"q\": \"Pick\", \"options\": [\"ok\", \"no\"], \"label\": 1}\n";
    let folder = folder(&[("train.jsonl", data), ("validation.jsonl", data)]);
    let base = "[[tasks]]\nname = 't'\ntrain = 'train.jsonl'\nvalidation = 'validation.jsonl'\nchoices = 'options'\n";
    let settings = ["template = '{q}:'", "template = \"{q}\\n\"", "template = '{q}:'\nseparator = '/'"];
    let first = settings.map(|settings| {
        let task = load(folder.path(), &format!("{base}{settings}")).unwrap().tasks.remove(0);
        let (choices, example) = (["ok".to_owned(), "no".to_owned()], &task.train[0]);
        let template = Template::parse(&task.config.template).unwrap();
        let prompt = template.fill([("q".to_owned(), "Pick".to_owned())], &choices).unwrap();
        let answers = separated(&prompt, task.config.separator.as_deref(), &choices);
        let request = Request::raw(&tokenizer(), prompt, &answers).unwrap();
        let found = (&request.text, &request.prompt, &request.answers);
        assert_eq!(found, (&example.text, &example.prompt, &example.answers));
        answers[0].clone()
    });
    assert_eq!(first, [" ok", "ok", "/ok"]);
}

#[test]
fn a_token_over_the_seam_goes_to_the_answers() {
    let folder = folder(&[("train.jsonl", TWO), ("validation.jsonl", TWO)]);
    let toml = yes_no("").replace("A:'", "A: '").replace("' no', ' yes'", "'no', 'yes'");
    let set = load(folder.path(), &toml).unwrap();
    let example = &set.tasks[0].train[0];
    let tokenizer = tokenizer();
    assert_eq!(example.prompt, tokenizer.encode("T: good A:").unwrap(), "without the space");
    assert_eq!(tokenizer.decode(&example.answers[1]).unwrap(), " yes");
    insta::assert_snapshot!(set.warnings.join("\n"), @"task `t`: a token spans the end of the prompt and the answer (first at t/train.jsonl:1), so a program that sends the prompt alone sends other tokens; end the template without white space and begin the answers with it");
}

#[test]
fn csv_tsv_and_json_lines_say_the_same() {
    let folder = folder(&[
        ("a.jsonl", "{\"text\": \"a, \\\"b\\\"\", \"label\": 0}\n{\"text\": \"c\", \"label\": 1}\r\n"),
        ("a.csv", "\u{feff}label,text\n0,\"a, \"\"b\"\"\"\nyes,c\n"),
        ("a.TSV", "text\tlabel\na, \"b\"\tno\nc\t1\n"),
    ]);
    let toml = |extension: &str| {
        yes_no("").replace("train.jsonl", &format!("a.{extension}")).replace("validation.jsonl", "a.jsonl")
    };
    for extension in ["csv", "TSV"] {
        let task = load(folder.path(), &toml(extension)).unwrap().tasks.remove(0);
        for (left, right) in task.train.iter().zip(&task.validation) {
            assert_eq!((&left.text, &left.prompt, left.gold), (&right.text, &right.prompt, right.gold), "{extension}");
        }
        assert_eq!((task.train.len(), task.train[1].id.as_str()), (2, format!("t/a.{extension}:3").as_str()));
    }
}

#[test]
fn choices_are_scored_by_their_text_or_by_letter() {
    let data = "{\"fields\": {\"q\": \"Pick\", \"options\": [\"ok\", \"no\", \"yes\"]}, \"label\": 2}\n\
                {\"fields\": {\"q\": \"Pick\", \"options\": [\"ok\", \"no\"]}, \"label\": \"B\"}\n";
    let folder = folder(&[("train.jsonl", data), ("validation.jsonl", data)]);
    let base = "[[tasks]]\nname = 't'\ntrain = 'train.jsonl'\nvalidation = 'validation.jsonl'\nfields = 'fields'\nchoices = 'options'\n";
    let text = load(folder.path(), &format!("{base}template = '{{q}}'")).unwrap();
    let tokenizer = tokenizer();
    let texts = |index: usize| -> Vec<String> {
        text.tasks[0].train[index].answers.iter().map(|answer| tokenizer.decode(answer).unwrap()).collect()
    };
    assert_eq!(texts(0), [" ok", " no", " yes"]);
    assert_eq!(texts(1), [" ok", " no"]);
    assert_eq!(text.tasks[0].train.iter().map(|example| example.gold).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(text.tasks[0].train[0].answer_chars, [2, 2, 3]);

    let toml = format!("{base}template = \"{{q}}\\n{{choices}}\\n=\"\nverbalizers = [' A', ' B', ' C', ' D']");
    let data = data.replace("\"B\"", "1");
    std::fs::write(folder.path().join("train.jsonl"), &data).unwrap();
    std::fs::write(folder.path().join("validation.jsonl"), &data).unwrap();
    let letters = load(folder.path(), &toml).unwrap();
    assert_eq!(letters.tasks[0].train[0].text, "Pick\nA. ok\nB. no\nC. yes\n=");
    assert_eq!(letters.tasks[0].train.iter().map(|example| example.answers.len()).collect::<Vec<_>>(), [3, 2]);
}

#[test]
fn free_text_ends_with_the_end_of_text_token() {
    let data = "{\"q\": \"2+2\", \"a\": 4}\n";
    let folder = folder(&[("train.jsonl", data), ("validation.jsonl", data)]);
    let toml = "[[tasks]]\nname = 't'\ntrain = 'train.jsonl'\nvalidation = 'validation.jsonl'\ntemplate = '{q} ='\nanswer = 'a'";
    let tokenizer = tokenizer().with_end_of_text(Some(1));
    let set = load_tasks(&configs(toml), folder.path(), &tokenizer, &LIMITS).unwrap();
    let example = &set.tasks[0].validation[0];
    assert_eq!(example.answers.len(), 1);
    assert_eq!(example.answers[0].last(), Some(&1));
    assert_eq!(tokenizer.decode(&example.answers[0]).unwrap(), " 4");
    assert_eq!(set.tasks[0].metric.name(), "exact_match");
}

#[test]
fn pearson_reads_the_score() {
    let data = "{\"text\": \"x\", \"label\": 1, \"similarity\": 0.75}\n";
    let folder = folder(&[("train.jsonl", data), ("validation.jsonl", data)]);
    let set = load(folder.path(), &yes_no("metric = 'pearson'\nscore = 'similarity'")).unwrap();
    assert_eq!(set.tasks[0].train[0].score, Some(0.75));
}

#[test]
fn long_examples_are_truncated_or_dropped_and_counted() {
    let long = "x".repeat(100);
    let data = format!("{TWO}{{\"text\": \"a{long}b\", \"label\": 0}}\n");
    let folder = folder(&[("train.jsonl", &data), ("validation.jsonl", &data)]);

    let set = load(folder.path(), &yes_no("on_long = 'drop'")).unwrap();
    assert_eq!((set.tasks[0].train.len(), set.tasks[0].train_long.dropped), (2, 1));
    insta::assert_snapshot!(set.warnings.join("\n"), @"
task `t`: left out because longer than max_length: 1 training examples
task `t`: left out because longer than max_length: 1 validation examples
");

    let set = load(folder.path(), &yes_no("on_long = 'truncate'")).unwrap();
    let example = &set.tasks[0].train[2];
    assert_eq!(example.length(), 64);
    let text = tokenizer().decode(&example.prompt).unwrap();
    assert!(text.starts_with("T: ax") && text.ends_with("xb A:"), "{text}");
    insta::assert_snapshot!(set.warnings.join("\n"), @"
task `t`: prompts that lost their middle because longer than max_length: 1 training examples
task `t`: prompts that lost their middle because longer than max_length: 1 validation examples
");
}

#[test]
fn limits_take_examples_from_all_over_the_file() {
    let data: String = (0..10).map(|index| format!("{{\"text\": \"{index}\", \"label\": {}}}\n", index / 5)).collect();
    let folder = folder(&[("train.jsonl", &data), ("validation.jsonl", &data)]);
    let limits = Limits { train_limit: Some(4), validation_limit: Some(5), ..LIMITS };
    let set = load_tasks(&configs(&yes_no("validation_limit = 2")), folder.path(), &tokenizer(), &limits).unwrap();
    let ids = |examples: &[pemlc_data::Example]| examples.iter().map(|example| example.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&set.tasks[0].train), ["t/train.jsonl:1", "t/train.jsonl:3", "t/train.jsonl:6", "t/train.jsonl:8"]);
    assert_eq!(ids(&set.tasks[0].validation), ["t/validation.jsonl:1", "t/validation.jsonl:6"], "the task's own limit");
}

#[test]
fn answers_that_begin_alike_are_pointed_out() {
    let folder = folder(&[("train.jsonl", TWO), ("validation.jsonl", TWO)]);
    let toml = yes_no("").replace("' yes'", "' not'");
    let data = TWO.replace("\"no\"", "0");
    std::fs::write(folder.path().join("train.jsonl"), &data).unwrap();
    std::fs::write(folder.path().join("validation.jsonl"), &data).unwrap();
    let set = load(folder.path(), &toml).unwrap();
    insta::assert_snapshot!(set.warnings.join("\n"), @r#"task `t`: the tokens of answer " not" begin with those of " no", so the shorter one can never be the less likely; change one, or set normalize = "tokens""#);
    assert_eq!(load(folder.path(), &format!("{toml}normalize = 'tokens'")).unwrap().warnings, [""; 0]);
}
