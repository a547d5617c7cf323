//! What number types lose, and what they must not hide.

use crate::faults::found_by;
use crate::support::fault::Fault;
use crate::support::toy::TASKS;
use crate::support::{Outcome, artifact};
use crate::{failures, only, validate_at};
use pemlc_artifact::artifact::{RuntimeValidation, Validation};
use pemlc_runtime::RuntimeKind;

/// A check of an artifact in whole numbers, on tract twice, so that there is a runtime to compare with.
fn validate_lossy(fault: Fault, bound: f64) -> Result<Validation, Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    artifact::write(dir.path(), fault)?;
    artifact::edit(dir.path(), |manifest| {
        (manifest.dtype, manifest.max_distortion) = ("int8".to_owned(), Some(bound));
    })?;
    validate_at(dir.path(), &[RuntimeKind::Tract, RuntimeKind::Tract])
}

#[test]
fn whole_numbers_are_held_to_what_they_lost() -> Outcome {
    // One token's logit is off by more than any tolerance of f32, which moves probabilities by little.
    let validation = validate_lossy(Fault::WrongLogits, 0.02)?;
    assert_eq!(validation.max_distortion, Some(0.02));
    for runtime in &validation.runtimes {
        assert!(runtime.passed, "{:?}", failures(runtime));
        assert_eq!(runtime.distortion.len(), TASKS);
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

/// A check of an artifact whose weights' type is allowed `tolerance` from the trainer's logits.
fn validate_wide(fault: Fault, dtype: &str, tolerance: f64) -> Result<Validation, Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    artifact::write(dir.path(), fault)?;
    artifact::edit(dir.path(), |manifest| {
        (manifest.dtype, manifest.tolerance) = (dtype.to_owned(), Some(tolerance));
    })?;
    validate_at(dir.path(), &[RuntimeKind::Tract])
}

#[test]
fn rounded_weights_are_held_to_the_trainer_widely_and_to_themselves_as_f32_is() -> Outcome {
    let right = validate_wide(Fault::WrongLogits, "bf16", 1.0)?;
    assert!(only(&right).passed, "{:?}", failures(only(&right)));
    assert_eq!((right.tolerance, right.trainer_tolerance), (1e-4, Some(1.0)));
    // Rows that depend on their neighbours by 1e-2, which the trainer's tolerance would let through.
    let blurred = validate_wide(Fault::BlursMixedBatches, "bf16", 1.0)?;
    assert!(failures(only(&blurred)).contains(&"mixed-batch".to_owned()), "{:?}", failures(only(&blurred)));
    // f16 is computed in, so that one bound is for everything.
    let computed = validate_wide(Fault::BlursMixedBatches, "f16", 1e-1)?;
    assert!(only(&computed).passed, "{:?}", failures(only(&computed)));
    assert_eq!((computed.tolerance, computed.trainer_tolerance), (1e-1, None));
    Ok(())
}

#[test]
fn a_task_of_rounded_weights_may_move_logits_by_less_than_their_tolerance() -> Outcome {
    // No task moves any logit by as much as 100.
    let right = validate_wide(Fault::None, "bf16", 100.0)?;
    assert!(only(&right).passed, "{:?}", failures(only(&right)));
    let lost = validate_wide(Fault::AnswersAsBase, "bf16", 100.0)?;
    assert_eq!(failures(only(&lost)), ["differs-from-base"]);
    Ok(())
}
