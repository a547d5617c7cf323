//! `pemlc check`.

use crate::Outcome;
use crate::arguments::{CheckArguments, CheckSettings};
use crate::table::{Table, difference, seconds};
use anyhow::Context;
use pemlc_artifact::artifact::{ArtifactManifest, CheckResult, RuntimeValidation, TaskRounding, Validation};
use pemlc_compiler::model_card::model_card;
use pemlc_runtime::{CheckOptions, Drawn, RuntimeKind};
use std::path::Path;

pub(crate) fn run(arguments: &CheckArguments) -> anyhow::Result<Outcome> {
    super::open_artifact(&arguments.dir)?;
    if let Some(sides) = &arguments.bisect {
        return super::bisect::run(&arguments.dir, sides, &arguments.check);
    }
    let outcome = check(&arguments.dir, &arguments.check)?;
    if let Some(run) = &arguments.run {
        super::report::write(run, Some(&arguments.dir), None)?;
    }
    Ok(outcome)
}

/// Checks the artifact at `dir`, prints what was found and records it in its manifest.
pub(crate) fn check(dir: &Path, settings: &CheckSettings) -> anyhow::Result<Outcome> {
    let approximated = super::open_artifact(dir)?.approximation.is_some();
    let validation = pemlc_runtime::check(dir, &options(settings), &mut |line| eprintln!("{line}"))?;
    conclude(dir, &validation, approximated, |text| print!("{text}"))?;
    let passed = validation.runtimes.iter().all(|runtime| runtime.passed);
    Ok(if passed { Outcome::Done } else { Outcome::Failed })
}

/// Prints and then records: what was found is told of an artifact that cannot be written too.
fn conclude(dir: &Path, validation: &Validation, approximated: bool, print: impl FnOnce(&str)) -> anyhow::Result<()> {
    let mut text: String = validation.runtimes.iter().map(|runtime| format!("\n{}", describe(runtime))).collect();
    let measured = validation.runtimes.iter().find(|runtime| !runtime.distortion.is_empty());
    if let Some(runtime) = measured {
        text.push_str(&format!("\n{}", distortion(runtime, validation.max_distortion)));
    }
    text.push_str(&format!("\n{}\n{}", verdict(validation, approximated), derived(validation)));
    let sides = |failed: RuntimeKind| pemlc_runtime::default_sides(dir, &[failed]).ok();
    if let Some(hint) = hint(dir, validation, sides) {
        text.push_str(&format!("{hint}\n"));
    }
    print(&text);
    // The model card shows what was measured.
    let card = measured.map(|_| model_card as fn(&ArtifactManifest) -> String);
    pemlc_runtime::record(dir, validation, card)
        .with_context(|| format!("what was found is not recorded in {}", dir.display()))
}

/// What to check, as the command line says.
pub(super) fn options(settings: &CheckSettings) -> CheckOptions {
    CheckOptions {
        runtimes: (!settings.runtime.is_empty()).then(|| settings.runtime.clone()),
        tolerance: settings.tolerance,
        max_distortion: settings.max_distortion,
        drawn: Drawn { cases: settings.drawn, seed: settings.seed, only: settings.case },
        ..CheckOptions::default()
    }
}

