//! `pemlc check`.

use crate::Outcome;
use crate::arguments::{CheckArguments, CheckSettings};
use crate::table::{Table, difference, seconds};
use anyhow::Context;
use pemlc_artifact::artifact::{ArtifactManifest, ArtifactPaths, RuntimeValidation, TaskRounding, Validation};
use pemlc_artifact::hash::hash_file;
use pemlc_compiler::model_card::model_card;
use pemlc_runtime::{CheckOptions, Drawn};
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

/// Checks the artifact at `dir`, records what was found in its manifest and prints it.
pub(crate) fn check(dir: &Path, settings: &CheckSettings) -> anyhow::Result<Outcome> {
    let validation = pemlc_runtime::check(dir, &options(settings), &mut |line| eprintln!("{line}"))?;
    pemlc_runtime::record(dir, &validation)?;
    for runtime in &validation.runtimes {
        print!("\n{}", describe(runtime));
    }
    if let Some(runtime) = validation.runtimes.iter().find(|runtime| !runtime.distortion.is_empty()) {
        print!("\n{}", distortion(runtime, validation.max_distortion));
        write_card(dir)?;
    }
    println!("\n{}", verdict(&validation));
    print!("{}", derived(&validation));
    if let Some(hint) = hint(dir, &validation) {
        println!("{hint}");
    }
    let passed = validation.runtimes.iter().all(|runtime| runtime.passed);
    Ok(if passed { Outcome::Done } else { Outcome::Failed })
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

/// How to find the node at fault, unless no runtime got as far as to have one.
fn hint(dir: &Path, validation: &Validation) -> Option<String> {
    let ran = |runtime: &&RuntimeValidation| runtime.checks.iter().all(|check| check.check != "load");
    let failed = validation.runtimes.iter().find(|runtime| !runtime.passed && ran(runtime))?;
    let other = if failed.runtime == "ort-cpu-unoptimized" { "tract" } else { "ort-cpu-unoptimized" };
    Some(format!("to find the node at fault: pemlc check {} --bisect={},{other}", dir.display(), failed.runtime))
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

/// Writes the model card anew, which shows what was measured, and its hash.
fn write_card(dir: &Path) -> anyhow::Result<()> {
    let mut manifest = ArtifactManifest::read(dir)?;
    let path = ArtifactPaths::new(dir).model_card();
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    std::fs::write(&path, model_card(&manifest)).with_context(|| format!("cannot write {}", path.display()))?;
    let hash = hash_file(&path, &name).with_context(|| format!("cannot read {}", path.display()))?;
    manifest.files.iter_mut().filter(|file| file.path == name).for_each(|file| *file = hash.clone());
    manifest.write(dir)?;
    Ok(())
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
            distortion: Vec::new(),
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
        let rounding = vec![TaskRounding { task: "cb".to_owned(), f32_rounding: 5e-4, allowed: 2e-3 }];
        let (max_distortion, trainer_tolerance) = (None, None);
        let runtimes = vec![runtime];
        let validation = Validation { tolerance: 1e-4, max_distortion, trainer_tolerance, rounding, runtimes };
        assert_eq!(
            verdict(&validation),
            "validated: false (failed on ort-cpu, tolerance 1e-4, in proportion where logits exceed 10)"
        );
        assert_eq!(
            hint(Path::new("out"), &validation).as_deref(),
            Some("to find the node at fault: pemlc check out --bisect=ort-cpu,ort-cpu-unoptimized")
        );
        assert_eq!(
            derived(&validation),
            "cb: 2.0e-3 allowed, four times the 5.0e-4 by which the trainer's own f32 logits differ from its f64 ones\n"
        );
    }
}
