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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::values;
    use crate::interpret::evaluate;
    use crate::ir::{Tensor, verify};
    use pemlc_artifact::Checkpoint;
    use proptest::prelude::*;
    use std::path::Path;

    proptest! {
        /// What is stored is what the operator would have made, and turning is undone by turning back.
        #[test]
        fn stored_keys_are_those_that_the_operator_makes(
            sets in 1usize..4, heads in 1usize..3, rows in 1usize..4, pairs in 1usize..4,
            offsets in prop::collection::vec(-40i64..40, 3), seed in 0usize..20,
        ) {
            let number = |place: usize| ((place * 37 + seed * 11) % 23) as f32 * 0.25 - 2.75;
            let keys = Tensor::f32_from_fn(vec![sets, heads, rows, 2 * pairs], number);
            let offsets = Tensor::vector_i64(offsets[..sets].to_vec());
            let frequencies = Tensor::f32_from_fn(vec![pairs], |pair| 0.5f32.powi(pair as i32));
            let expected = evaluate(&Op::RotateKeys, &[&keys, &offsets, &frequencies]).unwrap();

            let mut graph = Graph::new("g");
            let stored = graph.constant("stored", keys.clone()).unwrap();
            let by = graph.constant("by", offsets.clone()).unwrap();
            let at = graph.constant("at", frequencies.clone()).unwrap();
            let turned = graph.node("turned", Op::RotateKeys, &[stored, by, at]).unwrap();
            graph.output(turned);
            RotateStoredKeys.run(&mut graph).unwrap();
            verify(&graph).unwrap();
            prop_assert!(graph.nodes().is_empty());
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tiny-model");
            let found = values(&graph.initialisers[&turned], &Checkpoint::open(&root).unwrap()).unwrap();
            prop_assert_eq!(&found, &expected);

            let back = Tensor::vector_i64(offsets.as_i64().unwrap().iter().map(|offset| -offset).collect());
            let again = evaluate(&Op::RotateKeys, &[&found, &back, &frequencies]).unwrap();
            let pairs = again.as_f32().unwrap().iter().zip(keys.as_f32().unwrap());
            prop_assert!(pairs.into_iter().all(|(again, key)| (again - key).abs() < 1e-5));
        }
    }
}
