//! Exported graphs, run by tract and ONNX Runtime, against the plain reference forward pass.

#[allow(unreachable_pub, reason = "shared by several test files")]
mod support;

use ndarray::{Array1, Array2, s};
use pemlc_artifact::Family;
use pemlc_compiler::ExportOptions;
use pemlc_compiler::ir::Encoding;
use pemlc_compiler::passes::{LowerTaskSwitch, Lowering, PipelineOptions, Precision};
use pemlc_compiler::target::{Operators, Opset, Target};
use pemlc_runtime::{Inputs, Outputs, Padding, Row, RuntimeKind, Session};
use support::fixture::{Fixture, PrefixKind, Spec};
use support::{reference, runtime};

const TOLERANCE: f64 = 1e-4;

const ROWS: [&[i64]; 3] = [&[1, 5, 9, 30, 17, 4], &[1, 7], &[1, 3, 3, 28]];

/// Largest difference of row `row`'s logits at `start..` from the reference.
fn difference(outputs: &Outputs, row: usize, start: usize, expected: &[Vec<f64>]) -> f64 {
    let mut largest = 0.0f64;
    for (position, expected) in expected.iter().enumerate() {
        for (token, expected) in expected.iter().enumerate() {
            let difference = (f64::from(outputs.logits[[row, start + position, token]]) - expected).abs();
            assert!(difference.is_finite(), "row {row}, position {position}, token {token}");
            largest = largest.max(difference);
        }
    }
    largest
}

fn mixed_rows(tasks: usize) -> Vec<Row<'static>> {
    let row = |(index, tokens): (usize, &&'static [i64])| Row { tokens, task_id: ((index + 1) % tasks) as i64 };
    ROWS.iter().enumerate().map(row).collect()
}

fn mixed_batches_match(fixture: &Fixture, session: &mut dyn Session, tasks: usize, tolerance: f64) {
    for padding in [Padding::Right, Padding::Left] {
        let rows = mixed_rows(tasks);
        let outputs = session.run(&Inputs::prefill(&rows, 6, padding)).unwrap();
        for (index, row) in rows.iter().enumerate() {
            let start = if padding == Padding::Left { 6 - row.tokens.len() } else { 0 };
            let expected = reference::logits(fixture, Some(row.task_id as usize), row.tokens);
            let difference = difference(&outputs, index, start, &expected);
            assert!(difference <= tolerance, "{:?} {padding:?} row {index}: {difference}", session.kind());
        }
    }
}

/// Two tokens, then two more from the cache, then one: as one run over all.
fn cached_decode_matches(fixture: &Fixture, session: &mut dyn Session, tasks: usize, tolerance: f64) {
    let tokens: [i64; 5] = [1, 9, 4, 30, 2];
    let task = tasks - 1;
    let expected = reference::logits(fixture, Some(task), &tokens);
    let first = Inputs::prefill(&[Row { tokens: &tokens[..2], task_id: task as i64 }], 2, Padding::Right);
    let mut mask = first.attention_mask.clone();
    let mut outputs = session.run(&first).unwrap();
    let mut largest = difference(&outputs, 0, 0, &expected[..2]);
    for (start, end) in [(2, 4), (4, 5)] {
        let new = Array2::from_shape_vec((1, end - start), tokens[start..end].to_vec()).unwrap();
        let next = Inputs::continued(&mask, new, Array1::from_elem(1, task as i64), outputs.present);
        mask = next.attention_mask.clone();
        outputs = session.run(&next).unwrap();
        largest = largest.max(difference(&outputs, 0, 0, &expected[start..end]));
    }
    assert!(largest <= tolerance, "{:?}: {largest}", session.kind());
}

