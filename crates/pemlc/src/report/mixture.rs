//! What the search leaned to over its steps: the candidates' shares on each edge, the lengths' and the layers'.

use super::material::Mixture;
use super::svg::{escape, points, tick_label};
use pemlc_artifact::run::StageRecord;

const WIDTH: f64 = 270.0;
const HEIGHT: f64 = 150.0;
const LEFT: f64 = 34.0;
const RIGHT: f64 = 8.0;
const TOP: f64 = 22.0;
const BOTTOM: f64 = 20.0;
/// Colours that the style sheet has for lines.
const COLOURS: usize = 8;

/// Curves of the shares, and the scores of the stages; nothing for a run without a search.
pub(super) fn section(mixtures: &[Mixture], stages: &[StageRecord]) -> Option<String> {
    let mut html = String::new();
    if let (Some(first), Some(last)) = (mixtures.first(), mixtures.last()) {
        html += &curves(mixtures, first, last);
        if !last.layers.is_empty() {
            html += &layers(&last.layers);
        }
    }
    if stages.len() > 1 {
        html += &scores(stages);
    }
    (!html.is_empty()).then_some(html)
}

fn curves(mixtures: &[Mixture], first: &Mixture, last: &Mixture) -> String {
    let names: Vec<&str> = first
        .edges
        .first()
        .map(|(_, shares)| shares.iter().map(|(name, _)| name.as_str()).collect())
        .unwrap_or_default();
    let mut legend = String::new();
    for (index, name) in names.iter().enumerate() {
        legend += &format!("<span class=\"key\"><i class=\"c{}\"></i>{}</span>", index % COLOURS, escape(name));
    }
    let mut charts = String::new();
    for (index, (edge, _)) in first.edges.iter().enumerate() {
        let of = |mixture: &Mixture| mixture.edges.get(index).map(|(_, shares)| shares.clone()).unwrap_or_default();
        charts += &chart(&format!("edge {edge}"), mixtures, (first.step, last.step), &of, false);
    }
    if !first.lengths.is_empty() {
        charts += &chart("rows", mixtures, (first.step, last.step), &|mixture| mixture.lengths.clone(), true);
    }
    format!(
        "<p class=\"legend\">{legend}</p>\n<div class=\"charts\">{charts}</div>\n<p class=\"note\">Share of each candidate by optimiser step, \
         the softmax of its logits. Where no line leaves the others the search did not tell them apart.</p>\n"
    )
}

fn chart(
    title: &str,
    mixtures: &[Mixture],
    (first, last): (u64, u64),
    shares: &dyn Fn(&Mixture) -> Vec<(String, f64)>,
    labelled: bool,
) -> String {
    let span = last.saturating_sub(first).max(1) as f64;
    let x = |step: u64| LEFT + step.saturating_sub(first) as f64 / span * (WIDTH - LEFT - RIGHT);
    let y = |share: f64| HEIGHT - BOTTOM - share.clamp(0.0, 1.0) * (HEIGHT - TOP - BOTTOM);
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"Shares, {}\"><text x=\"{LEFT}\" y=\"13\">{}</text>",
        escape(title),
        escape(title)
    );
    for tick in [0.0, 0.5, 1.0] {
        svg += &format!(
            "<path class=\"grid\" d=\"M{LEFT} {:.1}H{}\"/><text class=\"soft\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            y(tick),
            WIDTH - RIGHT,
            LEFT - 5.0,
            y(tick) + 4.0,
            tick_label(tick)
        );
    }
    for (step, anchor) in [(first, "start"), (last, "end")] {
        svg += &format!(
            "<text class=\"soft\" x=\"{:.1}\" y=\"{}\" text-anchor=\"{anchor}\">{step}</text>",
            x(step),
            HEIGHT - 5.0
        );
    }
    let names: Vec<String> =
        mixtures.first().map(shares).unwrap_or_default().into_iter().map(|(name, _)| name).collect();
    for (index, name) in names.iter().enumerate() {
        let line: Vec<(f64, f64)> =
            mixtures.iter().filter_map(|mixture| Some((x(mixture.step), y(shares(mixture).get(index)?.1)))).collect();
        svg += &format!("<polyline class=\"line c{}\" points=\"{}\"/>", index % COLOURS, points(line.iter().copied()));
        if let (true, Some((_, end))) = (labelled, line.last()) {
            svg += &format!(
                "<text class=\"halo\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT - 2.0,
                end - 3.0,
                escape(name)
            );
        }
    }
    svg + "</svg>\n"
}

