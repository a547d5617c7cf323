//! Graphs beside `model.onnx`, run by tract and ONNX Runtime, against the plain reference forward pass.

#[allow(unreachable_pub, reason = "shared by several test files")]
mod support;

use ndarray::{Array2, ArrayD, IxDyn};
use pemlc_compiler::ExportOptions;
use pemlc_compiler::outputs::Extras;
use pemlc_compiler::passes::{PipelineOptions, Precision};
use pemlc_compiler::target::Target;
use pemlc_runtime::{Inputs, OpenOptions, Padding, RawSession, RawTensor, Row, RuntimeKind, Scorer};
use std::path::{Path, PathBuf};
use support::fixture::{Fixture, PrefixKind, Spec, task_name};
use support::{reference, runtime};

const PROMPTS: [&[i64]; 3] = [&[1, 5, 9, 30, 17, 4], &[1, 7], &[1, 3, 3, 28]];

/// Tasks that differ in ranks, targets and whether they have norms, and a prefix.
fn mixed() -> Spec {
    Spec { private: true, mixed: true, prefix: Some(PrefixKind::Table), ..Spec::default() }
}

fn everything() -> Spec {
    Spec { shared: true, private: true, prefix: Some(PrefixKind::Encoder), ..Spec::default() }
}

/// Answers of several tokens for the first task, of one for the second, of one and two for the third.
fn answers() -> Vec<Vec<Vec<u32>>> {
    vec![vec![vec![5, 6, 7], vec![8, 9]], vec![vec![11], vec![12], vec![13]], vec![vec![20], vec![21, 22]]]
}

/// The sum of log-probabilities of `answer` after `prompt`.
fn log_likelihood(fixture: &Fixture, task: usize, prompt: &[i64], answer: &[u32]) -> f64 {
    let tokens: Vec<i64> = prompt.iter().copied().chain(answer.iter().map(|token| i64::from(*token))).collect();
    let logits = reference::logits(fixture, Some(task), &tokens);
    let of_token = |(offset, token): (usize, &u32)| {
        let row = &logits[prompt.len() - 1 + offset];
        let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = row.iter().map(|logit| (logit - largest).exp()).sum();
        row[*token as usize] - largest - sum.ln()
    };
    answer.iter().enumerate().map(of_token).sum()
}

/// A target and number types, and what logits may differ by in them.
#[derive(Clone, Copy, Default)]
struct Form {
    target: Target,
    precision: Precision,
}

impl Form {
    fn export(self, fixture: &Fixture, extras: Extras) -> PathBuf {
        let pipeline = PipelineOptions { target: self.target, precision: self.precision, ..Default::default() };
        fixture.export_as(ExportOptions { extras, pipeline, ..Default::default() })
    }

    fn kinds(self) -> Vec<RuntimeKind> {
        let lists = [self.precision.runtimes(), self.target.runtimes()];
        let runs_on = |kind: &RuntimeKind| lists.iter().all(|list| list.is_empty() || list.contains(&kind.name()));
        runtime::kinds().into_iter().filter(runs_on).collect()
    }

    fn tolerance(self) -> f64 {
        match self.precision {
            Precision::F32 => 1e-4,
            Precision::F16 => 2e-2,
            _ => 1e-1,
        }
    }

    fn floats(self, array: ArrayD<f32>) -> RawTensor {
        if self.precision == Precision::F16 { RawTensor::F16(array) } else { RawTensor::F32(array) }
    }
}

/// Targets whose operators differ, in each floating-point type.
fn forms() -> impl Iterator<Item = Form> {
    let differ = |target: &Target| ["onnx-23", "onnx-24", "ort-18", "ort-24"].contains(&target.to_string().as_str());
    let floats = [Precision::F32, Precision::F16, Precision::BF16];
    let with = move |target| floats.map(|precision| Form { target, precision });
    Target::all().filter(differ).flat_map(with)
}

fn scorer_agrees(spec: Spec, answers: &[Vec<Vec<u32>>]) {
    scorer_agrees_as(spec, answers, Form::default());
}