/// Rows whose id is no task's are NaN through and through; their neighbours do not notice.
fn unknown_tasks_answer_nan(fixture: &Fixture, session: &mut dyn Session, tasks: usize, tolerance: f64) {
    for bad in [-1, tasks as i64, i64::MIN, i64::MAX] {
        let rows = [Row { tokens: ROWS[0], task_id: 0 }, Row { tokens: ROWS[0], task_id: bad }];
        let outputs = session.run(&Inputs::prefill(&rows, 6, Padding::Right)).unwrap();
        let all_nan = |values: ndarray::ArrayViewD<'_, f32>| values.iter().all(|value| value.is_nan());
        assert!(all_nan(outputs.logits.slice(s![1, .., ..]).into_dyn()), "{:?}: task {bad}", session.kind());
        for present in &outputs.present {
            assert!(all_nan(present.key.slice(s![1, .., .., ..]).into_dyn()), "{:?}: task {bad}", session.kind());
            assert!(all_nan(present.value.slice(s![1, .., .., ..]).into_dyn()), "{:?}: task {bad}", session.kind());
        }
        let expected = reference::logits(fixture, Some(0), ROWS[0]);
        assert!(difference(&outputs, 0, 0, &expected) <= tolerance);
    }
}

fn agrees(spec: Spec) {
    agrees_as(spec, PipelineOptions::default(), TOLERANCE);
}

fn in_precision(precision: Precision) -> PipelineOptions {
    PipelineOptions { precision, ..Default::default() }
}

fn agrees_as(spec: Spec, pipeline: PipelineOptions, tolerance: f64) {
    let fixture = Fixture::new(spec);
    let precision = pipeline.precision;
    let out = fixture.export_as(ExportOptions { pipeline: pipeline.clone(), ..Default::default() });
    let weights = pemlc_compiler::inspect(&out.join("model.onnx")).unwrap();
    let holds = |dtype: &str| weights.contains(&format!("q_proj.weight: {dtype}["));
    let whole = spec.whole.map(|encoding| if encoding == Encoding::Nibbles { "u8" } else { encoding.name() });
    let stored = match whole {
        Some(dtype) => weights.contains(&format!("q_proj.weight.values: {dtype}[")),
        None => holds(precision.name()),
    };
    assert!(stored, "the weights are not {}", precision.name());
    let known = [precision.runtimes(), pipeline.target.runtimes()];
    let runs_on = |kind: RuntimeKind| known.iter().all(|known| known.is_empty() || known.contains(&kind.name()));
    for mut session in runtime::sessions_on(&out, runs_on) {
        mixed_batches_match(&fixture, session.as_mut(), spec.tasks, tolerance);
        cached_decode_matches(&fixture, session.as_mut(), spec.tasks, tolerance);
        unknown_tasks_answer_nan(&fixture, session.as_mut(), spec.tasks, tolerance);
    }
    // The reference itself must see what was trained, or all of the above could hold of the base model.
    let base = reference::logits(&fixture, None, ROWS[0]);
    for task in 0..spec.tasks {
        let adapted = reference::logits(&fixture, Some(task), ROWS[0]);
        let changed =
            base.iter().flatten().zip(adapted.iter().flatten()).any(|(base, adapted)| (base - adapted).abs() > 0.01);
        assert!(changed, "task {task} is the base model");
    }
}

#[test]
fn a_prefix_of_rows() {
    agrees(Spec { prefix: Some(PrefixKind::Table), ..Spec::default() });
}

#[test]
fn a_prefix_that_all_tasks_share() {
    agrees(Spec { prefix: Some(PrefixKind::Table), prefix_per_task: false, ..Spec::default() });
}

#[test]
fn a_frozen_encoder() {
    agrees(Spec { prefix: Some(PrefixKind::Encoder), ..Spec::default() });
}

#[test]
fn soft_prompts_stand_in_front_of_the_tokens() {
    let prefix = Some(PrefixKind::SoftPrompts);
    agrees(Spec { tasks: 2, prefix, ..Spec::default() });
    agrees(Spec { prefix, prefix_per_task: false, family: Family::Qwen2, tied: false, ..Spec::default() });
}

/// Every task's prompt passes through its own deltas; the third task has none.
#[test]
fn soft_prompts_pass_through_deltas() {
    let prefix = Some(PrefixKind::SoftPrompts);
    agrees(Spec { shared: true, private: true, prefix, ..Spec::default() });
    agrees(Spec { tasks: 4, private: true, mixed: true, prefix, ..Spec::default() });
    agrees(Spec { family: Family::Qwen2, shared: true, magnitudes: true, private: true, prefix, ..Spec::default() });
}

