//! Turns stored keys to the frame in which they are read: the graph's real tokens start at position 0, with or without a prefix, so keys that
//! were computed at positions of their own are turned back by as many as they take up. That is done where the values are made; no node stays.

use super::{Outcome, Pass};
use crate::ir::{Expression, Graph, Op};

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct RotateStoredKeys;

impl Pass for RotateStoredKeys {
    fn name(&self) -> &'static str {
        "rotate_stored_keys"
    }

    fn run(&self, graph: &mut Graph) -> Result<Outcome, String> {
        let mut outcome = Outcome::default();
        let mut remaining = Vec::with_capacity(graph.nodes.len());
        for node in std::mem::take(&mut graph.nodes) {
            let name = &graph.value(node.output()).name;
            let ([keys, offsets, frequencies], Op::RotateKeys) = (node.inputs.as_slice(), &node.op) else {
                remaining.push(node);
                continue;
            };
            let turn = (graph.constant_of(*offsets), graph.constant_of(*frequencies));
            let stored = graph.initialisers.get(keys).filter(|_| !graph.is_overridable(*keys));
            let ((Some(offsets), Some(frequencies)), Some(stored)) = (turn, stored) else {
                outcome.declined.push(format!("`{name}`: its keys or positions are known only when the graph runs"));
                remaining.push(node);
                continue;
            };
            let positions = offsets.as_i64().ok_or_else(|| format!("node `{name}` takes i64 offsets"))?;
            let expression = if positions.iter().all(|offset| *offset == 0) {
                outcome.changed.push(format!("`{name}` stays where it is"));
                stored.clone()
            } else {
                let listed: Vec<String> = positions.iter().map(i64::to_string).collect();
                outcome.changed.push(format!("turned `{name}` by {} positions", listed.join(", ")));
                let (offsets, frequencies) = (offsets.clone(), frequencies.clone());
                Expression::RotateKeys { base: Box::new(stored.clone()), offsets, frequencies }
            };
            graph.initialisers.insert(node.output(), expression);
        }
        graph.nodes = remaining;
        Ok(outcome)
    }
}
