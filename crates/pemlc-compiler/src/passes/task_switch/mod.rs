//! Gives every `TaskLowRank` operators that runtimes have: a lowering for each delta, by what it is predicted to cost.

mod appended;
mod cost;
mod masked;
mod scalar;
mod shared_basis;

use super::rewriter::Rewriter;
use super::{Outcome, Pass};
use crate::ir::{Dim, Graph, IrError, Node, Op, Tensor, ValueId};
use appended::Sum;
pub use cost::{WORKLOADS, Workload};
use masked::Columns;
use shared_basis::Basis;
use std::collections::BTreeSet;

/// How the deltas of several tasks are lowered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lowering {
    /// For each delta what costs less, of those that mix tasks in a batch.
    #[default]
    ByCost,
    /// Each row gathers its own factors: two batched products.
    Gather,
    /// All tasks' factors beside each other, the others' masked: two plain products.
    Masked,
    /// As masked, the second factors being further rows of the weight: no product and no sum of their own. Masked where that cannot be.
    Appended,
    /// A basis that all tasks share, and a small core of each row's own. By cost where there is no such basis.
    SharedBasis,
    /// A run has one task, whose factors are cut out once: two plain products. Rows of another task are NaN.
    Scalar,
}

impl Lowering {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::ByCost, Self::Gather, Self::Masked, Self::Appended, Self::SharedBasis, Self::Scalar];

    /// Name, as on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::ByCost => "by-cost",
            Self::Gather => "gather",
            Self::Masked => "masked",
            Self::Appended => "appended",
            Self::SharedBasis => "shared-basis",
            Self::Scalar => "scalar",
        }
    }
}

/// One task's factors become plain products, which fold into the weight; of several tasks each delta gets a lowering.
#[derive(Debug, Clone, Default)]
pub struct LowerTaskSwitch {
    /// Which.
    pub lowering: Lowering,
    /// What the artifact is made for; [`WORKLOADS`] when empty.
    pub workloads: Vec<Workload>,
    /// Largest relative Frobenius error of a task's delta that a shared basis may make; 0 for none but rounding.
    pub basis_tolerance: f64,
    /// Whether weights are to be held in whole numbers: factors are not, so none is appended to a weight.
    pub whole_numbers: bool,
}

impl Pass for LowerTaskSwitch {
    fn name(&self) -> &'static str {
        "lower_task_switch"
    }

    fn run(&self, graph: &mut Graph) -> Result<Outcome, String> {
        let mut outcome = Outcome::default();
        let sums = appended::sums(graph);
        let (mut rewriter, nodes) = Rewriter::new(graph);
        // Sums that are made already, and products that became part of one.
        let (mut made, mut unread) = (BTreeSet::new(), BTreeSet::new());
        for node in nodes {
            if node.op == Op::TaskLowRank {
                let name = rewriter.name(node.output()).to_owned();
                let sum = sums.get(&node.output()).copied();
                let done = self.lower(&mut rewriter, &node, sum).map_err(|error| error.to_string())?;
                outcome.declined.extend(self.not_as_asked(&done).map(|why| format!("`{name}`: {why}")));
                if let (true, Some(sum)) = (done.in_weight, sum) {
                    made.insert(sum.sum);
                    unread.insert(sum.base);
                }
                outcome.changed.push(format!("`{name}` {}", done.text));
            } else if !made.contains(&node.output()) {
                rewriter.keep(node);
            }
        }
        rewriter.finish();
        graph.nodes.retain(|node| !unread.contains(&node.output()));
        Ok(outcome)
    }
}

/// What was put for a delta.
struct Done {
    text: String,
    /// The lowering, where there was a choice.
    lowering: Option<Lowering>,
    /// Whether the projection's product and the sum are part of it.
    in_weight: bool,
}

impl From<String> for Done {
    fn from(text: String) -> Self {
        Self { text, lowering: None, in_weight: false }
    }
}

/// A lowering of one delta, ready to be put.
enum Candidate {
    Gather,
    Masked(Columns),
    Appended(Columns, Sum),
    SharedBasis(Basis),
}

impl Candidate {
    fn lowering(&self) -> Lowering {
        match self {
            Self::Gather => Lowering::Gather,
            Self::Masked(_) => Lowering::Masked,
            Self::Appended(..) => Lowering::Appended,
            Self::SharedBasis(_) => Lowering::SharedBasis,
        }
    }

    /// Seconds of a run.
    fn seconds(&self, site: &cost::Site, workload: Workload) -> f64 {
        match self {
            Self::Gather => site.gather(workload),
            Self::Masked(_) => site.masked(workload),
            Self::Appended(..) => site.appended(workload),
            Self::SharedBasis(basis) => {
                let input = basis.input.shape().last().copied().unwrap_or_default();
                let output = basis.output.as_ref().and_then(|output| output.shape().first().copied());
                site.shared_basis(workload, input, output)
            }
        }
    }
}