/// One prompt comes to rows of each task's own.
#[test]
fn a_shared_soft_prompt_passes_through_each_tasks_deltas() {
    agrees(Spec { private: true, prefix: Some(PrefixKind::SharedSoftPrompt), ..Spec::default() });
}

#[test]
fn hidden_states_become_rows() {
    let family = Family::Qwen2;
    let prefix = Some(PrefixKind::Hidden);
    agrees(Spec { family, shared: true, private: true, prefix, ..Spec::default() });
    agrees(Spec { shared: true, prefix, prefix_per_task: false, ..Spec::default() });
    agrees(Spec { family, private: true, prefix: Some(PrefixKind::SharedHidden), ..Spec::default() });
}

/// A run without the trainer's rows has those of the compiler.
#[test]
fn soft_prompts_alone_are_enough() {
    let fixture =
        Fixture::new(Spec { tasks: 2, private: true, prefix: Some(PrefixKind::SoftPrompts), ..Spec::default() });
    std::fs::remove_file(fixture.run().join("prompt/prefix.safetensors")).unwrap();
    let out = fixture.export();
    for mut session in runtime::sessions_on(&out, |_| true) {
        mixed_batches_match(&fixture, session.as_mut(), 2, TOLERANCE);
    }
}

#[test]
fn a_shared_delta_alone() {
    agrees(Spec { shared: true, tied: false, ..Spec::default() });
}

#[test]
fn magnitudes_of_a_shared_delta() {
    agrees(Spec { shared: true, magnitudes: true, ..Spec::default() });
    let family = Family::Qwen2;
    agrees(Spec { family, shared: true, magnitudes: true, private: true, ..Spec::default() });
}

#[test]
fn private_deltas_alone() {
    agrees(Spec { private: true, ..Spec::default() });
}

#[test]
fn private_deltas_of_mixed_ranks_and_targets_with_magnitudes_of_some() {
    let prefix = Some(PrefixKind::Table);
    agrees(Spec { tasks: 4, private: true, mixed: true, prefix, ..Spec::default() });
    agrees(Spec { family: Family::Qwen2, tasks: 1, private: true, mixed: true, ..Spec::default() });
}

#[test]
fn shared_and_private_deltas_and_a_frozen_encoder() {
    agrees(Spec { shared: true, private: true, prefix: Some(PrefixKind::Encoder), ..Spec::default() });
}

#[test]
fn biases_of_qwen2() {
    agrees(Spec {
        family: Family::Qwen2,
        tied: false,
        shared: true,
        private: true,
        prefix: Some(PrefixKind::Table),
        ..Spec::default()
    });
}

#[test]
fn a_single_task() {
    agrees(Spec { tasks: 1, private: true, prefix: Some(PrefixKind::Encoder), ..Spec::default() });
}

fn everything() -> Spec {
    let prefix = Some(PrefixKind::Encoder);
    Spec { family: Family::Qwen2, tied: false, shared: true, private: true, prefix, ..Spec::default() }
}

/// Logits of the fixture are below 5; f16 keeps eleven bits.
#[test]
fn products_and_cache_in_f16() {
    agrees_as(everything(), in_precision(Precision::F16), 2e-2);
}

/// bf16 keeps eight bits of each weight.
#[test]
fn weights_stored_in_bf16() {
    agrees_as(everything(), in_precision(Precision::BF16), 1e-1);
}

/// What whole numbers hold exactly is not changed by holding it so: the graph must give the reference's logits as in f32.
#[test]
fn weights_in_whole_numbers() {
    // A shared delta is merged into eight bits, where it is rounded; beside four bits it stays as it is.
    let spec = |encoding| Spec { shared: encoding != Encoding::U8, whole: Some(encoding), ..everything() };
    let options = |precision, operators, opset| PipelineOptions {
        precision,
        target: Target { operators, opset },
        ..Default::default()
    };
    let (onnx, ort) = (Operators::Standard, Operators::Ort);
    for (encoding, options) in [
        (Encoding::U8, options(Precision::Int8, onnx, Opset::V18)),
        (Encoding::U4, options(Precision::Int4, onnx, Opset::V21)),
        (Encoding::Nibbles, options(Precision::Int4, ort, Opset::V18)),
    ] {
        agrees_as(spec(encoding), options.clone(), TOLERANCE);
        agrees_as(Spec { tied: true, family: Family::Llama, ..spec(encoding) }, options, TOLERANCE);
    }
}