fn scorer_agrees_as(spec: Spec, answers: &[Vec<Vec<u32>>], form: Form) {
    let fixture = Fixture::new(spec);
    let out = form.export(&fixture, Extras { scorer: Some(answers.to_vec()), ..Extras::default() });
    let most = answers.iter().map(Vec::len).max().unwrap();
    for kind in form.kinds() {
        let mut scorer = Scorer::open(kind, &out.join("scorer.onnx"), &OpenOptions::default()).unwrap();
        for padding in [Padding::Left, Padding::Right] {
            let mut rows: Vec<Row<'_>> = PROMPTS
                .iter()
                .enumerate()
                .map(|(index, tokens)| Row { tokens, task_id: (index % spec.tasks) as i64 })
                .collect();
            rows.push(Row { tokens: PROMPTS[0], task_id: spec.tasks as i64 });
            let scores = scorer.scores(&rows, 6, padding).unwrap();
            assert_eq!(scores.dim(), (4, most));
            for (index, row) in rows[..3].iter().enumerate() {
                let own = &answers[row.task_id as usize];
                for (number, answer) in own.iter().enumerate() {
                    let expected = log_likelihood(&fixture, row.task_id as usize, row.tokens, answer);
                    let found = f64::from(scores[[index, number]]);
                    let what = format!("{} {kind} {padding:?} {index} {number}", form.target);
                    assert!((found - expected).abs() < form.tolerance(), "{what}: {found} {expected}");
                }
                assert!((own.len()..most).all(|number| scores[[index, number]] == f32::NEG_INFINITY));
            }
            assert!(scores.row(3).iter().all(|score| score.is_nan()), "{kind}: an unknown task has scores");
        }
    }
}

#[test]
fn a_scorer_gives_log_likelihoods_of_longer_answers() {
    scorer_agrees(everything(), &answers());
}

#[test]
fn a_scorer_of_single_tokens_appends_nothing() {
    let answers = vec![vec![vec![5], vec![6]], vec![vec![11], vec![12], vec![13]], vec![vec![20]]];
    scorer_agrees(Spec { private: true, ..Spec::default() }, &answers);
}

/// Logits of a decoder without `task_id`, whose other inputs are `extra`.
fn prefill(
    session: &mut RawSession,
    fixture: &Fixture,
    tokens: &[i64],
    extra: &[(String, ArrayD<f32>)],
    form: Form,
) -> ArrayD<f32> {
    let config = &fixture.config;
    // Two equal rows: a graph for one row only would fail.
    let rows = [Row { tokens, task_id: 0 }, Row { tokens, task_id: 0 }];
    let inputs = Inputs::prefill(&rows, tokens.len(), Padding::Right);
    let integers = |array: Array2<i64>| RawTensor::I64(array.into_dyn());
    let mut feed = vec![
        ("input_ids".to_owned(), integers(inputs.input_ids)),
        ("attention_mask".to_owned(), integers(inputs.attention_mask)),
        ("position_ids".to_owned(), integers(inputs.position_ids)),
    ];
    for layer in 0..config.num_hidden_layers {
        for part in ["key", "value"] {
            let empty = ArrayD::zeros(IxDyn(&[2, config.num_key_value_heads, 0, config.head_dim]));
            feed.push((format!("past_key_values.{layer}.{part}"), form.floats(empty)));
        }
    }
    feed.extend(extra.iter().map(|(name, array)| (name.clone(), RawTensor::F32(array.clone()))));
    let feed: Vec<(&str, RawTensor)> = feed.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
    session.run(&feed, "logits").unwrap()
}

fn assert_reference(logits: &ArrayD<f32>, fixture: &Fixture, task: usize, form: Form, what: &str) {
    let (tokens, tolerance) = (PROMPTS[0], form.tolerance());
    for (position, expected) in reference::logits(fixture, Some(task), tokens).iter().enumerate() {
        for (token, expected) in expected.iter().enumerate() {
            for row in 0..2 {
                let found = f64::from(logits[[row, position, token]]);
                let what = format!("{} {what}, row {row}, position {position}", form.target);
                assert!((found - expected).abs() < tolerance, "{what}: {found} {expected}");
            }
        }
    }
}

#[test]
fn a_graph_of_one_task_needs_no_task_id() {
    one_graph_a_task(everything(), Form::default());
}

#[test]
fn a_graph_of_one_task_has_its_own_norms() {
    one_graph_a_task(mixed(), Form::default());
}

