//! The loss curve.

use super::material::Step;
use super::svg::{escape, points, tick_label, ticks};

const WIDTH: f64 = 880.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 48.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 24.0;
const BOTTOM: f64 = 36.0;

/// The curve, or nothing when no step was logged.
pub(super) fn section(steps: &[Step]) -> Option<String> {
    let steps: Vec<&Step> = steps.iter().filter(|step| step.loss.is_finite()).collect();
    let (first, last) = (steps.first()?, steps.last()?);
    let smooth = smoothed(&steps);
    let low = 0.0;
    let high = steps.iter().map(|step| step.loss).fold(0.0, f64::max).max(1e-6);
    let span = (last.step - first.step).max(1) as f64;
    let x = |step: u64| LEFT + (step - first.step) as f64 / span * (WIDTH - LEFT - RIGHT);
    let y = |loss: f64| HEIGHT - BOTTOM - (loss - low) / (high - low) * (HEIGHT - TOP - BOTTOM);

    let mut svg = format!(
        "<svg class=\"wide\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"Training loss by step\">\n"
    );
    for tick in ticks(low, high, 5) {
        let at = y(tick);
        svg.push_str(&format!(
            "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{}\"/><text class=\"soft\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n",
            WIDTH - RIGHT,
            LEFT - 8.0,
            at + 4.0,
            tick_label(tick)
        ));
    }
    for tick in ticks(first.step as f64, last.step as f64, 8) {
        svg.push_str(&format!(
            "<text class=\"soft\" x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n",
            x(tick.max(0.0) as u64),
            HEIGHT - BOTTOM + 20.0,
            tick_label(tick)
        ));
    }
    for pair in steps.windows(2) {
        if let [before, after] = pair
            && before.phase != after.phase
        {
            let at = x(after.step);
            svg.push_str(&format!(
                "<path class=\"mark\" d=\"M{at:.1} {TOP}V{}\"/><text class=\"soft\" x=\"{:.1}\" y=\"{}\">{}</text>\n",
                HEIGHT - BOTTOM,
                at + 5.0,
                TOP - 8.0,
                escape(&after.phase)
            ));
        }
    }
    if !first.phase.is_empty() {
        svg.push_str(&format!(
            "<text class=\"soft\" x=\"{LEFT}\" y=\"{}\">{}</text>\n",
            TOP - 8.0,
            escape(&first.phase)
        ));
    }
    svg.push_str(&format!(
        "<polyline class=\"raw\" points=\"{}\"/>\n",
        points(steps.iter().map(|s| (x(s.step), y(s.loss))))
    ));
    svg.push_str(&format!(
        "<polyline class=\"curve\" points=\"{}\"/>\n</svg>\n",
        points(steps.iter().zip(&smooth).map(|(step, loss)| (x(step.step), y(*loss))))
    ));
    let ended = smooth.last().copied().unwrap_or(last.loss);
    Some(format!(
        "<div class=\"scroll\">{svg}</div>\n<p class=\"note\">Nats per answer token by optimiser step: each logged step, and their \
         exponential average, which ends at {ended:.3}.</p>\n"
    ))
}

/// Exponential average over about a fortieth of the run, without the pull of the start towards zero.
fn smoothed(steps: &[&Step]) -> Vec<f64> {
    let keep = 1.0 - 1.0 / (steps.len() as f64 / 40.0).max(1.0);
    let (mut sum, mut weight) = (0.0, 0.0);
    steps
        .iter()
        .map(|step| {
            sum = keep * sum + (1.0 - keep) * step.loss;
            weight = keep * weight + (1.0 - keep);
            sum / weight
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curve_marks_where_the_phase_changes() {
        let step = |step: u64, phase: &str| Step { step, loss: 2.0 / (step + 1) as f64, phase: phase.to_owned() };
        let page = section(&[step(0, "search"), step(1, "search"), step(2, "tune")]).unwrap_or_default();
        assert_eq!(page.matches("class=\"mark\"").count(), 1);
        assert!(page.contains(">tune</text>") && page.contains(">search</text>"), "{page}");
        assert_eq!(section(&[]), None);
    }

    #[test]
    fn the_average_of_a_constant_is_that_constant() {
        let steps: Vec<Step> = (0..100).map(|step| Step { step, loss: 1.5, phase: String::new() }).collect();
        let smooth = smoothed(&steps.iter().collect::<Vec<_>>());
        assert!(smooth.iter().all(|loss| (loss - 1.5).abs() < 1e-12), "{smooth:?}");
    }
}
