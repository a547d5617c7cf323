//! What the passes did to each graph, for whoever wants to see.

use crate::ir::Graph;
use crate::passes::Outcome;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The passes over one graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// The graph's file.
    pub file: String,
    /// What each pass did, in order.
    pub outcomes: Vec<Outcome>,
    /// The graph as text after the passes that were asked for.
    pub printed: Vec<(&'static str, String)>,
}

/// Which graphs to keep as text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum PrintAfter {
    /// None.
    #[default]
    Nothing,
    /// After every pass.
    Everything,
    /// After the passes of these names.
    Passes(Vec<String>),
}

impl PrintAfter {
    /// The first name that is none of `known`.
    pub(crate) fn unknown(&self, known: &[&str]) -> Option<&str> {
        let Self::Passes(names) = self else { return None };
        names.iter().map(String::as_str).find(|name| !known.contains(name))
    }

    pub(crate) fn wants(&self, pass: &str) -> bool {
        match self {
            Self::Nothing => false,
            Self::Everything => true,
            Self::Passes(names) => names.iter().any(|name| name == pass),
        }
    }
}

impl Trace {
    pub(crate) fn new(file: &str) -> Self {
        Self { file: file.to_owned(), outcomes: Vec::new(), printed: Vec::new() }
    }

    pub(crate) fn add(&mut self, outcome: &Outcome, graph: &Graph, print: &PrintAfter) {
        if print.wants(outcome.pass) {
            self.printed.push((outcome.pass, graph.to_string()));
        }
        self.outcomes.push(outcome.clone());
    }

    /// What the passes did, as text. Lines that differ in the names between backquotes alone are counted together; `all` writes each.
    pub fn explain(&self, all: bool) -> String {
        let mut text = format!("{}\n", self.file);
        for outcome in &self.outcomes {
            let _ = writeln!(text, "  {}", outcome.pass);
            if outcome.changed.is_empty() && outcome.declined.is_empty() {
                text.push_str("    found nothing to do\n");
            }
            for (label, lines) in [("", &outcome.changed), ("declined: ", &outcome.declined)] {
                if all {
                    lines.iter().for_each(|line| {
                        let _ = writeln!(text, "    {label}{line}");
                    });
                } else {
                    for (count, line) in grouped(lines) {
                        let _ = writeln!(
                            text,
                            "    {label}{line}{}",
                            if count > 1 { format!(" (and {} more like it)", count - 1) } else { String::new() }
                        );
                    }
                }
            }
        }
        text
    }
}

/// Lines that are equal up to what stands between backquotes: how many, and the first of them; in order of appearance.
fn grouped(lines: &[String]) -> Vec<(usize, &str)> {
    let mut groups: Vec<(usize, &str)> = Vec::new();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for line in lines {
        let shape: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        match places.get(&shape) {
            Some(place) => groups[*place].0 += 1,
            None => {
                places.insert(shape, groups.len());
                groups.push((1, line));
            }
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace() -> Trace {
        let changed = ["folded `a` into `w`", "folded `b` into `v`", "removed `x`"].map(str::to_owned).to_vec();
        let outcome = Outcome { pass: "fold", changed, declined: vec!["`c`: `w` is read elsewhere too".to_owned()] };
        let idle = Outcome { pass: "dead_code", ..Outcome::default() };
        Trace { file: "model.onnx".to_owned(), outcomes: vec![outcome, idle], printed: Vec::new() }
    }

    #[test]
    fn lines_alike_are_counted() {
        insta::assert_snapshot!(trace().explain(false), @r"
        model.onnx
          fold
            folded `a` into `w` (and 1 more like it)
            removed `x`
            declined: `c`: `w` is read elsewhere too
          dead_code
            found nothing to do
        ");
    }

    #[test]
    fn all_lines_are_written_when_asked_for() {
        assert_eq!(trace().explain(true).lines().count(), 8);
    }
}
