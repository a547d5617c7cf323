//! Files that are not those that were exported, runtimes that are not there, and what is recorded.

use crate::support::fault::Fault;
use crate::support::toy::TASKS;
use crate::support::{Outcome, artifact, ort_available};
use crate::{only, validate_at};
use pemlc_runtime::{CheckError, CheckOptions, Drawn, OpenOptions, RuntimeError, RuntimeKind, check, record};

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

        record(dir.path(), &validation, None)?;
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
    record(dir.path(), &validate_at(dir.path(), &[])?, None)?;
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
    let mut probes = artifact::probes(TASKS);
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

#[test]
fn a_runtime_that_is_not_there_is_an_error_before_any_other_runs() -> Outcome {
    let dir = tempfile::tempdir()?;
    artifact::write(dir.path(), Fault::WrongLogits)?;
    let options = CheckOptions {
        runtimes: Some(vec![RuntimeKind::Tract, RuntimeKind::OrtCpu]),
        open: OpenOptions { ort_library: Some("/nowhere/libonnxruntime.so".into()), ..OpenOptions::default() },
        ..CheckOptions::default()
    };
    let mut lines = Vec::new();
    let error = check(dir.path(), &options, &mut |line| lines.push(line.to_owned())).err().ok_or("accepted")?;
    assert!(matches!(error, CheckError::Runtime(RuntimeError::OrtLibrary { .. })), "{error}");
    // tract would find the fault, and what it found would be lost.
    assert_eq!(lines, ["comparing files with the hashes in pemlc.json"]);
    Ok(())
}

#[test]
fn the_largest_number_of_a_drawn_case_is_one() -> Outcome {
    let dir = tempfile::tempdir()?;
    artifact::write(dir.path(), Fault::None)?;
    let drawn = Drawn { only: Some(usize::MAX), ..Drawn::default() };
    let options = CheckOptions { runtimes: Some(vec![RuntimeKind::Tract]), drawn, ..CheckOptions::default() };
    let validation = check(dir.path(), &options, &mut |_| ())?;
    let drawn: Vec<&str> = (only(&validation).checks.iter())
        .filter(|check| check.check == "drawn-shapes")
        .map(|check| check.detail.as_str())
        .collect();
    assert!(only(&validation).passed && !drawn.is_empty());
    assert!(drawn.iter().all(|detail| detail.contains("case 18446744073709551615 of seed 0")), "{drawn:?}");
    Ok(())
}
