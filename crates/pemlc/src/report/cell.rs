//! The prompt encoder's cell as a diagram: nodes from left to right, operations on the arrows.

use super::material::Material;
use super::svg::escape;
use pemlc_artifact::prompt::{Architecture, Generators, Operation};

const STEP: f64 = 250.0;
const NODE: f64 = 84.0;
const HIGH: f64 = 34.0;

/// The diagram, or what stands in place of an encoder.
pub(super) fn section(material: &Material) -> Option<String> {
    let prefix = material.run.prefix.as_ref()?;
    let searched = material.architecture.as_ref().and_then(|architecture| architecture.layers.as_ref());
    let layers = searched.map_or_else(
        || "a layer".to_owned(),
        |layers| format!("on layers {}", layers.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")),
    );
    let rows = format!(
        "{} key and value rows {layers}, {}{}.",
        prefix.length,
        if prefix.per_task { "one set for each task" } else { "one set for all tasks" },
        if prefix.gated { ", with a learned log-gate" } else { "" }
    );
    let Some(architecture) = &material.architecture else {
        return Some(format!("<p>No encoder: the rows were learned directly. {rows}</p>\n"));
    };
    Some(format!(
        "<div class=\"scroll\">{}</div>\n<p class=\"note\">The operation that won on each edge, with its softmax weight when the search \
         ended. Nodes are sums over their edges of the operation on the layer-normalised source; seed width {}, {}. {rows}</p>\n",
        diagram(architecture),
        architecture.width,
        match architecture.generators {
            Generators::Shared => "one generator for all layers",
            Generators::Groups => "one generator for every four layers",
            Generators::PerLayer => "one generator a layer",
        }
    ))
}

pub(super) fn diagram(architecture: &Architecture) -> String {
    let nodes = architecture.nodes;
    let width = STEP * (nodes + 1) as f64 + NODE + 20.0;
    let longest = architecture.edges.iter().map(|edge| edge.to.saturating_sub(edge.from)).max().unwrap_or(1).max(1);
    let rise = |span: usize| if span > 1 { 52.0 * (span - 1) as f64 + 20.0 } else { 0.0 };
    let middle = rise(longest) + 46.0;
    let height = middle + HIGH / 2.0 + rise(nodes) + 30.0;
    let center = |node: usize| 10.0 + NODE / 2.0 + STEP * node as f64;

    let mut svg = format!(
        "<svg class=\"wide\" viewBox=\"0 0 {width} {height:.0}\" role=\"img\" aria-label=\"Architecture of the prompt encoder\">\n\
         <defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" orient=\"auto\">\
         <path class=\"arrow\" d=\"M0 0L8 4L0 8z\"/></marker></defs>\n"
    );
    let mut labels = String::new();
    for edge in &architecture.edges {
        let (from, to) = (center(edge.from), center(edge.to));
        let span = edge.to.saturating_sub(edge.from);
        let top = arrow(&mut svg, from, to, middle, -rise(span));
        labels.push_str(&format!(
            "<text class=\"halo\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}<tspan class=\"soft\"> {:.2}</tspan></text>\n",
            (from + to) / 2.0,
            top - 7.0,
            escape(&name(&edge.operation)),
            edge.weight
        ));
    }
    // Every node but the seed goes into the mean; these arrows bend below, apart from the searched ones.
    for node in 1..=nodes {
        arrow(&mut svg, center(node), center(nodes + 1), middle, rise(nodes + 1 - node));
    }
    for node in 0..=nodes + 1 {
        let label = match node {
            0 => "seed".to_owned(),
            _ if node == nodes + 1 => "mean".to_owned(),
            _ => format!("node {node}"),
        };
        svg.push_str(&format!(
            "<rect class=\"node\" x=\"{:.1}\" y=\"{:.1}\" width=\"{NODE}\" height=\"{HIGH}\" rx=\"8\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>\n",
            center(node) - NODE / 2.0,
            middle - HIGH / 2.0,
            center(node),
            middle + 4.0
        ));
    }
    svg + &labels + "</svg>\n"
}

/// Draws an arrow that bends by `bend` (down is positive) and returns the height of its middle.
fn arrow(svg: &mut String, from: f64, to: f64, middle: f64, bend: f64) -> f64 {
    if bend == 0.0 {
        let (start, end) = (from + NODE / 2.0, to - NODE / 2.0 - 2.0);
        svg.push_str(&format!(
            "<path class=\"link\" marker-end=\"url(#tip)\" d=\"M{start:.1} {middle:.1}H{end:.1}\"/>\n"
        ));
        return middle;
    }
    let edge = middle + bend.signum() * HIGH / 2.0;
    let (start, end) = (from + 14.0, to - 14.0);
    // A cubic's middle lies three quarters of the way to its control points.
    let control = edge + bend / 0.75;
    svg.push_str(&format!(
        "<path class=\"link\" marker-end=\"url(#tip)\" d=\"M{start:.1} {edge:.1}C{:.1} {control:.1} {:.1} {control:.1} {end:.1} {:.1}\"/>\n",
        start + 20.0,
        end - 20.0,
        edge + bend.signum()
    ));
    edge + bend
}

fn name(operation: &Operation) -> String {
    match operation {
        Operation::None => "none".to_owned(),
        Operation::Skip => "skip".to_owned(),
        Operation::Linear => "linear".to_owned(),
        Operation::MlpTanh { width } => format!("MLP tanh {width}"),
        Operation::MlpGelu { width } => format!("MLP gelu {width}"),
        Operation::DepthwiseConvolution { kernel } => format!("convolution {kernel}"),
        Operation::Glu => "GLU".to_owned(),
        Operation::Attention { heads } => format!("attention {heads} heads"),
    }
}
