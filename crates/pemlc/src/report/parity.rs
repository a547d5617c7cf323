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
            let bound = validation.max_distortion.map_or_else(String::new, |bound| {
                format!(" between the artifact's own answers, and mean total variation from the trainer's of at most {bound}")
            });
            let rounding = validation.rounding.iter().map(|task| {
                let (name, allowed, own) = (escape(&task.task), task.allowed, task.f32_rounding);
                format!(" Of {name} {allowed:.1e} is allowed, four times the trainer's own f32 rounding of {own:.1e}.")
            });
            let rounding: String = rounding.collect();
            format!(
                "<p><span class=\"{class}\">{word}</span> with tolerance {tolerance:e} on logits, in proportion where they exceed 10{bound}.{rounding}{encoder}</p>\n"
            )
        }
    }
}

fn overview(runtime: &RuntimeValidation) -> String {
    // This check wants a difference; all others want none.
    let parity = runtime.checks.iter().filter(|check| check.check != "differs-from-base");
    let worst = parity.filter_map(|check| check.max_abs).fold(0.0, f64::max);
    let agreement = runtime.checks.iter().filter_map(|check| check.argmax_agreement).fold(1.0, f64::min);
    format!(
        "<tr><td>{}</td><td>{}</td><td>{}</td><td class=\"number\">{}</td><td class=\"number\">{:.1} %</td>\
         <td class=\"number\">{}</td><td class=\"number\">{}</td><td class=\"number\">{}</td></tr>\n",
        escape(&runtime.runtime),
        escape(&runtime.version),
        escape(runtime.execution_provider.as_deref().unwrap_or("-")),
        difference(Some(worst)),
        agreement * 100.0,
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
        let share = check.argmax_agreement.map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", share * 100.0));
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
