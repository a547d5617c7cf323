//! Exported graphs, run by tract and ONNX Runtime, against the plain reference forward pass.

#[allow(unreachable_pub, reason = "shared by several test files")]
mod support;

use ndarray::{Array1, Array2, s};
use pemlc_artifact::Family;
use pemlc_compiler::ExportOptions;
use pemlc_compiler::passes::{LowerTaskSwitch, Lowering, PipelineOptions, Precision};
use pemlc_compiler::target::Target;
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
    let (precision, target) = (pipeline.precision, pipeline.target);
    let out = fixture.export_as(ExportOptions { pipeline, ..Default::default() });
    let weights = pemlc_compiler::inspect(&out.join("model.onnx")).unwrap();
    let holds = |dtype: &str| weights.contains(&format!("q_proj.weight: {dtype}["));
    assert!(holds(precision.name()), "the weights are not {}", precision.name());
    let lists = [precision.runtimes(), target.runtimes()];
    let runs_on = |kind: RuntimeKind| lists.iter().all(|list| list.is_empty() || list.contains(&kind.name()));
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

#[test]
fn every_lowering_of_private_deltas() {
    for lowering in Lowering::ALL {
        let switch = LowerTaskSwitch { lowering, workloads: Vec::new() };
        let options = PipelineOptions { switch, ..Default::default() };
        agrees_as(everything(), options.clone(), TOLERANCE);
        let options = PipelineOptions { precision: Precision::F16, ..options };
        agrees_as(everything(), options, 2e-2);
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