/// A bar for each layer's gate.
fn layers(gates: &[f64]) -> String {
    let wide = 880.0 / gates.len().max(1) as f64;
    let mut svg =
        "<svg class=\"wide\" viewBox=\"0 0 880 80\" role=\"img\" aria-label=\"Gates of the layers\">".to_owned();
    for (layer, gate) in gates.iter().enumerate() {
        let (x, high) = (layer as f64 * wide, gate.clamp(0.0, 1.0) * 60.0);
        svg += &format!(
            "<rect class=\"{}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{high:.1}\"/>\
             <text class=\"soft\" x=\"{:.1}\" y=\"76\" text-anchor=\"middle\">{layer}</text>",
            if *gate > 0.5 { "trained" } else { "base" },
            x + 1.0,
            62.0 - high,
            (wide - 2.0).max(1.0),
            x + wide / 2.0
        );
    }
    svg += "<path class=\"mark\" d=\"M0 32H880\"/></svg>";
    format!(
        "<div class=\"scroll\">{svg}</div>\n<p class=\"note\">Gate of each layer when the search ended; layers above one half keep their rows.</p>\n"
    )
}

fn scores(stages: &[StageRecord]) -> String {
    let tasks: Vec<&str> =
        stages.first().map(|stage| stage.scores.iter().map(|score| score.task.as_str()).collect()).unwrap_or_default();
    let heads: String = tasks.iter().map(|task| format!("<th class=\"number\">{}</th>", escape(task))).collect();
    let mut rows = String::new();
    for stage in stages {
        let cells: String = stage
            .scores
            .iter()
            .map(|score| format!("<td class=\"number\">{:.3} ± {:.3}</td>", score.value, score.standard_error))
            .collect();
        rows += &format!(
            "<tr><td>{}</td><td class=\"number\">{}</td>{cells}<td class=\"number\">{:.3}</td></tr>\n",
            escape(&stage.stage),
            stage.steps,
            stage.mean()
        );
    }
    format!(
        "<div class=\"scroll\"><table>\n<tr><th>Stage</th><th class=\"number\">Steps</th>{heads}<th class=\"number\">Mean</th></tr>\n{rows}\
         </table></div>\n<p class=\"note\">Validation scores of the mixture (soft), of the cell that it became before any further step \
         (discretised), and of that cell after the steps that followed.</p>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_edge_has_a_chart_and_every_candidate_a_line() {
        let mixture = |step, skip: f64| Mixture {
            step,
            edges: ["0->1", "0->2"]
                .map(|edge| (edge.to_owned(), vec![("skip".to_owned(), skip), ("linear".to_owned(), 1.0 - skip)]))
                .to_vec(),
            lengths: vec![("4".to_owned(), 0.5), ("8".to_owned(), 0.5)],
            layers: vec![0.7, 0.2],
        };
        let html = section(&[mixture(0, 0.5), mixture(9, 0.9)], &[]).unwrap_or_default();
        assert_eq!(html.matches("<svg").count(), 4, "two edges, lengths, layers: {html}");
        assert_eq!(html.matches("<polyline").count(), 6);
        assert!(html.contains("edge 0-&gt;1"), "{html}");
        assert_eq!(section(&[], &[]), None);
    }
}
