//! What bisecting found, as text.

use super::difference::Difference;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What was found.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// The first node whose output its inputs do not explain.
    Node(Box<Culprit>),
    /// Reading values inside the graph makes the difference go: an optimisation that spans them makes it.
    Hidden(Hidden),
    /// Every node is right up to rounding, which adds up.
    Rounding(Growth),
    /// One runtime runs the case and the other fails.
    Fails {
        /// The one that fails.
        runtime: String,
        /// What it says.
        message: String,
    },
    /// The two never differed.
    Same,
}

/// A node that is computed wrongly.
#[derive(Debug, Clone)]
pub struct Culprit {
    /// Its name.
    pub node: String,
    /// Its operator.
    pub operator: String,
    /// Its place in the order of execution, from 1.
    pub position: usize,
    /// Number of nodes.
    pub of: usize,
    /// What it reads.
    pub inputs: Vec<Operand>,
    /// The output that is wrong.
    pub output: Operand,
    /// An element of the output.
    pub element: Element,
    /// Which of the two runtimes is wrong; absent when the reference does not know the operator.
    pub wrong: Option<[bool; 2]>,
}

/// A value that a node reads or writes.
#[derive(Debug, Clone)]
pub struct Operand {
    /// Its name.
    pub name: String,
    /// Number type and shape.
    pub described: String,
    /// It is an initialiser.
    pub weight: bool,
    /// How far the two runtimes are apart; absent when it could not be read.
    pub difference: Option<Difference>,
}

/// One number of a node's output.
#[derive(Debug, Clone)]
pub struct Element {
    /// Its indices.
    pub indices: String,
    /// What the two runtimes have.
    pub found: [f64; 2],
    /// What f64 gives from the inputs that each of them had, and how far rounding may be off.
    pub expected: [Option<(f64, f64)>; 2],
}

/// Neighbouring nodes that only differ while nobody looks.
#[derive(Debug, Clone)]
pub struct Hidden {
    /// Their names, in order.
    pub nodes: Vec<String>,
}

/// How rounding adds up along the graph.
#[derive(Debug, Clone, Default)]
pub struct Growth {
    /// Nodes in order of execution.
    pub steps: Vec<Step>,
    /// Operators that the f64 reference does not know, whose nodes were held to their neighbours only.
    pub unreferenced: BTreeSet<String>,
    /// Nodes on which both runtimes agree with each other and not with the reference.
    pub disputed: Vec<String>,
    /// Nodes whose values could not be read, and why.
    pub unread: Vec<(String, String)>,
}

/// A node's part in it.
#[derive(Debug, Clone)]
pub struct Step {
    /// The node.
    pub node: String,
    /// Its operator.
    pub operator: String,
    /// Its layer, as its name tells.
    pub layer: Option<usize>,
    /// Largest relative difference among its inputs.
    pub before: f64,
    /// Relative difference of its output.
    pub after: f64,
}

impl Growth {
    /// The node behind which the relative difference rises most.
    pub fn largest_jump(&self) -> Option<&Step> {
        let rise = |step: &Step| step.after - step.before;
        self.steps.iter().filter(|step| rise(step) > 0.0).max_by(|one, other| rise(one).total_cmp(&rise(other)))
    }

    /// Of each layer, and of what stands before and behind them: nodes, the largest relative difference, and the last.
    fn layers(&self) -> Vec<(String, usize, f64, f64)> {
        let first = self.steps.iter().position(|step| step.layer.is_some()).unwrap_or(self.steps.len());
        let mut layers: BTreeMap<(u8, usize), (usize, f64, f64)> = BTreeMap::new();
        for (place, step) in self.steps.iter().enumerate() {
            let key = match step.layer {
                Some(layer) => (1, layer),
                None if place < first => (0, 0),
                None => (2, 0),
            };
            let (nodes, largest, last) = layers.entry(key).or_default();
            *nodes += 1;
            *largest = largest.max(step.after);
            *last = step.after;
        }
        let name = |(part, layer): (u8, usize)| match part {
            0 => "before layers".to_owned(),
            1 => format!("layer {layer}"),
            _ => "behind layers".to_owned(),
        };
        layers.into_iter().map(|(key, (nodes, largest, last))| (name(key), nodes, largest, last)).collect()
    }
}

