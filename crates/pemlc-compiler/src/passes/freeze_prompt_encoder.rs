//! Evaluates the prompt encoder: what soft prompts are made of, and outputs that no soft prompt has a part in. It reads constants alone, so
//! that freezing it is constant folding.

use super::folding::{ancestors, behind_soft_prompts, constants, fold};
use super::{Outcome, Pass};
use crate::interpret::evaluate;
use crate::ir::{Graph, Op, ValueId};

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct FreezePromptEncoder;

impl Pass for FreezePromptEncoder {
    fn name(&self) -> &'static str {
        "freeze_prompt_encoder"
    }

    fn run(&self, graph: &mut Graph) -> Result<Outcome, String> {
        let mut outcome = Outcome::default();
        let behind = behind_soft_prompts(graph);
        let soft_prompts =
            graph.nodes.iter().filter(|node| node.op == Op::SoftPrompt && !behind.contains(&node.inputs[0]));
        let before: Vec<ValueId> = soft_prompts.flat_map(|node| node.inputs.iter().copied()).collect();
        let outputs = graph.outputs.iter().copied().filter(|id| !behind.contains(id));
        let encoder = ancestors(graph, before.into_iter().chain(outputs));
        fold(graph, &mut |graph, node| {
            if !encoder.contains(&node.output()) {
                return Ok(None);
            }
            let name = &graph.value(node.output()).name;
            let Some(constants) = constants(graph, node) else {
                outcome.declined.push(format!("`{name}` reads more than constants"));
                return Ok(None);
            };
            let value = evaluate(&node.op, &constants).map_err(|reason| format!("node `{name}` {reason}"))?;
            outcome.changed.push(format!("evaluated `{name}`"));
            Ok(Some(value))
        })?;
        Ok(outcome)
    }
}
