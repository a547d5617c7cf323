//! `model.onnx` with each fault.

use crate::support::fault::Fault;
use crate::support::toy::TASKS;
use crate::support::{Outcome, artifact, ort_available};
use crate::{failures, only, validate, validate_at};
use pemlc_runtime::{CheckOptions, RuntimeKind, check};

/// The checks that must fail, whatever else does.
pub(crate) fn found_by(fault: Fault) -> &'static [&'static str] {
    match fault {
        Fault::None => &[],
        Fault::IgnoresTask => &["prefill", "mixed-batch"],
        Fault::AnswersAsBase => &["prefill", "mixed-batch", "differs-from-base"],
        Fault::TakesFirstRowsTask => &["mixed-batch", "bad-task-id"],
        Fault::RefusesOtherTasks => &["mixed-batch", "shapes", "bad-task-id"],
        Fault::WrongLogits => &["prefill", "mixed-batch"],
        Fault::BlursMixedBatches => &["mixed-batch"],
        Fault::FrozenBatch => &["shapes"],
        Fault::FrozenSequence => &["shapes", "cached-decode", "left-padding"],
        Fault::WrapsTaskId | Fault::AnswersUnknownTask | Fault::SpoilsTheBatch | Fault::CachesUnknownTask => {
            &["bad-task-id"]
        }
        Fault::PrefixInCache => &["prefill"],
        Fault::NotCausal => &["prefill"],
        Fault::SeesPadding => &["left-padding"],
        Fault::IgnoresCache | Fault::RewritesCache => &["cached-decode", "left-padding"],
        Fault::NoTaskInput => &["load"],
        Fault::LastTakesFirstRowsTask => &["mixed-batch"],
        Fault::LastIgnoresCache => &["cached-decode"],
        Fault::LastSeesPadding => &["left-padding"],
    }
}

fn every_fault_is_found(kind: RuntimeKind) -> Outcome {
    let mut missed = Vec::new();
    for fault in Fault::ALL.into_iter().chain(Fault::LAST) {
        let validation = validate(fault, kind)?;
        let runtime = only(&validation);
        let found = failures(runtime);
        if runtime.passed || !found_by(fault).iter().all(|check| found.iter().any(|name| name == check)) {
            missed.push(format!("{fault:?}: {found:?}, must be found by {:?}", found_by(fault)));
        }
    }
    assert!(missed.is_empty(), "{kind} missed:\n{}", missed.join("\n"));
    Ok(())
}

fn right_artifact_passes(kind: RuntimeKind) -> Outcome {
    let validation = validate(Fault::None, kind)?;
    let runtime = only(&validation);
    for check in &runtime.checks {
        assert!(check.passed, "{} {:?}: {}", check.check, check.task, check.detail);
    }
    let names: Vec<&str> = runtime.checks.iter().map(|check| check.check.as_str()).collect();
    let mut expected = Vec::new();
    for check in ["prefill", "mixed-batch", "shapes", "cached-decode", "left-padding", "differs-from-base"] {
        expected.extend([check; TASKS]);
    }
    expected.push("bad-task-id");
    expected.extend(["drawn-shapes"; TASKS]);
    assert_eq!(names, expected);
    let compared = runtime.checks.iter().filter(|check| check.check != "differs-from-base");
    for check in compared {
        assert_eq!(check.argmax_agreement, Some(1.0));
        assert!(check.max_abs.is_some_and(|difference| difference < 1e-5), "{check:?}");
    }
    assert!(runtime.passed);
    Ok(())
}

/// Of an artifact whose manifest says that rows of a batch must have one task.
fn one_task_per_batch(kind: RuntimeKind) -> Outcome {
    let failures_of = |fault| -> Result<Vec<String>, Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        artifact::write(dir.path(), fault)?;
        artifact::edit(dir.path(), |manifest| manifest.one_task_per_batch = true)?;
        Ok(failures(only(&validate_at(dir.path(), &[kind])?)))
    };
    assert!(failures_of(Fault::RefusesOtherTasks)?.is_empty());
    // A graph that answers the other rows, whichever way, is not what the manifest says.
    assert_eq!(failures_of(Fault::None)?, ["one-task-per-batch"]);
    assert_eq!(failures_of(Fault::TakesFirstRowsTask)?, ["one-task-per-batch"]);
    assert_eq!(failures_of(Fault::AnswersUnknownTask)?, ["one-task-per-batch", "bad-task-id"]);
    Ok(())
}

#[test]
fn batches_of_one_task_on_tract() -> Outcome {
    one_task_per_batch(RuntimeKind::Tract)
}

#[test]
fn batches_of_one_task_on_onnx_runtime() -> Outcome {
    if !ort_available() {
        return Ok(());
    }
    one_task_per_batch(RuntimeKind::OrtCpu)
}