#[test]
fn every_lowering_of_private_deltas() {
    for lowering in Lowering::ALL.into_iter().filter(|lowering| *lowering != Lowering::Scalar) {
        let switch = LowerTaskSwitch { lowering, ..Default::default() };
        let options = PipelineOptions { switch, ..Default::default() };
        agrees_as(everything(), options.clone(), TOLERANCE);
        let options = PipelineOptions { precision: Precision::F16, ..options };
        agrees_as(everything(), options, 2e-2);
    }
}

fn lowered(lowering: Lowering) -> ExportOptions {
    let switch = LowerTaskSwitch { lowering, ..Default::default() };
    ExportOptions { pipeline: PipelineOptions { switch, ..Default::default() }, ..Default::default() }
}

#[test]
fn every_lowering_of_mixed_ranks_and_targets() {
    for lowering in Lowering::ALL.into_iter().filter(|lowering| *lowering != Lowering::Scalar) {
        let prefix = Some(PrefixKind::Table);
        let spec = Spec { tasks: 4, private: true, mixed: true, prefix, ..Spec::default() };
        agrees_as(spec, lowered(lowering).pipeline, TOLERANCE);
    }
}

/// Rows of the first row's task are answered, others are NaN with their cache, and so are unknown ids.
#[test]
fn a_batch_of_one_task() {
    let specs = [everything(), Spec { tasks: 4, private: true, mixed: true, ..Spec::default() }];
    for spec in specs {
        let fixture = Fixture::new(spec);
        let out = fixture.export_as(lowered(Lowering::Scalar));
        assert!(pemlc_artifact::artifact::ArtifactManifest::read(&out).unwrap().one_task_per_batch);
        for mut session in runtime::sessions_on(&out, |_| true) {
            cached_decode_matches(&fixture, session.as_mut(), spec.tasks, TOLERANCE);
            unknown_tasks_answer_nan(&fixture, session.as_mut(), spec.tasks, TOLERANCE);
            for first in 0..spec.tasks {
                let row = |tokens, task: usize| Row { tokens, task_id: (task % spec.tasks) as i64 };
                let rows = [row(ROWS[1], first), row(ROWS[0], first + 1), row(ROWS[2], first)];
                let outputs = session.run(&Inputs::prefill(&rows, 6, Padding::Left)).unwrap();
                for index in [0, 2] {
                    let (tokens, start) = (rows[index].tokens, 6 - rows[index].tokens.len());
                    let expected = reference::logits(&fixture, Some(first), tokens);
                    assert!(difference(&outputs, index, start, &expected) <= TOLERANCE, "{:?}", session.kind());
                }
                assert!(outputs.logits.slice(s![1, .., ..]).iter().all(|logit| logit.is_nan()), "{:?}", session.kind());
            }
            // An unknown id in the first row leaves no task for the others.
            let rows = [Row { tokens: ROWS[0], task_id: -1 }, Row { tokens: ROWS[0], task_id: 0 }];
            let outputs = session.run(&Inputs::prefill(&rows, 6, Padding::Right)).unwrap();
            assert!(outputs.logits.iter().all(|logit| logit.is_nan()), "{:?}", session.kind());
        }
    }
}

