//! `check` on right artifacts and on ones with each fault. A check that cannot fail is worth nothing, so that every fault names the
//! checks that must find it.

#[path = "../support/mod.rs"]
mod support;

mod beside;
mod card;
mod faults;
mod files;
mod many_tasks;
mod number_types;

use pemlc_artifact::artifact::{RuntimeValidation, Validation};
use pemlc_runtime::{CheckOptions, RuntimeKind, check};
use std::path::Path;
use support::artifact;
use support::fault::Fault;

/// The check of a fresh artifact with `fault`.
fn validate(fault: Fault, kind: RuntimeKind) -> Result<Validation, Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    artifact::write(dir.path(), fault)?;
    validate_at(dir.path(), &[kind])
}

/// The check of the artifact at `dir`.
fn validate_at(dir: &Path, kinds: &[RuntimeKind]) -> Result<Validation, Box<dyn std::error::Error>> {
    let options = CheckOptions { runtimes: Some(kinds.to_vec()), ..CheckOptions::default() };
    Ok(check(dir, &options, &mut |_| ())?)
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
