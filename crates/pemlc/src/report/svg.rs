//! Small pieces of HTML and SVG.

/// `text` as HTML text or attribute value.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// Round numbers that divide `[low, high]` into about `wanted` parts.
pub(super) fn ticks(low: f64, high: f64, wanted: usize) -> Vec<f64> {
    let span = high - low;
    if span <= 0.0 || !span.is_finite() {
        return vec![low];
    }
    let rough = span / wanted.max(1) as f64;
    let magnitude = 10f64.powf(rough.log10().floor());
    let step =
        [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|m| m * magnitude).find(|step| *step >= rough).unwrap_or(rough);
    let first = (low / step).ceil();
    let last = (high / step).floor();
    let count = (last - first).max(0.0) as usize + 1;
    (0..count).map(|index| (first + index as f64) * step).collect()
}

/// A number without needless digits.
pub(super) fn tick_label(value: f64) -> String {
    let text = format!("{value:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

/// The attribute `points` of a polyline.
pub(super) fn points(values: impl Iterator<Item = (f64, f64)>) -> String {
    values.map(|(x, y)| format!("{x:.1},{y:.1}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round() {
        assert_eq!(ticks(0.0, 300.0, 6), [0.0, 50.0, 100.0, 150.0, 200.0, 250.0, 300.0]);
        assert_eq!(ticks(0.31, 1.9, 4).into_iter().map(tick_label).collect::<Vec<_>>(), ["0.5", "1", "1.5"]);
        assert_eq!(ticks(2.0, 2.0, 4), [2.0]);
    }

    #[test]
    fn names_cannot_break_the_page() {
        assert_eq!(escape("<b>\"a\" & b"), "&lt;b&gt;&quot;a&quot; &amp; b");
    }
}