/// The last task is the base model as it was before anything was trained, whatever was.
#[test]
fn the_base_model_as_a_task() {
    let table = Some(PrefixKind::Table);
    let specs = [
        Spec { shared: true, prefix: table, ..Spec::default() },
        Spec { shared: true, prefix: table, prefix_per_task: false, ..Spec::default() },
        Spec { shared: true, magnitudes: true, private: true, family: Family::Qwen2, ..Spec::default() },
        Spec { private: true, mixed: true, ..Spec::default() },
        Spec { tasks: 1, private: true, ..Spec::default() },
    ];
    for (spec, lowering) in specs.into_iter().zip([
        Lowering::ByCost,
        Lowering::Gather,
        Lowering::ByCost,
        Lowering::Appended,
        Lowering::Masked,
    ]) {
        let fixture = Fixture::new(spec);
        let out = fixture.export_as(ExportOptions { include_base: true, ..lowered(lowering) });
        for mut session in runtime::sessions_on(&out, |_| true) {
            mixed_batches_match(&fixture, session.as_mut(), spec.tasks, TOLERANCE);
            unknown_tasks_answer_nan(&fixture, session.as_mut(), spec.tasks + 1, TOLERANCE);
            let rows = [Row { tokens: ROWS[0], task_id: 0 }, Row { tokens: ROWS[0], task_id: spec.tasks as i64 }];
            let outputs = session.run(&Inputs::prefill(&rows, 6, Padding::Right)).unwrap();
            for (row, task) in [Some(0), None].into_iter().enumerate() {
                let found = difference(&outputs, row, 0, &reference::logits(&fixture, task, ROWS[0]));
                assert!(found <= TOLERANCE, "{spec:?} {:?} {task:?}: {found}", session.kind());
            }
        }
    }
}

/// What is left out moves logits by little, and by more where more is left out; what is recorded is what was left out.
#[test]
fn ranks_that_hardly_count_are_left_out() {
    let spec = Spec { private: true, ..Spec::default() };
    let fixture = Fixture::new(spec);
    let mut found = Vec::new();
    for tolerance in [0.0, 0.2, 0.6] {
        let rank_tolerance = Some(tolerance);
        let out = fixture.export_as(ExportOptions { rank_tolerance, ..lowered(Lowering::Gather) });
        let manifest = pemlc_artifact::artifact::ArtifactManifest::read(&out).unwrap();
        let approximation = manifest.approximation.unwrap();
        for task in &approximation.tasks {
            assert!(task.relative_error <= tolerance, "{task:?}");
            assert_eq!(task.kept < task.ranks, tolerance > 0.0, "{task:?}");
        }
        let mut session = runtime::sessions_on(&out, |_| true).remove(0);
        let outputs = session.run(&Inputs::prefill(&mixed_rows(3), 6, Padding::Right)).unwrap();
        let of_row = |(index, row): (usize, Row<'_>)| {
            difference(&outputs, index, 0, &reference::logits(&fixture, Some(row.task_id as usize), row.tokens))
        };
        found.push(mixed_rows(3).into_iter().enumerate().map(of_row).fold(0.0, f64::max));
    }
    assert!(found[0] <= TOLERANCE && found[0] < found[1] && found[1] < found[2], "{found:?}");
}

#[test]
fn a_tolerance_that_is_none_is_refused() {
    let fixture = Fixture::new(Spec { private: true, ..Spec::default() });
    for tolerance in [-0.1, 1.0, f64::NAN] {
        let options = ExportOptions { rank_tolerance: Some(tolerance), ..Default::default() };
        let out = fixture.folder.path().join("refused");
        let error = pemlc_compiler::export(&fixture.run(), None, &out, &options, &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains("is not between 0 and 1"), "{error}");
        assert!(!out.exists());
    }
}
#[test]
fn every_target_in_f32() {
    for target in Target::all() {
        agrees_as(everything(), PipelineOptions { target, ..Default::default() }, TOLERANCE);
    }
}

/// Without a prefix the cache alone is what attention reads.
#[test]
fn every_target_without_a_prefix() {
    for target in Target::all() {
        agrees_as(
            Spec { private: true, ..Spec::default() },
            PipelineOptions { target, ..Default::default() },
            TOLERANCE,
        );
    }
}

#[test]
fn every_target_in_f16_and_bf16() {
    for target in Target::all() {
        for (precision, tolerance) in [(Precision::F16, 2e-2), (Precision::BF16, 1e-1)] {
            agrees_as(everything(), PipelineOptions { target, precision, ..Default::default() }, tolerance);
        }
    }
}