/// What was compared, and what was found.
#[derive(Debug, Clone)]
pub struct Bisection {
    /// The two sides, as they are called in the text.
    pub sides: [String; 2],
    /// The case that was looked into, in words.
    pub case: Option<String>,
    /// Logits differ by more than the tolerance there.
    pub beyond_tolerance: bool,
    /// Checks that failed on the first side, with their reasons.
    pub failed: Vec<String>,
    /// What was found.
    pub verdict: Verdict,
}

impl Bisection {
    /// Nothing is wrong: every check passed, and no node is to blame.
    pub fn passed(&self) -> bool {
        self.failed.is_empty() && matches!(self.verdict, Verdict::Same | Verdict::Rounding(_))
    }
}

impl fmt::Display for Bisection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [one, other] = &self.sides;
        writeln!(f, "{one} against {other}")?;
        if let Some(case) = &self.case {
            writeln!(f, "{case}")?;
        }
        writeln!(f)?;
        match &self.verdict {
            Verdict::Node(culprit) => self.culprit(f, culprit)?,
            Verdict::Hidden(hidden) => {
                writeln!(
                    f,
                    "No node by itself is wrong: the difference goes when these values are read, and so kept from being optimised away."
                )?;
                writeln!(f, "An optimisation that joins them makes it:")?;
                for node in &hidden.nodes {
                    writeln!(f, "  {node}")?;
                }
            }
            Verdict::Rounding(growth) => self.growth(f, growth)?,
            Verdict::Fails { runtime, message } => writeln!(f, "{runtime} fails where the other runs: {message}")?,
            Verdict::Same => writeln!(f, "The two give the same logits in every case.")?,
        }
        let alike = !self.beyond_tolerance && matches!(self.verdict, Verdict::Same | Verdict::Rounding(_));
        if alike && !self.failed.is_empty() {
            writeln!(
                f,
                "\nBoth compute alike what the graph says, and the check fails: the graph itself, and no runtime, is wrong."
            )?;
            for failure in &self.failed {
                writeln!(f, "  {failure}")?;
            }
        }
        Ok(())
    }
}

impl Bisection {
    fn culprit(&self, f: &mut fmt::Formatter<'_>, culprit: &Culprit) -> fmt::Result {
        let Culprit { node, operator, position, of, .. } = culprit;
        let [one, other] = &self.sides;
        let nodes = format!("{operator}, node {position} of {of}");
        match culprit.wrong {
            Some([true, false]) => {
                writeln!(f, "first node that is computed wrongly: {node} ({nodes})")?;
                writeln!(f, "{one} is wrong; {other} has what f64 gives from its inputs")?;
            }
            Some([false, _]) => {
                writeln!(f, "first node that is computed wrongly: {node} ({nodes})")?;
                writeln!(f, "{other} is wrong; {one} has what f64 gives from its inputs")?;
            }
            Some([true, true]) => {
                writeln!(f, "first node that is computed wrongly: {node} ({nodes})")?;
                writeln!(f, "neither has what f64 gives from its inputs")?;
            }
            None => {
                writeln!(f, "first node that differs by more than its inputs do: {node} ({nodes})")?;
                writeln!(f, "which of the two is wrong is not known: there is no reference for {operator}")?;
            }
        }
        writeln!(f)?;
        let rows = culprit.inputs.iter().map(|operand| (if operand.weight { "weight" } else { "input" }, operand));
        let rows: Vec<_> = rows.chain([("output", &culprit.output)]).collect();
        let width = |text: &dyn Fn(&Operand) -> usize| rows.iter().map(|(_, operand)| text(operand)).max().unwrap_or(0);
        let (names, types) = (width(&|operand| operand.name.len()), width(&|operand| operand.described.len()));
        for (kind, operand) in &rows {
            let difference = match &operand.difference {
                _ if operand.weight => "as the file has it".to_owned(),
                None => "could not be read".to_owned(),
                Some(difference) if difference.is_none() => "the same on both".to_owned(),
                Some(difference) => {
                    format!("differs by up to {:.1e}, relatively {:.1e}", difference.largest, difference.relative)
                }
            };
            writeln!(f, "{kind:<6}  {:<names$}  {:<types$}  {difference}", operand.name, operand.described)?;
        }
        let Element { indices, found, expected } = &culprit.element;
        let of_side = |side: usize| {
            let expected = expected[side].map(|(number, allowed)| {
                format!(", where its inputs give {} (rounding explains {allowed:.1e})", short(number))
            });
            format!("{} has {}{}", self.sides[side], short(found[side]), expected.unwrap_or_default())
        };
        writeln!(f, "\nelement {indices}: {}; {}", of_side(0), of_side(1))
    }

