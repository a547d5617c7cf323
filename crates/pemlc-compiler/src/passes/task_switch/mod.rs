//! Gives every `TaskLowRank` operators that runtimes have: a lowering for each delta, by what it is predicted to cost.

mod cost;
mod masked;

use super::rewriter::Rewriter;
use super::{Outcome, Pass};
use crate::ir::{Graph, IrError, Node, Op, ValueId};
pub use cost::{WORKLOADS, Workload};
use masked::Columns;

/// How the deltas of several tasks are lowered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lowering {
    /// For each delta what costs less.
    #[default]
    ByCost,
    /// Each row gathers its own factors: two batched products.
    Gather,
    /// All tasks' factors beside each other, the others' masked: two plain products.
    Masked,
}

impl Lowering {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::ByCost, Self::Gather, Self::Masked];

    /// Name, as on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::ByCost => "by-cost",
            Self::Gather => "gather",
            Self::Masked => "masked",
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
}

impl Pass for LowerTaskSwitch {
    fn name(&self) -> &'static str {
        "lower_task_switch"
    }

    fn run(&self, graph: &mut Graph) -> Result<Outcome, String> {
        let mut outcome = Outcome::default();
        let (mut rewriter, nodes) = Rewriter::new(graph);
        for node in nodes {
            if node.op == Op::TaskLowRank {
                let name = rewriter.name(node.output()).to_owned();
                let done = self.lower(&mut rewriter, &node).map_err(|error| error.to_string())?;
                outcome.changed.push(format!("`{name}` {done}"));
            } else {
                rewriter.keep(node);
            }
        }
        rewriter.finish();
        Ok(outcome)
    }
}

impl LowerTaskSwitch {
    /// Puts a lowering of `node`, and says which and why.
    fn lower(&self, rewriter: &mut Rewriter<'_>, node: &Node) -> Result<String, IrError> {
        if single_task(rewriter, node)? {
            return Ok("has one task: plain products, which fold into the weight".to_owned());
        }
        let [x, index, down, up] = node.inputs[..] else { return Ok("has no factors".to_owned()) };
        let factors = rewriter.graph().constant_of(down).zip(rewriter.graph().constant_of(up));
        let Some((a, b)) = factors else {
            gather(rewriter, node)?;
            return Ok("gathers its factors by row: they are not constant".to_owned());
        };
        let rank = a.shape().last().copied().unwrap_or_default();
        let (tasks, inputs) = (a.shape()[0], a.shape().get(1).copied().unwrap_or_default());
        let outputs = b.shape().last().copied().unwrap_or_default();
        let Some(columns) = Columns::new(a, b) else {
            gather(rewriter, node)?;
            return Ok("gathers its factors by row: they are not f32".to_owned());
        };
        let site = cost::Site { inputs, outputs, rank, columns: columns.count };
        let (gathered, masked) = self.microseconds(&site);
        let of = format!("{tasks} tasks, rank {rank}, {inputs} to {outputs}");
        let why = match self.lowering {
            Lowering::ByCost => format!("({of}: gather {gathered:.0} us, masked {masked:.0} us, predicted)"),
            Lowering::Gather | Lowering::Masked => format!("({of}, as asked for)"),
        };
        if self.lowering == Lowering::Masked || self.lowering == Lowering::ByCost && masked < gathered {
            let name = rewriter.name(node.output()).to_owned();
            let site = name.strip_suffix(".task_delta").unwrap_or(&name);
            masked::lower(rewriter, site, (x, index), columns, node.output())?;
            return Ok(format!("masks the factors of all tasks {why}"));
        }
        gather(rewriter, node)?;
        Ok(format!("gathers its factors by row {why}"))
    }

    /// Predicted microseconds of gather and masked, the mean over the workloads.
    fn microseconds(&self, site: &cost::Site) -> (f64, f64) {
        let workloads = if self.workloads.is_empty() { &WORKLOADS[..] } else { &self.workloads };
        let mean = |seconds: &dyn Fn(Workload) -> f64| {
            1e6 * workloads.iter().map(|workload| seconds(*workload)).sum::<f64>() / workloads.len() as f64
        };
        (mean(&|workload| site.gather(workload)), mean(&|workload| site.masked(workload)))
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
        assert_eq!(outcome.changed, ["`q.task_delta` has one task: plain products, which fold into the weight"]);
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
