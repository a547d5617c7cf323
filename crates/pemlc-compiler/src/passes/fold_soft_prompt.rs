//! Runs soft prompts through the adapted model. Attention is causal: what vectors in front of the tokens leave in each layer depends on no
//! token, so one evaluation at compile time gives keys and values that serve every run. Weights are read a few columns at a time.

use super::folding::{ancestors, behind_soft_prompts, fold};
use super::{Outcome, Pass};
use crate::evaluate::{Matrix, product, values};
use crate::interpret::evaluate;
use crate::ir::{Expression, Graph, Node, Op, Tensor, ValueId};
use pemlc_artifact::Checkpoint;
use std::collections::BTreeSet;

/// See the module.
#[derive(Clone, Copy)]
pub struct FoldSoftPrompt<'a> {
    /// The base model.
    pub checkpoint: &'a Checkpoint,
}

impl Pass for FoldSoftPrompt<'_> {
    fn name(&self) -> &'static str {
        "fold_soft_prompt"
    }

    fn run(&self, graph: &mut Graph) -> Result<Outcome, String> {
        let mut outcome = Outcome::default();
        let wanted = adapted_model(graph);
        let mut evaluated = 0;
        fold(graph, &mut |graph, node| {
            if !wanted.contains(&node.output()) {
                return Ok(None);
            }
            let name = &graph.value(node.output()).name;
            if let Some(id) =
                node.inputs.iter().find(|id| !graph.initialisers.contains_key(id) || graph.is_overridable(**id))
            {
                let read = &graph.value(*id).name;
                outcome.declined.push(format!("`{name}` reads `{read}`, which is known only when the graph runs"));
                return Ok(None);
            }
            let value = self.value(graph, node, &mut outcome).map_err(|reason| format!("node `{name}` {reason}"))?;
            evaluated += 1;
            Ok(Some(value))
        })?;
        if evaluated > 0 {
            outcome.changed.push(format!("evaluated {evaluated} nodes of the adapted model"));
        }
        Ok(outcome)
    }
}

/// What is to be evaluated: everything that outputs and rotations behind soft prompts are computed from.
fn adapted_model(graph: &Graph) -> BTreeSet<ValueId> {
    let behind = behind_soft_prompts(graph);
    let rotated = |node: &&Node| node.op == Op::RotateKeys;
    let turned: BTreeSet<ValueId> = graph.nodes.iter().filter(rotated).map(Node::output).collect();
    let keys = graph.nodes.iter().filter(rotated).flat_map(|node| node.inputs.iter().copied());
    let outputs = graph.outputs.iter().copied().filter(|id| !turned.contains(id));
    let mut wanted = ancestors(graph, keys.chain(outputs).filter(|id| behind.contains(id)));
    wanted.retain(|id| !turned.contains(id));
    wanted
}

impl FoldSoftPrompt<'_> {
    /// The value of a node whose inputs are initialisers.
    fn value(&self, graph: &Graph, node: &Node, outcome: &mut Outcome) -> Result<Tensor, String> {
        if let (Op::MatMul, [x, weight]) = (&node.op, node.inputs.as_slice())
            && let (Some(x), None) = (graph.constant_of(*x), graph.constant_of(*weight))
            && let Some(expression) = graph.initialisers.get(weight)
        {
            return self.through_weight(x, &graph.value(*weight).name, expression, outcome);
        }
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for id in &node.inputs {
            inputs.push(match graph.initialisers.get(id) {
                Some(Expression::Constant(tensor)) => Tensor::clone(tensor),
                // Norms and biases.
                Some(expression) => values(expression, self.checkpoint).map_err(|error| error.to_string())?,
                None => return Err(format!("reads `{}`, which nothing makes", graph.value(*id).name)),
            });
        }
        evaluate(&node.op, &inputs.iter().collect::<Vec<_>>())
    }

    fn through_weight(
        &self,
        x: &Tensor,
        name: &str,
        expression: &Expression,
        outcome: &mut Outcome,
    ) -> Result<Tensor, String> {
        let weight = Matrix::new(expression, self.checkpoint).map_err(|error| format!("reads `{name}`: {error}"))?;
        let rows = x.as_f32().ok_or("takes f32")?;
        let result = product(rows, &weight);
        let count = rows.len() / weight.rows.max(1);
        outcome.changed.push(format!("ran {count} rows through `{name}`"));
        for tensor in expression.checkpoint_names() {
            self.checkpoint.release(tensor);
        }
        let (_, leading) = x.shape().split_last().ok_or("takes matrices")?;
        let shape = [leading, &[weight.columns]].concat();
        Tensor::new(shape, crate::ir::Data::F32(result)).ok_or_else(|| "makes another number of values".to_owned())
    }
}
