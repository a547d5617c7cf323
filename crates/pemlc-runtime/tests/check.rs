//! `check` on a right artifact and on one with each fault. A check that cannot fail is worth nothing, so that every fault names the
//! checks that must find it.

mod support;

use pemlc_artifact::artifact::{RuntimeValidation, Validation};
use pemlc_runtime::{CheckError, CheckOptions, RuntimeError, RuntimeKind, check, record};
use support::toy::Fault;
use support::{Outcome, artifact, ort_available};

fn validate(fault: Fault, kind: RuntimeKind) -> Result<Validation, Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    artifact::write(dir.path(), fault)?;
    let options = CheckOptions { runtimes: Some(vec![kind]), ..CheckOptions::default() };
    Ok(check(dir.path(), &options, &mut |_| ())?)
}

fn only(validation: &Validation) -> &RuntimeValidation {
    assert_eq!(validation.runtimes.len(), 1);
    &validation.runtimes[0]
}

/// The failed checks in order, each once.
fn failures(runtime: &RuntimeValidation) -> Vec<String> {
    let mut names: Vec<String> =
        runtime.checks.iter().filter(|check| !check.passed).map(|check| check.check.clone()).collect();
    names.dedup();
    names
}

/// The checks that must fail, whatever else does.
fn found_by(fault: Fault) -> &'static [&'static str] {
    match fault {
        Fault::None => &[],
        Fault::IgnoresTask => &["prefill", "mixed-batch"],
        Fault::AnswersAsBase => &["prefill", "mixed-batch", "differs-from-base"],
        Fault::TakesFirstRowsTask => &["mixed-batch", "bad-task-id"],
        Fault::RefusesOtherTasks => &["mixed-batch", "shapes", "bad-task-id"],
        Fault::WrongLogits => &["prefill", "mixed-batch"],
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
    }
}

fn every_fault_is_found(kind: RuntimeKind) -> Outcome {
    let mut missed = Vec::new();
    for fault in Fault::ALL {
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
        expected.extend([check; support::toy::TASKS]);
    }
    expected.push("bad-task-id");
    expected.extend(["drawn-shapes"; support::toy::TASKS]);
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
        artifact::write_as(dir.path(), fault, true)?;
        let options = CheckOptions { runtimes: Some(vec![kind]), ..CheckOptions::default() };
        Ok(failures(only(&check(dir.path(), &options, &mut |_| ())?)))
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
    let mut probes = artifact::probes();
    let base = probes.get("base_logits").cloned().ok_or("no base_logits")?;
    probes.insert("logits".to_owned(), base);
    artifact::replace_probes(dir.path(), &probes)?;
    let options = CheckOptions { runtimes: Some(vec![RuntimeKind::Tract]), ..CheckOptions::default() };
    let validation = check(dir.path(), &options, &mut |_| ())?;
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

/// A check of an artifact in whole numbers, on tract twice, so that there is a runtime to compare with.
fn validate_lossy(fault: Fault, bound: f64) -> Result<Validation, Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    artifact::write(dir.path(), fault)?;
    let mut manifest = artifact::manifest(dir.path())?;
    (manifest.dtype, manifest.max_distortion) = ("int8".to_owned(), Some(bound));
    manifest.write(dir.path())?;
    let runtimes = Some(vec![RuntimeKind::Tract, RuntimeKind::Tract]);
    Ok(check(dir.path(), &CheckOptions { runtimes, ..CheckOptions::default() }, &mut |_| ())?)
}

#[test]
fn whole_numbers_are_held_to_what_they_lost() -> Outcome {
    // One token's logit is off by more than any tolerance of f32, which moves probabilities by little.
    let validation = validate_lossy(Fault::WrongLogits, 0.02)?;
    assert_eq!(validation.max_distortion, Some(0.02));
    for runtime in &validation.runtimes {
        assert!(runtime.passed, "{:?}", failures(runtime));
        assert_eq!(runtime.distortion.len(), support::toy::TASKS);
        for task in &runtime.distortion {
            assert!(task.total_variation > 1e-5 && task.total_variation < 0.01, "{task:?}");
            assert!((task.max_abs - 1e-2).abs() < 1e-5 && task.base_total_variation > 0.05, "{task:?}");
        }
    }
    let compared = |runtime: &RuntimeValidation| runtime.checks.iter().any(|check| check.check == "between-runtimes");
    assert_eq!(validation.runtimes.iter().map(compared).collect::<Vec<_>>(), [false, true]);
    let strict = validate_lossy(Fault::WrongLogits, 1e-6)?;
    assert_eq!(failures(&strict.runtimes[0]), ["prefill"]);
    Ok(())
}

