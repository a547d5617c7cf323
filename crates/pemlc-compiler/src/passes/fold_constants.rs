//! Evaluates nodes that read constants alone.

use super::folding::{constants, fold};
use super::{Outcome, Pass};
use crate::interpret::evaluate;
use crate::ir::Graph;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct FoldConstants;

impl Pass for FoldConstants {
    fn name(&self) -> &'static str {
        "fold_constants"
    }

    fn run(&self, graph: &mut Graph) -> Result<Outcome, String> {
        let mut outcome = Outcome::default();
        fold(graph, &mut |graph, node| {
            let name = &graph.value(node.output()).name;
            let Some(constants) = constants(graph, node) else {
                if node.inputs.iter().any(|id| graph.is_overridable(*id)) {
                    outcome.declined.push(format!("`{name}` reads what a caller may override"));
                } else if node.inputs.iter().all(|id| graph.initialisers.contains_key(id)) {
                    outcome.declined.push(format!("`{name}` reads weights of the base model"));
                }
                return Ok(None);
            };
            let value = evaluate(&node.op, &constants).map_err(|reason| format!("node `{name}` {reason}"))?;
            outcome.changed.push(format!("evaluated `{name}`"));
            Ok(Some(value))
        })?;
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Binary, DType, Expression, Op, Symbol, Tensor, ValueType};

    #[test]
    fn constant_parts_are_evaluated_and_the_rest_stays() {
        let mut graph = Graph::new("g");
        let x = graph.input("x", ValueType::new(DType::F32, [Symbol::Batch]));
        let two = graph.constant("two", Tensor::scalar_f32(2.0)).unwrap();
        let four = graph.node("four", Op::Binary(Binary::Mul), &[two, two]).unwrap();
        let six = graph.node("six", Op::Binary(Binary::Add), &[four, two]).unwrap();
        let y = graph.node("y", Op::Binary(Binary::Mul), &[x, six]).unwrap();
        graph.output(y);
        let outcome = FoldConstants.run(&mut graph).unwrap();
        assert_eq!(outcome.changed, ["evaluated `four`", "evaluated `six`"]);
    }

    #[test]
    fn weights_of_the_base_model_are_not_read() {
        let mut graph = Graph::new("g");
        let weight = Expression::Checkpoint { name: "w".to_owned(), shape: vec![2] };
        let weight = graph.initialiser("weight", weight).unwrap();
        let y = graph.node("y", Op::Binary(Binary::Mul), &[weight, weight]).unwrap();
        graph.output(y);
        let outcome = FoldConstants.run(&mut graph).unwrap();
        assert_eq!(outcome.declined, ["`y` reads weights of the base model"]);
        assert_eq!(graph.nodes().len(), 1);
    }
}