impl LowerTaskSwitch {
    /// Whether the graph takes batches of one task only.
    pub fn is_uniform(&self) -> bool {
        self.lowering == Lowering::Scalar
    }

    /// Puts a lowering of `node`, whose sum with its projection is `sum`, and says which and why.
    fn lower(&self, rewriter: &mut Rewriter<'_>, node: &Node, sum: Option<Sum>) -> Result<Done, IrError> {
        if single_task(rewriter, node)? {
            return Ok("has one task: plain products".to_owned().into());
        }
        let [x, index, down, up] = node.inputs[..] else { return Ok("has no factors".to_owned().into()) };
        let name = rewriter.name(node.output()).to_owned();
        let site = name.strip_suffix(".task_delta").unwrap_or(&name);
        if rewriter.graph().value(index).value_type.shape.first() == Some(&Dim::from(1)) {
            scalar::lower(rewriter, site, (x, index), (down, up), node.output())?;
            return Ok("is of one task a run: its factors are cut out once".to_owned().into());
        }
        let factors = rewriter.graph().constant_of(down).zip(rewriter.graph().constant_of(up));
        let Some((a, b)) = factors else {
            gather(rewriter, node)?;
            return Ok("gathers its factors by row: they are not constant".to_owned().into());
        };
        let (a, b) = (a.clone(), b.clone());
        let (Some(columns), [tasks, inputs, rank], Some(outputs)) = (Columns::new(&a, &b), a.shape(), b.shape().last())
        else {
            gather(rewriter, node)?;
            return Ok("gathers its factors by row: they are not f32".to_owned().into());
        };
        let sizes = cost::Site { inputs: *inputs, outputs: *outputs, rank: *rank, columns: columns.count };
        let of = format!("{tasks} tasks, rank {rank}, {inputs} to {outputs}");
        let mut candidates = self.candidates((&a, &b), columns, sum);
        candidates.sort_by(|left, right| self.share(&sizes, left).total_cmp(&self.share(&sizes, right)));
        let lowering = candidates.first().map(Candidate::lowering);
        let why = match self.lowering {
            asked if Some(asked) == lowering && asked != Lowering::SharedBasis => format!("({of}, as asked for)"),
            _ => {
                let predicted: Vec<String> = candidates
                    .iter()
                    .map(|candidate| {
                        format!("{} {:.1} %", candidate.lowering().name(), 100.0 * self.share(&sizes, candidate))
                    })
                    .collect();
                format!("({of}: {} of the projection's time, predicted)", predicted.join(", "))
            }
        };
        let done: Done = match candidates.into_iter().next() {
            None | Some(Candidate::Gather) => {
                gather(rewriter, node)?;
                format!("gathers its factors by row {why}").into()
            }
            Some(Candidate::Masked(columns)) => {
                masked::lower(rewriter, site, (x, index), columns, node.output())?;
                format!("masks the factors of all tasks {why}").into()
            }
            Some(Candidate::Appended(columns, sum)) => {
                appended::lower(rewriter, site, (x, index), columns, sum)?;
                let text = format!("appends the factors of all tasks to the weight {why}");
                Done { text, lowering, in_weight: true }
            }
            Some(Candidate::SharedBasis(basis)) => {
                let error = basis.error;
                shared_basis::lower(rewriter, site, (x, index), basis, node.output())?;
                format!("has a basis that all tasks share, off by {error:.1e} {why}").into()
            }
        };
        Ok(Done { lowering, ..done })
    }

    /// Why a delta did not get the lowering that was asked for.
    fn not_as_asked(&self, done: &Done) -> Option<&'static str> {
        let found = done.lowering.filter(|found| *found != self.lowering)?;
        match (self.lowering, found) {
            (Lowering::Appended, _) if self.whole_numbers => Some("a weight in whole numbers takes no factors, masked"),
            (Lowering::Appended, _) => Some("no sum with a product that is read nowhere else to append to, masked"),
            (Lowering::SharedBasis, _) => Some("no basis of fewer directions that all tasks share, by cost"),
            _ => None,
        }
    }

    /// The lowerings to choose from.
    fn candidates(&self, (a, b): (&Tensor, &Tensor), columns: Columns, sum: Option<Sum>) -> Vec<Candidate> {
        let sum = sum.filter(|_| !self.whole_numbers);
        let appended = |columns: &Columns| sum.map(|sum| Candidate::Appended(columns.clone(), sum));
        let bases = || {
            let basis = Basis::new(a, b, self.basis_tolerance);
            let folded = basis.as_ref().and_then(Basis::without_output);
            basis.into_iter().chain(folded).map(Candidate::SharedBasis).collect::<Vec<_>>()
        };
        match self.lowering {
            Lowering::Gather | Lowering::Scalar => vec![Candidate::Gather],
            Lowering::Masked => vec![Candidate::Masked(columns)],
            Lowering::Appended => vec![appended(&columns).unwrap_or(Candidate::Masked(columns))],
            Lowering::SharedBasis | Lowering::ByCost => {
                let mut candidates = bases();
                if self.lowering == Lowering::ByCost || candidates.is_empty() {
                    candidates.push(Candidate::Gather);
                    candidates.extend(appended(&columns));
                    candidates.push(Candidate::Masked(columns));
                }
                candidates
            }
        }
    }

    /// What a lowering costs over the projection itself, the mean over the workloads.
    fn share(&self, site: &cost::Site, candidate: &Candidate) -> f64 {
        let workloads = if self.workloads.is_empty() { &WORKLOADS[..] } else { &self.workloads };
        let shares = workloads.iter().map(|workload| candidate.seconds(site, *workload) / site.projection(*workload));
        shares.sum::<f64>() / workloads.len() as f64
    }
}

