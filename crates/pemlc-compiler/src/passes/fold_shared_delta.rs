//! Moves a delta that every task has into the weight: `x W + (x A) B` becomes `x (W + A B)`, and so it does where the delta is of tasks and
//! there is one. The sum is made in f32 when the file is written; it costs nothing at run time.

use super::{Outcome, Pass};
use crate::ir::{Binary, Expression, Graph, Node, Op, Tensor, ValueId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct FoldSharedDelta;

/// `add = base + change`, `base = x weight`, `change = (x down) up`.
struct Match {
    add: usize,
    base: ValueId,
    x: ValueId,
    weight: ValueId,
    down: Arc<Tensor>,
    up: Arc<Tensor>,
}

impl Pass for FoldSharedDelta {
    fn name(&self) -> &'static str {
        "fold_shared_delta"
    }

    fn run(&self, graph: &mut Graph) -> Result<Outcome, String> {
        let mut outcome = Outcome::default();
        // A projection may have several deltas: each fold makes the next one fit.
        loop {
            let before = outcome.changed.len();
            outcome.declined.clear();
            fold_once(graph, &mut outcome)?;
            if outcome.changed.len() == before {
                return Ok(outcome);
            }
        }
    }
}

fn fold_once(graph: &mut Graph, outcome: &mut Outcome) -> Result<(), String> {
    let uses = graph.use_counts();
    let makers: BTreeMap<ValueId, usize> =
        graph.nodes.iter().enumerate().map(|(index, node)| (node.output(), index)).collect();
    let matches: Vec<Match> = (0..graph.nodes.len()).filter_map(|add| find(graph, &makers, add)).collect();
    for found in matches {
        let name = graph.value(graph.nodes[found.add].output()).name.clone();
        let weight_name = graph.value(found.weight).name.clone();
        let read_elsewhere = [found.weight, found.base].into_iter().find(|id| uses[id.0] != 1);
        if let Some(id) = read_elsewhere {
            outcome.declined.push(format!("`{name}`: `{}` is read elsewhere too", graph.value(id).name));
            continue;
        }
        if graph.is_overridable(found.weight) {
            outcome.declined.push(format!("`{name}`: `{weight_name}` is what a caller may replace"));
            continue;
        }
        let Some(base) = graph.initialisers.remove(&found.weight) else { continue };
        let expression = Expression::AddLowRank { base: Box::new(base), down: found.down, up: found.up };
        graph.initialisers.insert(found.weight, expression);
        let node = &mut graph.nodes[found.add];
        *node = Node { op: Op::MatMul, inputs: vec![found.x, found.weight], outputs: node.outputs.clone() };
        outcome.changed.push(format!("folded the delta of `{name}` into `{weight_name}`"));
    }
    // The replaced products are now unread, and would read the folded weight.
    super::DeadCode.run(graph)?;
    Ok(())
}

fn find(graph: &Graph, makers: &BTreeMap<ValueId, usize>, add: usize) -> Option<Match> {
    let product = |id: ValueId| {
        let node = &graph.nodes[*makers.get(&id)?];
        match node.inputs.as_slice() {
            [x, y] if node.op == Op::MatMul => Some((*x, *y)),
            _ => None,
        }
    };
    let constant = |id: ValueId| graph.constant_of(id).filter(|tensor| tensor.shape().len() == 2).cloned();
    let node = &graph.nodes[add];
    let [base, change] = node.inputs[..] else { return None };
    if node.op != Op::Binary(Binary::Add) {
        return None;
    }
    let (x, weight) = product(base)?;
    let (change_x, down, up) = match product(change) {
        Some((hidden, up)) => {
            let (x, down) = product(hidden)?;
            (x, constant(down)?, constant(up)?)
        }
        None => of_one_task(graph, &graph.nodes[*makers.get(&change)?])?,
    };
    let is_weight = graph.initialisers.contains_key(&weight) && graph.value(weight).value_type.rank() == 2;
    if !is_weight || change_x != x {
        return None;
    }
    Some(Match { add, base, x, weight, down, up })
}

/// `x`, `down` and `up` of the delta of the one task that there is. Its index is 0, which the guard sees to.
fn of_one_task(graph: &Graph, node: &Node) -> Option<(ValueId, Arc<Tensor>, Arc<Tensor>)> {
    let [x, _, down, up] = node.inputs[..] else { return None };
    let matrix = |id: ValueId| {
        let stack = graph.constant_of(id).filter(|stack| stack.shape().first() == Some(&1))?;
        Some(Arc::new(stack.as_ref().clone().without_first_axis()))
    };
    if node.op == Op::TaskLowRank { Some((x, matrix(down)?, matrix(up)?)) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{DType, Dim, Symbol, ValueType};

    fn graph(also_read: bool) -> Graph {
        let mut graph = Graph::new("g");
        let x = graph.input("x", ValueType::new(DType::F32, [Dim::from(Symbol::Batch), 3.into()]));
        let w = graph.initialiser("w", Expression::Checkpoint { name: "w".to_owned(), shape: vec![3, 4] }).unwrap();
        let a = graph.constant("a", Tensor::f32_from_fn(vec![3, 2], |i| i as f32)).unwrap();
        let b = graph.constant("b", Tensor::f32_from_fn(vec![2, 4], |i| i as f32)).unwrap();
        let base = graph.node("base", Op::MatMul, &[x, w]).unwrap();
        let hidden = graph.node("hidden", Op::MatMul, &[x, a]).unwrap();
        let change = graph.node("change", Op::MatMul, &[hidden, b]).unwrap();
        let y = graph.node("y", Op::Binary(Binary::Add), &[base, change]).unwrap();
        graph.output(y);
        if also_read {
            let again = graph.node("again", Op::MatMul, &[x, w]).unwrap();
            graph.output(again);
        }
        graph
    }

    #[test]
    fn the_delta_moves_into_the_weight() {
        let mut graph = graph(false);
        let outcome = FoldSharedDelta.run(&mut graph).unwrap();
        assert_eq!(outcome.changed, ["folded the delta of `y` into `w`"]);
    }

    #[test]
    fn a_weight_read_twice_is_left_alone() {
        let mut graph = graph(true);
        let before = graph.clone();
        let outcome = FoldSharedDelta.run(&mut graph).unwrap();
        assert_eq!(outcome.declined, ["`y`: `w` is read elsewhere too"]);
        assert_eq!(graph, before);
    }
}