fn one_graph_a_task(spec: Spec, form: Form) {
    let fixture = Fixture::new(spec);
    let out = form.export(&fixture, Extras { per_task: true, task_folders: true, ..Extras::default() });
    for task in 0..3 {
        let name = task_name(task);
        for file in [format!("task.{name}.onnx"), format!("tasks/{name}/onnx/model.onnx")] {
            for kind in form.kinds() {
                let mut session = RawSession::open(kind, &out.join(&file), &OpenOptions::default()).unwrap();
                assert!(!session.inputs().iter().any(|input| input == "task_id"));
                let logits = prefill(&mut session, &fixture, PROMPTS[0], &[], form);
                assert_reference(&logits, &fixture, task, form, &format!("{kind} {file}"));
            }
        }
        for file in ["config.json", "tokenizer.json", "genai_config.json", "onnx/model.onnx_data"] {
            assert!(out.join("tasks").join(&name).join(file).is_file(), "{file}");
        }
    }
}

/// Reads an adapter file with nothing of the writer's code: names, shapes and values in the flatbuffer.
fn read_adapter(path: &Path) -> Vec<(String, ArrayD<f32>)> {
    let file = std::fs::read(path).unwrap();
    let u32_at = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap()) as usize;
    let field = |table: usize, slot: usize| {
        let vtable =
            (table as i64 - i64::from(i32::from_le_bytes(file[table..table + 4].try_into().unwrap()))) as usize;
        table + usize::from(u16::from_le_bytes(file[vtable + slot..vtable + slot + 2].try_into().unwrap()))
    };
    let follow = |at: usize| at + u32_at(at);
    let root = follow(0);
    let parameters = follow(field(root, 10));
    (0..u32_at(parameters))
        .map(|index| {
            let table = follow(parameters + 4 + 4 * index);
            let (name, dims, raw) = (follow(field(table, 4)), follow(field(table, 6)), follow(field(table, 10)));
            let name = String::from_utf8(file[name + 4..name + 4 + u32_at(name)].to_vec()).unwrap();
            let dim = |i: usize| u32_at(dims + 4 + 8 * i);
            let shape: Vec<usize> = (0..u32_at(dims)).map(dim).collect();
            let values = file[raw + 4..raw + 4 + u32_at(raw)].chunks_exact(4);
            let values = values.map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
            (name, ArrayD::from_shape_vec(IxDyn(&shape), values).unwrap())
        })
        .collect()
}

#[test]
fn adapters_fill_the_inputs_of_one_graph() {
    adapters_fill_inputs(everything(), Form::default());
}

#[test]
fn adapters_have_norms_of_their_own() {
    adapters_fill_inputs(mixed(), Form::default());
}

fn adapters_fill_inputs(spec: Spec, form: Form) {
    let fixture = Fixture::new(spec);
    let out = form.export(&fixture, Extras { ort_adapters: true, ..Extras::default() });
    // tract takes the defaults of inputs for constants.
    for kind in form.kinds().into_iter().filter(|kind| *kind != RuntimeKind::Tract) {
        let mut session = RawSession::open(kind, &out.join("adapters.onnx"), &OpenOptions::default()).unwrap();
        for task in 0..3 {
            let adapter = read_adapter(&out.join(format!("onnx_adapters/{}.onnx_adapter", task_name(task))));
            let logits = prefill(&mut session, &fixture, PROMPTS[0], &adapter, form);
            assert_reference(&logits, &fixture, task, form, &format!("{kind}, adapter {task}"));
        }
        let logits = prefill(&mut session, &fixture, PROMPTS[0], &[], form);
        assert!(logits.iter().all(|logit| logit.is_nan()), "{kind}: the base model answers without an adapter");
    }
}

#[test]
fn without_anything_of_its_own_a_task_has_no_adapter() {
    let fixture = Fixture::new(Spec { shared: true, ..Spec::default() });
    let options = ExportOptions { extras: Extras { ort_adapters: true, ..Extras::default() }, ..Default::default() };
    let out = fixture.folder.path().join("out");
    let error = pemlc_compiler::export(&fixture.run(), None, &out, &options, &mut |_| {}).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no task has a delta or prefix of its own, so adapter files would be empty: leave out ort-adapters"
    );
    assert!(!out.exists());
}

#[test]
fn a_scorer_for_every_target() {
    forms().for_each(|form| scorer_agrees_as(everything(), &answers(), form));
}

#[test]
fn graphs_of_one_task_for_every_target() {
    forms().for_each(|form| one_graph_a_task(everything(), form));
}

#[test]
fn a_graph_for_adapters_for_every_target() {
    forms().for_each(|form| adapters_fill_inputs(everything(), form));
}
