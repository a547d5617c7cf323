//! Artifacts of more tasks than a batch has rows: none is left out.

use crate::faults::found_by;
use crate::support::fault::Fault;
use crate::support::{Outcome, artifact};
use crate::{only, validate_at};
use pemlc_artifact::artifact::Validation;
use pemlc_runtime::RuntimeKind;

const TASKS: usize = 11;

fn validate(fault: Fault) -> Result<Validation, Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    artifact::write_tasks(dir.path(), TASKS, fault)?;
    validate_at(dir.path(), &[RuntimeKind::Tract])
}

#[test]
fn every_check_looks_at_every_task() -> Outcome {
    let validation = validate(Fault::None)?;
    let checks = &only(&validation).checks;
    for check in checks {
        assert!(check.passed, "{} {:?}: {}", check.check, check.task, check.detail);
    }
    let names =
        ["prefill", "mixed-batch", "shapes", "cached-decode", "left-padding", "differs-from-base", "drawn-shapes"];
    for name in names {
        let tasks: Vec<Option<String>> =
            checks.iter().filter(|check| check.check == name).map(|check| check.task.clone()).collect();
        let expected: Vec<Option<String>> = (0..TASKS).map(|task| Some(artifact::task_name(task))).collect();
        assert_eq!(tasks, expected, "{name}");
    }
    Ok(())
}

#[test]
fn a_fault_of_the_last_task_alone_is_found() -> Outcome {
    for fault in Fault::LAST {
        let validation = validate(fault)?;
        let last = Some(artifact::task_name(TASKS - 1));
        for name in found_by(fault) {
            let mut failed = only(&validation).checks.iter().filter(|check| !check.passed);
            let found = failed.any(|check| check.check == *name && check.task == last);
            assert!(found, "{fault:?} must be found by {name}");
        }
        assert!(!only(&validation).passed);
    }
    Ok(())
}