/// Of one task: `x down up`, whatever the index, which the guard holds to 0. False when there are more tasks.
fn single_task(rewriter: &mut Rewriter<'_>, node: &Node) -> Result<bool, IrError> {
    let [x, _, down, up] = node.inputs[..] else { return Ok(false) };
    let matrix = |id: ValueId| {
        let tensor = rewriter.graph().constant_of(id)?;
        (tensor.shape().first() == Some(&1)).then(|| tensor.as_ref().clone().without_first_axis())
    };
    let (Some(a), Some(b)) = (matrix(down), matrix(up)) else { return Ok(false) };
    let (a_name, b_name) = (format!("{}.of_task", rewriter.name(down)), format!("{}.of_task", rewriter.name(up)));
    let (a, b) = (rewriter.constant(a_name, a)?, rewriter.constant(b_name, b)?);
    let name = rewriter.name(node.output()).to_owned();
    let site = name.strip_suffix(".task_delta").unwrap_or(&name).to_owned();
    let hidden = rewriter.node(format!("{site}.task_hidden"), Op::MatMul, &[x, a])?;
    rewriter.replace(node.output(), Op::MatMul, &[hidden, b]);
    Ok(true)
}

fn gather(rewriter: &mut Rewriter<'_>, node: &Node) -> Result<(), IrError> {
    let [x, index, down, up] = node.inputs[..] else { return Ok(()) };
    let name = rewriter.name(node.output()).to_owned();
    let site = name.strip_suffix(".task_delta").unwrap_or(&name).to_owned();
    let down = rewriter.node(format!("{site}.task_a"), Op::Gather { axis: 0 }, &[down, index])?;
    let up = rewriter.node(format!("{site}.task_b"), Op::Gather { axis: 0 }, &[up, index])?;
    let hidden = rewriter.node(format!("{site}.task_hidden"), Op::MatMul, &[x, down])?;
    rewriter.replace(node.output(), Op::MatMul, &[hidden, up]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{DType, Dim, Symbol, Tensor, ValueType};

    fn graph(tasks: usize) -> Graph {
        let mut graph = Graph::new("g");
        let shape = [Dim::from(Symbol::Batch), Dim::from(Symbol::Sequence), 3.into()];
        let x = graph.input("x", ValueType::new(DType::F32, shape));
        let index = graph.input("index", ValueType::new(DType::I64, [Symbol::Batch]));
        let down = graph.constant("q.lora_a", Tensor::f32_from_fn(vec![tasks, 3, 1], |i| i as f32)).unwrap();
        let up = graph.constant("q.lora_b", Tensor::f32_from_fn(vec![tasks, 1, 4], |i| i as f32)).unwrap();
        let y = graph.node("q.task_delta", Op::TaskLowRank, &[x, index, down, up]).unwrap();
        graph.output(y);
        graph
    }

    #[test]
    fn one_task_needs_no_gather() {
        let mut graph = graph(1);
        let outcome = LowerTaskSwitch::default().run(&mut graph).unwrap();
        assert_eq!(outcome.changed, ["`q.task_delta` has one task: plain products"]);
        super::super::DeadCode.run(&mut graph).unwrap();
        insta::assert_snapshot!(graph);
    }

    #[test]
    fn a_delta_of_each_row_becomes_two_gathers_and_two_products() {
        let mut graph = graph(2);
        let pass = LowerTaskSwitch { lowering: Lowering::Gather, ..Default::default() };
        let outcome = pass.run(&mut graph).unwrap();
        assert_eq!(
            outcome.changed,
            ["`q.task_delta` gathers its factors by row (2 tasks, rank 1, 3 to 4, as asked for)"]
        );
        insta::assert_snapshot!(graph);
    }

    #[test]
    fn masked_factors_stand_beside_each_other() {
        let mut graph = graph(2);
        let pass = LowerTaskSwitch { lowering: Lowering::Masked, ..Default::default() };
        let outcome = pass.run(&mut graph).unwrap();
        assert!(outcome.changed[0].starts_with("`q.task_delta` masks the factors of all tasks"), "{outcome:?}");
        crate::ir::verify(&graph).unwrap();
        super::super::DeadCode.run(&mut graph).unwrap();
        insta::assert_snapshot!(graph);
    }
}
