//! How far each runtime's answers are from the trainer's.

use super::material::Material;
use super::svg::escape;
use crate::table::{difference, seconds};
use pemlc_artifact::artifact::{ArtifactManifest, Distortion, RuntimeValidation};

/// The worst of each runtime, and every check to unfold; nothing when no artifact was given.
pub(super) fn section(material: &Material) -> Option<String> {
    let artifact = material.artifact.as_ref()?;
    let runtimes = || artifact.validation.iter().flat_map(|validation| &validation.runtimes);
    let mut text = verdict(artifact);
    if runtimes().next().is_some() {
        let rows: String = runtimes().map(overview).collect();
        text.push_str(&format!(
            "<div class=\"scroll\"><table>\n<tr><th>Runtime</th><th>Version</th><th>Provider</th><th class=\"number\">Max abs</th>\
             <th class=\"number\">Argmax</th><th class=\"number\">Checks</th><th class=\"number\">Time</th><th class=\"number\">Pass</th></tr>\n\
             {rows}</table></div>\n"
        ));
    }
    if let Some(runtime) = runtimes().find(|runtime| !runtime.distortion.is_empty()) {
        text.push_str(&distortion(&artifact.dtype, runtime));
    }
    text.extend(runtimes().map(details));
    Some(text)
}

fn verdict(artifact: &ArtifactManifest) -> String {
    let encoder = artifact.encoder_difference.map_or_else(String::new, |difference| {
        format!(
            " The prompt's rows, as compiled, differ from the trainer's own evaluation by at most {difference:.1e}."
        )
    });
    match &artifact.validation {
        None => format!("<p><span class=\"bad\">Not validated</span>: no check has run.{encoder}</p>\n"),
        Some(validation) => {
            let (class, word) = if artifact.validated { ("good", "Validated") } else { ("bad", "Failed") };
            let tolerance = validation.tolerance;
            let trainer = validation.trainer_tolerance.map_or_else(String::new, |tolerance| {
                format!(" ({tolerance:.1e} against the trainer's, whose weights the artifact does not hold exactly)")
            });
            let bound = validation.max_distortion.map_or_else(String::new, |bound| {
                format!(" between the artifact's own answers, and mean total variation from the trainer's of at most {bound}")
            });
            let rounding = validation.rounding.iter().map(|task| {
                let (name, allowed, own) = (escape(&task.task), task.allowed, task.f32_rounding);
                format!(" Of {name} {allowed:.1e} is allowed, four times the trainer's own f32 rounding of {own:.1e}.")
            });
            let rounding: String = rounding.collect();
            format!(
                "<p><span class=\"{class}\">{word}</span> with tolerance {tolerance:e} on logits{trainer}, in proportion where they exceed 10{bound}.{rounding}{encoder}</p>\n"
            )
        }
    }
}

fn overview(runtime: &RuntimeValidation) -> String {
    // This check wants a difference; all others want none.
    let parity = runtime.checks.iter().filter(|check| check.check != "differs-from-base");
    let worst = parity.filter_map(|check| check.max_abs).reduce(f64::max);
    let agreement = runtime.checks.iter().filter_map(|check| check.argmax_agreement).reduce(f64::min);
    let loaded = runtime.checks.iter().all(|check| check.check != "load" || check.passed);
    format!(
        "<tr><td>{}</td><td>{}</td><td>{}</td><td class=\"number\">{}</td><td class=\"number\">{}</td>\
         <td class=\"number\">{}</td><td class=\"number\">{}</td><td class=\"number\">{}</td></tr>\n",
        escape(&runtime.runtime),
        escape(&runtime.version),
        escape(runtime.execution_provider.as_deref().unwrap_or("-")),
        if loaded { difference(worst) } else { "did not load".to_owned() },
        percent(agreement),
        runtime.checks.len(),
        seconds(runtime.seconds),
        pass(runtime.passed)
    )
}

