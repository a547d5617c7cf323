//! What bisecting found.

mod text;

use super::difference::Difference;
use std::collections::{BTreeMap, BTreeSet};

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
