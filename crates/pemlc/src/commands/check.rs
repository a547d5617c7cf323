//! `pemlc check`.

use crate::Outcome;
use crate::arguments::{CheckArguments, CheckSettings};
use crate::table::{Table, difference, seconds};
use pemlc_artifact::artifact::{RuntimeValidation, Validation};
use pemlc_runtime::CheckOptions;
use std::path::Path;

pub(crate) fn run(arguments: &CheckArguments) -> anyhow::Result<Outcome> {
    super::open_artifact(&arguments.dir)?;
    let outcome = check(&arguments.dir, &arguments.check)?;
    if let Some(run) = &arguments.run {
        super::report::write(run, Some(&arguments.dir), None)?;
    }
    Ok(outcome)
}

/// Checks the artifact at `dir`, records what was found in its manifest and prints it.
pub(crate) fn check(dir: &Path, settings: &CheckSettings) -> anyhow::Result<Outcome> {
    let options = CheckOptions {
        runtimes: (!settings.runtime.is_empty()).then(|| settings.runtime.clone()),
        tolerance: settings.tolerance,
        drawn: settings.drawn,
        ..CheckOptions::default()
    };
    let validation = pemlc_runtime::check(dir, &options, &mut |line| eprintln!("{line}"))?;
    pemlc_runtime::record(dir, &validation)?;
    for runtime in &validation.runtimes {
        print!("\n{}", describe(runtime));
    }
    println!("\n{}", verdict(&validation));
    let passed = validation.runtimes.iter().all(|runtime| runtime.passed);
    Ok(if passed { Outcome::Done } else { Outcome::Failed })
}

/// One runtime's table, and the details of what failed.
fn describe(runtime: &RuntimeValidation) -> String {
    let provider = runtime.execution_provider.as_deref().map(|name| format!(", {name}")).unwrap_or_default();
    let mut table = Table::new(&["check", "task", ">max abs", ">max rel", ">argmax", ">pass"]);
    for check in &runtime.checks {
        table.row([
            check.check.clone(),
            check.task.clone().unwrap_or_default(),
            difference(check.max_abs),
            difference(check.max_rel),
            check.argmax_agreement.map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", share * 100.0)),
            if check.passed { "yes" } else { "NO" }.to_owned(),
        ]);
    }
    let mut text =
        format!("{} {}{provider}, {}\n{}", runtime.runtime, runtime.version, seconds(runtime.seconds), table.render());
    for check in runtime.checks.iter().filter(|check| !check.passed) {
        let task = check.task.as_deref().map(|task| format!(" of {task}")).unwrap_or_default();
        text.push_str(&format!("{}{task} failed: {}\n", check.check, check.detail));
    }
    text
}

fn verdict(validation: &Validation) -> String {
    let names = |passed: bool| {
        let names = validation.runtimes.iter().filter(|runtime| runtime.passed == passed);
        names.map(|runtime| runtime.runtime.as_str()).collect::<Vec<_>>().join(", ")
    };
    let trainer = validation.trainer_tolerance.map(|tolerance| {
        format!(
            ", {tolerance:.1e} against the trainer, whose deltas this artifact holds approximately (--rank-tolerance)"
        )
    });
    let tolerance = format!(
        "tolerance {:e}{}, in proportion where logits exceed 10",
        validation.tolerance,
        trainer.unwrap_or_default()
    );
    if names(false).is_empty() {
        format!("validated: true (every check passed on {}, {tolerance})", names(true))
    } else {
        format!("validated: false (failed on {}, {tolerance})", names(false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pemlc_artifact::artifact::CheckResult;

    #[test]
    fn a_failure_says_what_and_why() {
        let check = |name: &str, task: Option<&str>, max_abs: Option<f64>, passed: bool| CheckResult {
            check: name.to_owned(),
            task: task.map(str::to_owned),
            max_abs,
            max_rel: max_abs,
            argmax_agreement: max_abs.map(|_| 1.0),
            passed,
            detail: "position 3 differs".to_owned(),
        };
        let runtime = RuntimeValidation {
            runtime: "ort-cpu".to_owned(),
            version: "1.32.0".to_owned(),
            execution_provider: Some("CPUExecutionProvider".to_owned()),
            checks: vec![check("prefill", Some("sst2"), Some(0.5), false), check("bad-task-id", None, None, true)],
            passed: false,
            seconds: 1.25,
        };
        insta::assert_snapshot!(describe(&runtime), @r"
        ort-cpu 1.32.0, CPUExecutionProvider, 1.2 s
        check        task  max abs  max rel   argmax  pass
        -----------  ----  -------  -------  -------  ----
        prefill      sst2   5.0e-1   5.0e-1  100.0 %    NO
        bad-task-id              -        -        -   yes
        prefill of sst2 failed: position 3 differs
        ");
        let validation = Validation { tolerance: 1e-4, trainer_tolerance: None, runtimes: vec![runtime] };
        assert_eq!(
            verdict(&validation),
            "validated: false (failed on ort-cpu, tolerance 1e-4, in proportion where logits exceed 10)"
        );
    }
}