    fn growth(&self, f: &mut fmt::Formatter<'_>, growth: &Growth) -> fmt::Result {
        if self.beyond_tolerance {
            writeln!(f, "No node is to blame: each has what its inputs give up to rounding, and rounding adds up.")?;
        } else {
            writeln!(f, "No node is to blame: each has what its inputs give up to rounding.")?;
        }
        writeln!(f, "\n{:<14}  {:>5}  {:>11}  {:>11}", "relative", "nodes", "largest", "at the end")?;
        for (name, nodes, largest, last) in growth.layers() {
            writeln!(f, "{name:<14}  {nodes:>5}  {largest:>11.1e}  {last:>11.1e}")?;
        }
        if let Some(step) = growth.largest_jump() {
            let Step { node, operator, before, after, .. } = step;
            writeln!(f, "\nlargest jump: {node} ({operator}), from {before:.1e} to {after:.1e}")?;
        }
        if !growth.unreferenced.is_empty() {
            let operators: Vec<&str> = growth.unreferenced.iter().map(String::as_str).collect();
            writeln!(f, "without a reference, so only compared with each other: {}", operators.join(", "))?;
        }
        if let Some(node) = growth.disputed.first() {
            let nodes = growth.disputed.len();
            writeln!(f, "{nodes} nodes on which both agree and the reference does not, the first {node}")?;
        }
        if let Some((node, reason)) = growth.unread.first() {
            writeln!(f, "{} nodes could not be read, the first {node}: {reason}", growth.unread.len())?;
        }
        Ok(())
    }
}

/// As many digits as an f32 has.
fn short(number: f64) -> String {
    format!("{}", number as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operand(name: &str, weight: bool, difference: Option<Difference>) -> Operand {
        Operand { name: name.to_owned(), described: "f32[1, 5, 8]".to_owned(), weight, difference }
    }

    fn difference(largest: f64) -> Difference {
        let first = (largest > 0.0).then_some(3);
        Difference { largest, worst: 7, first, relative: largest / 4.0, scale: 2.0 }
    }

    fn bisection(verdict: Verdict) -> Bisection {
        Bisection {
            sides: ["tract".to_owned(), "ort-cpu-unoptimized".to_owned()],
            case: Some("batch 1, sequence 5, past 0, task_id [1]: logits differ by 2.0e-1".to_owned()),
            beyond_tolerance: true,
            failed: vec!["prefill of sst2".to_owned()],
            verdict,
        }
    }

    #[test]
    fn a_node_is_told_with_what_it_reads_and_who_is_wrong() {
        let culprit = Culprit {
            node: "layers.3.mlp.gate".to_owned(),
            operator: "MatMul".to_owned(),
            position: 412,
            of: 2311,
            inputs: vec![
                operand("layers.3.norm", false, Some(difference(0.0))),
                operand("layers.3.mlp.gate_proj.weight", true, None),
            ],
            output: operand("layers.3.mlp.gate", false, Some(difference(0.25))),
            element: Element { indices: "[0, 4, 7]".to_owned(), found: [1.25, 1.5], expected: [Some((1.5, 1e-6)); 2] },
            wrong: Some([true, false]),
        };
        insta::assert_snapshot!(bisection(Verdict::Node(Box::new(culprit))));
    }

    #[test]
    fn rounding_is_told_layer_by_layer() {
        let step = |node: &str, layer: Option<usize>, before: f64, after: f64| Step {
            node: node.to_owned(),
            operator: "MatMul".to_owned(),
            layer,
            before,
            after,
        };
        let growth = Growth {
            steps: vec![
                step("embedding", None, 0.0, 0.0),
                step("layers.0.q", Some(0), 0.0, 1e-7),
                step("layers.0.out", Some(0), 1e-7, 3e-7),
                step("layers.1.out", Some(1), 3e-7, 2e-6),
                step("logits", None, 2e-6, 1e-6),
            ],
            unreferenced: BTreeSet::from(["Attention".to_owned()]),
            ..Growth::default()
        };
        insta::assert_snapshot!(bisection(Verdict::Rounding(growth)));
    }

    #[test]
    fn a_graph_that_is_wrong_on_both_is_called_that() {
        let case = Some("12 runs: no logit differs".to_owned());
        let found = Bisection { case, beyond_tolerance: false, ..bisection(Verdict::Same) };
        assert!(!found.passed());
        insta::assert_snapshot!(found);
    }
}