/// What the number type cost each task.
fn distortion(dtype: &str, runtime: &RuntimeValidation) -> String {
    let row = |task: &Distortion| {
        format!(
            "<tr><td>{}</td><td class=\"number\">{}</td><td class=\"number\">{:.4}</td><td class=\"number\">{:.4}</td>\
             <td class=\"number\">{:.2e}</td><td class=\"number\">{:.1e}</td><td class=\"number\">{:.1e}</td><td class=\"number\">{:.1} %</td></tr>\n",
            escape(&task.task),
            task.positions,
            task.total_variation,
            task.base_total_variation,
            task.kl_divergence,
            task.max_abs,
            task.mean_abs,
            task.argmax_agreement * 100.0
        )
    };
    let rows: String = runtime.distortion.iter().map(row).collect();
    format!(
        "<p>What {} costs each task, by {}: next-token distributions on the probes against the trainer's.</p>\n\
         <div class=\"scroll\"><table>\n<tr><th>Task</th><th class=\"number\">Positions</th><th class=\"number\">Total variation</th>\
         <th class=\"number\">Of the base model</th><th class=\"number\">KL divergence</th><th class=\"number\">Max abs</th>\
         <th class=\"number\">Mean abs</th><th class=\"number\">Argmax</th></tr>\n{rows}</table></div>\n",
        escape(dtype),
        escape(&runtime.runtime)
    )
}

fn details(runtime: &RuntimeValidation) -> String {
    let mut rows = String::new();
    for check in &runtime.checks {
        let share = percent(check.argmax_agreement);
        rows.push_str(&format!(
            "<tr title=\"{}\"><td>{}</td><td>{}</td><td class=\"number\">{}</td><td class=\"number\">{}</td>\
             <td class=\"number\">{share}</td><td class=\"number\">{}</td></tr>\n",
            escape(&check.detail),
            escape(&check.check),
            escape(check.task.as_deref().unwrap_or_default()),
            difference(check.max_abs),
            difference(check.max_rel),
            pass(check.passed)
        ));
    }
    // What failed is open at once.
    let open = if runtime.passed { "" } else { " open" };
    format!(
        "<details{open}><summary>Every check on {}</summary>\n<div class=\"scroll\"><table>\n<tr><th>Check</th><th>Task</th>\
         <th class=\"number\">Max abs</th><th class=\"number\">Max rel</th><th class=\"number\">Argmax</th><th class=\"number\">Pass</th></tr>\n\
         {rows}</table></div></details>\n",
        escape(&runtime.runtime)
    )
}

fn pass(passed: bool) -> &'static str {
    if passed { "<span class=\"good\">yes</span>" } else { "<span class=\"bad\">no</span>" }
}

/// `98.7 %`, or a dash.
fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", share * 100.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pemlc_artifact::artifact::CheckResult;

    fn runtime(check: &str, numbers: Option<(f64, f64)>) -> RuntimeValidation {
        let result = CheckResult {
            check: check.to_owned(),
            task: None,
            max_abs: numbers.map(|(max_abs, _)| max_abs),
            max_rel: None,
            argmax_agreement: numbers.map(|(_, agreement)| agreement),
            passed: numbers.is_some(),
            detail: String::new(),
        };
        RuntimeValidation {
            runtime: "ort-cpu".to_owned(),
            version: String::new(),
            execution_provider: None,
            passed: result.passed,
            checks: vec![result],
            distortion: Vec::new(),
            seconds: 0.5,
        }
    }

    #[test]
    fn a_runtime_that_did_not_load_has_no_numbers() {
        let row = overview(&runtime("load", None));
        assert!(row.contains(">did not load</td><td class=\"number\">-</td>"), "{row}");
        let row = overview(&runtime("prefill", None));
        assert!(row.contains("<td class=\"number\">-</td><td class=\"number\">-</td>"), "{row}");
        let row = overview(&runtime("prefill", Some((2e-6, 1.0))));
        assert!(row.contains(">2.0e-6</td><td class=\"number\">100.0 %</td>"), "{row}");
    }
}