/// How to find the node of `model.onnx` at fault, where a runtime loads it and fails a check of it: the other graphs' checks have their
/// files' names. `sides` says which two runtimes to compare for one that failed. Where all that failed is what the number type costs, no node is
/// to be found.
fn hint(
    dir: &Path,
    validation: &Validation,
    sides: impl Fn(RuntimeKind) -> Option<[RuntimeKind; 2]>,
) -> Option<String> {
    let of_model = |check: &CheckResult| check.check != "load" && !check.check.ends_with(".onnx");
    let cost = |runtime: &RuntimeValidation, check: &CheckResult| {
        let of_task = runtime.distortion.iter().find(|task| check.task.as_ref() == Some(&task.task));
        check.check == "prefill"
            && of_task.zip(validation.max_distortion).is_some_and(|(task, most)| task.total_variation > most)
    };
    let wrong =
        |runtime: &RuntimeValidation, check: &CheckResult| !check.passed && of_model(check) && !cost(runtime, check);
    let failed = |runtime: &&RuntimeValidation| runtime.checks.iter().any(|check| wrong(runtime, check));
    let costly = |runtime: &RuntimeValidation| runtime.checks.iter().any(|check| !check.passed && cost(runtime, check));
    if !validation.runtimes.iter().any(|runtime| failed(&runtime)) && validation.runtimes.iter().any(costly) {
        let more = "the number type costs the tasks more than it may, and no node is at fault: export with a wider --dtype (int8 for int4, f16 for int8), \
                    or say with --max-distortion what the tasks bear";
        return Some(more.to_owned());
    }
    let [one, other] = sides(validation.runtimes.iter().find(failed)?.runtime.parse().ok()?)?;
    Some(format!("to find the node at fault: pemlc check {} --bisect={one},{other}", dir.display()))
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

/// What the number type cost each task, on one runtime.
fn distortion(runtime: &RuntimeValidation, allowed: Option<f64>) -> String {
    let mut table = Table::new(&[
        "task",
        ">positions",
        ">total variation",
        ">of the base model",
        ">KL divergence",
        ">max abs",
        ">mean abs",
        ">argmax",
    ]);
    for task in &runtime.distortion {
        table.row([
            task.task.clone(),
            task.positions.to_string(),
            format!("{:.4}", task.total_variation),
            format!("{:.4}", task.base_total_variation),
            format!("{:.2e}", task.kl_divergence),
            difference(Some(task.max_abs)),
            difference(Some(task.mean_abs)),
            format!("{:.1} %", task.argmax_agreement * 100.0),
        ]);
    }
    let allowed = allowed.map_or_else(String::new, |bound| format!(", mean total variation at most {bound} allowed"));
    format!("what the number type cost, {} against the trainer{allowed}\n{}", runtime.runtime, table.render())
}

/// `approximated` says that the artifact's deltas are not quite the trainer's.
fn verdict(validation: &Validation, approximated: bool) -> String {
    let names = |passed: bool| {
        let names = validation.runtimes.iter().filter(|runtime| runtime.passed == passed);
        names.map(|runtime| runtime.runtime.as_str()).collect::<Vec<_>>().join(", ")
    };
    let trainer = validation.trainer_tolerance.map(|tolerance| {
        let whose = if approximated {
            "whose deltas this artifact holds approximately (--rank-tolerance)"
        } else {
            "whose weights this artifact holds rounded"
        };
        format!(", {tolerance:.1e} against the trainer, {whose}")
    });
    let bound = validation.max_distortion.map(|bound| {
        format!(", between the artifact's own answers; mean total variation from the trainer's at most {bound}")
    });
    let tolerance = format!(
        "tolerance {:e}{}, in proportion where logits exceed 10{}",
        validation.tolerance,
        trainer.unwrap_or_default(),
        bound.unwrap_or_default()
    );
    if names(false).is_empty() {
        format!("validated: true (every check passed on {}, {tolerance})", names(true))
    } else {
        format!("validated: false (failed on {}, {tolerance})", names(false))
    }
}

/// A line for each task that is held to what f32 rounding does in it.
fn derived(validation: &Validation) -> String {
    let line = |rounding: &TaskRounding| {
        format!(
            "{}: {:.1e} allowed, four times the {:.1e} by which the trainer's own f32 logits differ from its f64 ones\n",
            rounding.task, rounding.allowed, rounding.f32_rounding
        )
    };
    validation.rounding.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(name: &str, task: Option<&str>, max_abs: Option<f64>, passed: bool) -> CheckResult {
        CheckResult {
            check: name.to_owned(),
            task: task.map(str::to_owned),
            max_abs,
            max_rel: max_abs,
            argmax_agreement: max_abs.map(|_| 1.0),
            passed,
            detail: "position 3 differs".to_owned(),
        }
    }

    /// Of one runtime, with these checks.
    fn validation(checks: Vec<CheckResult>) -> Validation {
        let runtime = RuntimeValidation {
            runtime: "ort-cpu".to_owned(),
            version: "1.32.0".to_owned(),
            execution_provider: Some("CPUExecutionProvider".to_owned()),
            passed: checks.iter().all(|check| check.passed),
            checks,
            distortion: Vec::new(),
            seconds: 1.25,
        };
        let (max_distortion, trainer_tolerance, rounding) = (None, None, Vec::new());
        Validation { tolerance: 1e-4, max_distortion, trainer_tolerance, rounding, runtimes: vec![runtime] }
    }

    fn failed() -> Validation {
        validation(vec![result("prefill", Some("sst2"), Some(0.5), false), result("bad-task-id", None, None, true)])
    }

    #[test]
    fn a_failure_says_what_and_why() {
        let mut validation = failed();
        insta::assert_snapshot!(describe(&validation.runtimes[0]), @r"
        ort-cpu 1.32.0, CPUExecutionProvider, 1.2 s
        check        task  max abs  max rel   argmax  pass
        -----------  ----  -------  -------  -------  ----
        prefill      sst2   5.0e-1   5.0e-1  100.0 %    NO
        bad-task-id              -        -        -   yes
        prefill of sst2 failed: position 3 differs
        ");
        assert_eq!(
            verdict(&validation, false),
            "validated: false (failed on ort-cpu, tolerance 1e-4, in proportion where logits exceed 10)"
        );
        validation.rounding = vec![TaskRounding { task: "cb".to_owned(), f32_rounding: 5e-4, allowed: 2e-3 }];
        assert_eq!(
            derived(&validation),
            "cb: 2.0e-3 allowed, four times the 5.0e-4 by which the trainer's own f32 logits differ from its f64 ones\n"
        );
    }

    #[test]
    fn another_tolerance_against_the_trainer_says_why() {
        let wide = Validation { trainer_tolerance: Some(1.0), ..validation(vec![result("prefill", None, None, true)]) };
        let expected = "tolerance 1e-4, 1.0e0 against the trainer, whose weights this artifact holds rounded, in";
        assert!(verdict(&wide, false).contains(expected), "{}", verdict(&wide, false));
        assert!(verdict(&wide, true).contains("(--rank-tolerance), in"), "{}", verdict(&wide, true));
    }

    #[test]
    fn what_to_bisect_is_told_of_checks_of_the_model_alone() {
        let sides = |failed: RuntimeKind| Some([failed, RuntimeKind::Tract]);
        let hint = |validation: &Validation| hint(Path::new("out"), validation, sides);
        // Which runtime to compare with is not for this place to know.
        let expected = "to find the node at fault: pemlc check out --bisect=ort-cpu,tract";
        assert_eq!(hint(&failed()).as_deref(), Some(expected));
        for file in ["load", "scorer.onnx", "task.sst2.onnx", "tasks/sst2/onnx/model.onnx", "adapters.onnx"] {
            let beside = vec![result("prefill", None, None, true), result(file, None, None, false)];
            assert_eq!(hint(&validation(beside)), None, "{file}");
        }
    }

    #[test]
    fn what_a_number_type_costs_is_no_nodes_fault() {
        use pemlc_artifact::artifact::Distortion;
        let mut lossy = validation(vec![result("prefill", Some("sst2"), Some(9.8), false)]);
        let distortion = Distortion {
            task: "sst2".to_owned(),
            positions: 12,
            total_variation: 0.16,
            base_total_variation: 0.7,
            kl_divergence: 0.2,
            max_abs: 9.8,
            mean_abs: 2.1,
            argmax_agreement: 0.9,
        };
        lossy.runtimes[0].distortion = vec![distortion];
        lossy.max_distortion = Some(0.1);
        let sides = |failed: RuntimeKind| Some([failed, RuntimeKind::Tract]);
        let text = hint(Path::new("out"), &lossy, sides).unwrap_or_default();
        assert!(text.contains("no node is at fault") && text.contains("--max-distortion"), "{text}");
        // A fault beside it is one.
        lossy.runtimes[0].checks.push(result("shapes", Some("sst2"), Some(0.5), false));
        assert!(hint(Path::new("out"), &lossy, sides).is_some_and(|text| text.contains("--bisect=ort-cpu,tract")));
    }

    #[test]
    fn what_was_found_is_printed_where_it_cannot_be_recorded() {
        let mut printed = String::new();
        let print = |text: &str| printed.push_str(text);
        let error = conclude(Path::new("/nowhere/artifact"), &failed(), false, print).unwrap_err();
        assert_eq!(error.to_string(), "what was found is not recorded in /nowhere/artifact");
        assert!(printed.contains("prefill of sst2 failed: position 3 differs\n"), "{printed}");
        assert!(printed.contains("validated: false (failed on ort-cpu,"), "{printed}");
    }
}
