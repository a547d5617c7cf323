//! Scores before and after training.

use super::material::Material;
use super::svg::escape;
use crate::table::score;

/// A table with, in each row, the base model's score and the trained one's on a common scale.
pub(super) fn section(material: &Material) -> String {
    let scores = || material.run.tasks.iter().flat_map(|task| [task.base_score, task.score]).flatten();
    // Correlations may be negative; everything else lies between 0 and 1.
    let low = if scores().any(|value| value < 0.0) { -1.0 } else { 0.0 };
    let mut rows = String::new();
    for task in &material.run.tasks {
        let errors = material.errors.get(&task.name).copied().unwrap_or_default();
        let change = match (task.base_score, task.score) {
            (Some(base), Some(score)) => {
                let class = if score >= base { "good" } else { "bad" };
                format!("<span class=\"{class}\">{:+.3}</span>", score - base)
            }
            _ => "-".to_owned(),
        };
        rows.push_str(&format!(
            "<tr><td>{}</td><td>{}</td><td class=\"number\">{}</td><td class=\"number\">{}</td><td class=\"number\">{change}</td>\
             <td class=\"number\">{}</td><td class=\"range\">{}</td></tr>\n",
            escape(&task.name),
            escape(&task.metric),
            score(task.base_score, errors.base),
            score(task.score, errors.trained),
            task.validation_examples,
            range(low, (task.base_score, errors.base), (task.score, errors.trained))
        ));
    }
    format!(
        "<div class=\"scroll\"><table>\n<tr><th>Task</th><th>Metric</th><th class=\"number\">Base</th><th class=\"number\">Trained</th>\
         <th class=\"number\">Change</th><th class=\"number\">Examples</th><th>{low} to 1</th></tr>\n{rows}</table></div>\n\
         <p class=\"note\">± is one standard error. In the right column the ring is the untouched base model, the disc the trained one, \
         the whiskers one standard error.</p>\n"
    )
}

type Estimate = (Option<f64>, Option<f64>);

fn range(low: f64, base: Estimate, trained: Estimate) -> String {
    let x = |value: f64| 6.0 + ((value - low) / (1.0 - low)).clamp(0.0, 1.0) * 228.0;
    let mut svg = "<svg viewBox=\"0 0 240 22\" role=\"presentation\"><path class=\"grid\" d=\"M6 11H234\"/>".to_owned();
    if let (Some(from), Some(to)) = (base.0, trained.0) {
        svg.push_str(&format!("<path class=\"raw\" style=\"stroke-width:4\" d=\"M{:.1} 11H{:.1}\"/>", x(from), x(to)));
    }
    for ((value, error), class, fill) in
        [(base, "base", " fill-opacity=\"0\" stroke-width=\"2\""), (trained, "trained", "")]
    {
        let Some(value) = value else { continue };
        if let Some(error) = error {
            let (from, to) = (x(value - error), x(value + error));
            svg.push_str(&format!("<path class=\"{class}\" d=\"M{from:.1} 11H{to:.1}M{from:.1} 7V15M{to:.1} 7V15\"/>"));
        }
        svg.push_str(&format!("<circle class=\"{class}\"{fill} cx=\"{:.1}\" cy=\"11\" r=\"4.5\"/>", x(value)));
    }
    svg + "</svg>"
}
