//! Gives every `TaskLowRank` operators that runtimes have.

use super::rewriter::Rewriter;
use super::{Outcome, Pass};
use crate::ir::{Graph, IrError, Node, Op, ValueId};

/// One task's factors become plain products; of several tasks each row gathers its own.
#[derive(Debug, Clone, Copy)]
pub struct LowerTaskSwitch;

impl Pass for LowerTaskSwitch {
    fn name(&self) -> &'static str {
        "lower_task_switch"
    }

    fn run(&self, graph: &mut Graph) -> Result<Outcome, String> {
        let mut outcome = Outcome::default();
        let (mut rewriter, nodes) = Rewriter::new(graph);
        for node in nodes {
            if node.op != Op::TaskLowRank {
                rewriter.keep(node);
                continue;
            }
            let name = rewriter.name(node.output()).to_owned();
            let single = single_task(&mut rewriter, &node).map_err(|error| error.to_string())?;
            if single {
                outcome.changed.push(format!("`{name}` has one task: plain products, which fold into the weight"));
                continue;
            }
            gather(&mut rewriter, &node).map_err(|error| error.to_string())?;
            outcome.changed.push(format!("`{name}` gathers its factors by row"));
        }
        rewriter.finish();
        Ok(outcome)
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
        let outcome = LowerTaskSwitch.run(&mut graph).unwrap();
        assert_eq!(outcome.changed, ["`q.task_delta` has one task: plain products, which fold into the weight"]);
        super::super::DeadCode.run(&mut graph).unwrap();
        insta::assert_snapshot!(graph);
    }

    #[test]
    fn a_delta_of_each_row_becomes_two_gathers_and_two_products() {
        let mut graph = graph(2);
        let outcome = LowerTaskSwitch.run(&mut graph).unwrap();
        assert_eq!(outcome.changed, ["`q.task_delta` gathers its factors by row"]);
        insta::assert_snapshot!(graph);
    }
}