#[test]
fn a_right_artifact_passes_on_tract() -> Outcome {
    right_artifact_passes(RuntimeKind::Tract)
}

#[test]
fn a_right_artifact_passes_on_onnx_runtime() -> Outcome {
    if !ort_available() {
        return Ok(());
    }
    right_artifact_passes(RuntimeKind::OrtCpu)?;
    let validation = validate(Fault::None, RuntimeKind::OrtCpu)?;
    assert_eq!(only(&validation).execution_provider.as_deref(), Some("CPUExecutionProvider"));
    assert_eq!(only(&validation).version, pemlc_runtime::ORT_VERSION);
    Ok(())
}

#[test]
fn tract_finds_every_fault() -> Outcome {
    every_fault_is_found(RuntimeKind::Tract)
}

#[test]
fn onnx_runtime_finds_every_fault() -> Outcome {
    if !ort_available() {
        return Ok(());
    }
    every_fault_is_found(RuntimeKind::OrtCpu)
}

#[test]
fn a_failure_says_which_task_shape_position_and_token() -> Outcome {
    let validation = validate(Fault::WrongLogits, RuntimeKind::Tract)?;
    let failed = only(&validation).checks.iter().find(|check| !check.passed).ok_or("nothing failed")?;
    assert_eq!((failed.check.as_str(), failed.task.as_deref()), ("prefill", Some("sentiment")));
    assert!(failed.max_abs.is_some_and(|difference| (difference - 1e-2).abs() < 1e-5), "{failed:?}");
    let start = "runtime against trainer: probe 0, position 3 (batch 2, sequence 14), token 5: ";
    assert!(failed.detail.starts_with(start), "{}", failed.detail);
    assert!(failed.detail.contains("was expected, a difference of"), "{}", failed.detail);
    Ok(())
}

#[test]
fn a_task_that_training_did_not_move_is_refused() -> Outcome {
    // The trainer itself answers as the base model, and the graph agrees with it: only one check can see that.
    let dir = tempfile::tempdir()?;
    artifact::write(dir.path(), Fault::AnswersAsBase)?;
    let mut probes = artifact::probes(TASKS);
    let base = probes.get("base_logits").cloned().ok_or("no base_logits")?;
    probes.insert("logits".to_owned(), base);
    artifact::replace_probes(dir.path(), &probes)?;
    let validation = validate_at(dir.path(), &[RuntimeKind::Tract])?;
    assert_eq!(failures(only(&validation)), ["differs-from-base"]);
    let failed = only(&validation).checks.iter().find(|check| !check.passed).ok_or("nothing failed")?;
    let expected = "base model answering in place of task: the trainer's own logits are the base model's; \
                    warning: answers as task `topic` does on the same tokens; \
                    warning: answers as task `language` does on the same tokens";
    assert_eq!(failed.detail, expected);
    Ok(())
}

#[test]
fn a_graph_that_answers_as_the_base_model_is_called_that() -> Outcome {
    let validation = validate(Fault::AnswersAsBase, RuntimeKind::Tract)?;
    let differs = only(&validation).checks.iter().find(|check| check.check == "differs-from-base").ok_or("not run")?;
    let expected = "base model answering in place of task: the runtime's logits are the base model's";
    assert!(differs.detail.starts_with(expected), "{}", differs.detail);
    Ok(())
}

#[test]
fn a_tolerance_that_allows_the_difference_passes() -> Outcome {
    let dir = tempfile::tempdir()?;
    artifact::write(dir.path(), Fault::WrongLogits)?;
    let options =
        CheckOptions { runtimes: Some(vec![RuntimeKind::Tract]), tolerance: Some(2e-2), ..CheckOptions::default() };
    let validation = check(dir.path(), &options, &mut |_| ())?;
    assert!(only(&validation).passed);
    assert_eq!(validation.tolerance, 2e-2);
    Ok(())
}

#[test]
fn probes_that_are_no_numbers_are_refused() -> Outcome {
    use pemlc_artifact::tensors::Values;
    for bad in [f32::NAN, f32::INFINITY] {
        let dir = tempfile::tempdir()?;
        artifact::write(dir.path(), Fault::None)?;
        let mut probes = artifact::probes(TASKS);
        let base = probes.get_mut("base_logits").ok_or("no base_logits")?;
        if let Values::F32(values) = &mut base.values {
            values[0] = bad;
        }
        artifact::replace_probes(dir.path(), &probes)?;
        let validation = validate_at(dir.path(), &[RuntimeKind::Tract])?;
        assert_eq!(failures(only(&validation)), ["differs-from-base"], "{bad}");
        let failed = only(&validation).checks.iter().find(|check| !check.passed).ok_or("nothing failed")?;
        assert!(failed.detail.contains("or the base model's, are not finite"), "{}", failed.detail);
    }
    Ok(())
}
