//! Graphs beside `model.onnx`: right ones, and ones in which something is wrong that they alone have.

use crate::support::beside::{Scores, add_adapters, add_pinned, add_scorer};
use crate::support::fault::Fault;
use crate::support::{Outcome, artifact, ort_available};
use crate::{only, validate_at};
use pemlc_artifact::artifact::CheckResult;
use pemlc_runtime::RuntimeKind;
use std::path::Path;

/// The runtimes that can be tried here.
fn kinds() -> Vec<RuntimeKind> {
    let ort = ort_available().then_some(RuntimeKind::OrtCpu);
    [RuntimeKind::Tract].into_iter().chain(ort).collect()
}

/// The checks of the graph `file` that `add` puts beside a right `model.onnx`, whose own checks pass.
fn checks(
    kind: RuntimeKind,
    file: &str,
    one_task_per_batch: bool,
    add: impl FnOnce(&Path) -> Outcome,
) -> Result<Vec<CheckResult>, Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    artifact::write(dir.path(), if one_task_per_batch { Fault::RefusesOtherTasks } else { Fault::None })?;
    artifact::edit(dir.path(), |manifest| manifest.one_task_per_batch = one_task_per_batch)?;
    add(dir.path())?;
    let validation = validate_at(dir.path(), &[kind])?;
    let (beside, own): (Vec<CheckResult>, Vec<CheckResult>) =
        only(&validation).checks.iter().cloned().partition(|check| check.check == file);
    for check in own {
        assert!(check.passed, "{kind}: {} {:?}: {}", check.check, check.task, check.detail);
    }
    assert_eq!(only(&validation).passed, beside.iter().all(|check| check.passed));
    Ok(beside)
}

/// The first failed check's task and detail.
fn failure(checks: &[CheckResult]) -> Option<(Option<&str>, &str)> {
    let failed = checks.iter().find(|check| !check.passed)?;
    Some((failed.task.as_deref(), failed.detail.as_str()))
}

#[test]
fn a_scorer_gives_the_models_likelihoods() -> Outcome {
    for kind in kinds() {
        let checks = |scores, fault| checks(kind, "scorer.onnx", false, |dir| add_scorer(dir, scores, fault));
        let right = checks(Scores::Right, Fault::None)?;
        assert_eq!((right.len(), failure(&right)), (3, None), "{kind}");

        let swapped = checks(Scores::Swapped, Fault::None)?;
        let (task, detail) = failure(&swapped).ok_or("swapped answers pass")?;
        assert_eq!(task, Some("topic"), "{kind}: {detail}");
        let other_task = checks(Scores::Right, Fault::IgnoresTask)?;
        assert!(failure(&other_task).is_some(), "{kind}: answers of another task pass");
        let unknown = checks(Scores::Right, Fault::AnswersUnknownTask)?;
        let (task, detail) = failure(&unknown).ok_or("an unknown task is scored")?;
        assert!(task.is_none() && detail.contains("task_id -1 was answered"), "{kind}: {task:?} {detail}");
    }
    Ok(())
}

#[test]
fn answers_that_a_task_does_not_have_have_no_score() -> Outcome {
    for kind in kinds() {
        let with_absent = checks(kind, "scorer.onnx", false, |dir| add_scorer(dir, Scores::WithAbsent, Fault::None))?;
        let (task, detail) = failure(&with_absent).ok_or("absent answers have scores")?;
        assert!(
            task == Some("sentiment") && detail.contains("but the task has 2 answers"),
            "{kind}: {task:?} {detail}"
        );
    }
    Ok(())
}

#[test]
fn a_scorer_of_batches_of_one_task_scores_no_other() -> Outcome {
    for kind in kinds() {
        let checks = |fault| checks(kind, "scorer.onnx", true, |dir| add_scorer(dir, Scores::Right, fault));
        assert_eq!(failure(&checks(Fault::RefusesOtherTasks)?), None, "{kind}");
        // Right for batches of any tasks, and so not what the manifest says.
        let found = checks(Fault::None)?;
        let (task, detail) = failure(&found).ok_or("rows of other tasks are scored")?;
        assert!(task.is_none() && detail.contains("of another task than the first, has scores"), "{kind}: {detail}");
    }
    Ok(())
}

#[test]
fn a_graph_of_one_task_answers_as_that_task() -> Outcome {
    for kind in kinds() {
        let checks = |merged| checks(kind, "task.topic.onnx", false, |dir| add_pinned(dir, 1, merged));
        let right = checks(1)?;
        assert_eq!((right.len(), failure(&right)), (1, None), "{kind}");
        let wrong = checks(2)?;
        let (task, detail) = failure(&wrong).ok_or("another task passes")?;
        assert!(task == Some("topic") && detail.starts_with("prefill: runtime against trainer"), "{kind}: {detail}");
    }
    Ok(())
}

#[test]
fn an_adapter_that_is_ignored_is_found() -> Outcome {
    if !ort_available() {
        return Ok(());
    }
    let checks = |ignores| checks(RuntimeKind::OrtCpu, "adapters.onnx", false, |dir| add_adapters(dir, ignores));
    let right = checks(false)?;
    assert_eq!((right.len(), failure(&right)), (4, None));
    // Without an adapter all is NaN, and with the first task's it is right.
    let ignored = checks(true)?;
    let passed: Vec<(Option<&str>, bool)> = ignored.iter().map(|check| (check.task.as_deref(), check.passed)).collect();
    let expected = [(None, true), (Some("sentiment"), true), (Some("topic"), false), (Some("language"), false)];
    assert_eq!(passed, expected);
    Ok(())
}

#[test]
fn a_graph_that_no_runtime_asked_for_reads_is_not_validated() -> Outcome {
    let checks = checks(RuntimeKind::Tract, "adapters.onnx", false, |dir| add_adapters(dir, false))?;
    let expected = "adapters.onnx was not run: tract does not read adapters, ONNX Runtime does; check on both, with \
                    --runtime ort-cpu,tract";
    assert_eq!((checks.len(), failure(&checks)), (1, Some((None, expected))));
    Ok(())
}

#[test]
fn a_graph_that_one_runtime_asked_for_reads_is_validated() -> Outcome {
    if !ort_available() {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    artifact::write(dir.path(), Fault::None)?;
    add_adapters(dir.path(), false)?;
    let validation = validate_at(dir.path(), &[RuntimeKind::Tract, RuntimeKind::OrtCpu])?;
    assert!(validation.runtimes.iter().all(|runtime| runtime.passed));
    let of = |runtime: usize| {
        validation.runtimes[runtime].checks.iter().filter(|check| check.check == "adapters.onnx").count()
    };
    assert_eq!([of(0), of(1)], [0, 4]);
    Ok(())
}
