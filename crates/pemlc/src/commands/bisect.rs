//! `pemlc check --bisect`.

use super::check::options;
use crate::Outcome;
use crate::arguments::CheckSettings;
use anyhow::bail;
use pemlc_artifact::artifact::ArtifactPaths;
use pemlc_runtime::{RuntimeKind, Side, Verdict};
use std::path::Path;

/// Lines of the graph's text on either side of a node.
const AROUND: usize = 4;

pub(super) fn run(dir: &Path, named: &[RuntimeKind], settings: &CheckSettings) -> anyhow::Result<Outcome> {
    if named.len() == 1 || named.len() > 2 {
        bail!("--bisect compares two runtimes, for instance --bisect=tract,ort-cpu-unoptimized");
    }
    let wanted = if named.is_empty() { &settings.runtime[..] } else { named };
    let sides = pemlc_runtime::default_sides(dir, wanted)?.map(Side::from);
    let found = pemlc_runtime::bisect(dir, &sides, &options(settings), &mut |line| eprintln!("{line}"))?;
    print!("\n{found}");
    if let Verdict::Node(culprit) = &found.verdict {
        let text = pemlc_compiler::inspect(&ArtifactPaths::new(dir).graph())?;
        println!("\n{}", around(&text, &culprit.output.name));
    }
    Ok(if found.passed() { Outcome::Done } else { Outcome::Failed })
}

/// The lines of the graph's text around the node that computes `value`, which is marked.
fn around(text: &str, value: &str) -> String {
    let nodes = text.lines().skip_while(|line| !line.starts_with("nodes ") && !line.starts_with("  nodes ")).skip(1);
    let nodes: Vec<&str> = nodes.collect();
    let computes = |line: &&str| {
        let names = line.trim_start().split(" = ").next().unwrap_or_default();
        names.split(", ").any(|name| name.split(": ").next() == Some(value))
    };
    let Some(place) = nodes.iter().position(computes) else { return String::new() };
    let shown = place.saturating_sub(AROUND)..nodes.len().min(place + AROUND + 1);
    let line = |index: usize| format!("{} {}", if index == place { ">" } else { " " }, nodes[index].trim_start());
    shown.map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::around;

    #[test]
    fn the_node_is_marked_among_its_neighbours() {
        let lines: Vec<String> = (0..12).map(|n| format!("  v.{n}: f32[2, 3] = Add(v.{}, w)", n + 1)).collect();
        let text = format!("graph g\ninitialisers 1\n  v.3: f32[2]\nnodes 12\n{}", lines.join("\n"));
        let shown = around(&text, "v.3");
        assert_eq!(shown.lines().count(), 8);
        assert_eq!(shown.lines().find(|line| line.starts_with('>')), Some("> v.3: f32[2, 3] = Add(v.4, w)"));
        assert_eq!(around(&text, "nobody"), "");
    }
}