#[test]
fn whole_numbers_do_not_hide_faults() -> Outcome {
    let mut missed = Vec::new();
    for fault in Fault::ALL.into_iter().filter(|fault| !matches!(fault, Fault::None | Fault::WrongLogits)) {
        let validation = validate_lossy(fault, 0.1)?;
        let found = failures(&validation.runtimes[0]);
        // What the trainer alone knows is seen by what was lost; all else as in f32.
        let by_trainer = |check: &&str| matches!(*check, "prefill" | "mixed-batch");
        let structural = found_by(fault)
            .iter()
            .filter(|check| !by_trainer(check))
            .all(|check| found.iter().any(|name| name == check));
        if found.is_empty() || !structural {
            missed.push(format!("{fault:?}: {found:?}, must be found by {:?}", found_by(fault)));
        }
    }
    assert!(missed.is_empty(), "missed:\n{}", missed.join("\n"));
    let lost = validate_lossy(Fault::AnswersAsBase, 1.0)?;
    assert_eq!(failures(&lost.runtimes[0]), ["differs-from-base"]);
    Ok(())
}

#[test]
fn what_the_check_found_is_recorded() -> Outcome {
    for (fault, passed) in [(Fault::None, true), (Fault::AnswersUnknownTask, false)] {
        let dir = tempfile::tempdir()?;
        artifact::write(dir.path(), fault)?;
        let options = CheckOptions { runtimes: Some(vec![RuntimeKind::Tract]), ..CheckOptions::default() };
        let mut lines = Vec::new();
        let validation = check(dir.path(), &options, &mut |line| lines.push(line.to_owned()))?;
        assert_eq!(lines.first().map(String::as_str), Some("comparing files with the hashes in pemlc.json"));
        assert!(lines.contains(&"tract: cached-decode".to_owned()));
        assert!(!artifact::manifest(dir.path())?.validated, "check alone writes nothing");

        record(dir.path(), &validation)?;
        let manifest = artifact::manifest(dir.path())?;
        assert_eq!(manifest.validated, passed);
        assert_eq!(manifest.validation.as_ref(), Some(&validation));
    }
    Ok(())
}

#[test]
fn a_check_of_no_runtime_validates_nothing() -> Outcome {
    let dir = tempfile::tempdir()?;
    artifact::write(dir.path(), Fault::None)?;
    let options = CheckOptions { runtimes: Some(Vec::new()), ..CheckOptions::default() };
    record(dir.path(), &check(dir.path(), &options, &mut |_| ())?)?;
    assert!(!artifact::manifest(dir.path())?.validated);
    Ok(())
}

#[test]
fn a_changed_file_is_refused_before_anything_runs() -> Outcome {
    let dir = tempfile::tempdir()?;
    artifact::write(dir.path(), Fault::None)?;
    let path = dir.path().join("model.onnx.data");
    let mut data = std::fs::read(&path)?;
    data[0] ^= 1;
    std::fs::write(&path, data)?;
    let error = check(dir.path(), &CheckOptions::default(), &mut |_| ()).err().ok_or("accepted")?;
    assert!(matches!(&error, CheckError::Changed(message) if message.contains("model.onnx.data")), "{error}");
    Ok(())
}

#[test]
fn a_manifest_that_does_not_vouch_for_the_weights_is_refused() -> Outcome {
    let dir = tempfile::tempdir()?;
    artifact::write(dir.path(), Fault::None)?;
    let mut manifest = artifact::manifest(dir.path())?;
    manifest.files.retain(|file| file.path != "model.onnx.data");
    manifest.write(dir.path())?;
    let error = check(dir.path(), &CheckOptions::default(), &mut |_| ()).err().ok_or("accepted")?;
    assert!(error.to_string().ends_with("`files` does not list model.onnx.data: export the artifact again"), "{error}");
    Ok(())
}

#[test]
fn probes_that_leave_out_a_task_are_refused() -> Outcome {
    use pemlc_artifact::tensors::Values;
    let dir = tempfile::tempdir()?;
    artifact::write(dir.path(), Fault::None)?;
    let mut probes = artifact::probes();
    let tasks = probes.get_mut("task_id").ok_or("no task_id")?;
    tasks.values = Values::I64(vec![0, 1, 0, 0, 1, 0]);
    artifact::replace_probes(dir.path(), &probes)?;
    let error = check(dir.path(), &CheckOptions::default(), &mut |_| ()).err().ok_or("accepted")?;
    assert!(error.to_string().ends_with("probes.safetensors: task `language` has no probe"), "{error}");
    Ok(())
}

#[test]
fn cuda_is_never_replaced_by_the_cpu() -> Outcome {
    if !ort_available() {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    artifact::write(dir.path(), Fault::None)?;
    let options = CheckOptions { runtimes: Some(vec![RuntimeKind::OrtCuda]), ..CheckOptions::default() };
    match check(dir.path(), &options, &mut |_| ()) {
        // A library with CUDA, on a machine with a GPU.
        Ok(validation) => {
            assert_eq!(only(&validation).execution_provider.as_deref(), Some("CUDAExecutionProvider"));
        }
        Err(CheckError::Runtime(RuntimeError::Provider { runtime, .. })) => assert_eq!(runtime, RuntimeKind::OrtCuda),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
