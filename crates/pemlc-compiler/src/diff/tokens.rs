//! Values named by where they come from, so that two graphs can be compared whatever their values are called.

use super::attributes;
use super::weights::Matches;
use crate::inspect::model::{Graph, Node};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Tokens of the values of the graph around, for each of the two graphs.
pub(super) type Outer<'a> = (&'a dyn Fn(&str) -> u64, &'a dyn Fn(&str) -> u64);

/// Tokens of the values of one graph. Two values of two graphs have one token when they are the same input, the same weight, or the
/// same output of nodes that belong together.
pub(super) struct Tokens<'a> {
    inputs: HashMap<&'a str, ()>,
    weights: &'a HashMap<&'a str, usize>,
    own_weights: HashMap<&'a str, ()>,
    /// Producer and place among its outputs.
    producers: HashMap<&'a str, (usize, usize)>,
    /// The structure of each node's inputs and operator.
    structure: Vec<u64>,
    /// Set where weights and nodes of one side alone must not equal those of the other.
    side: u8,
    outer: Option<&'a dyn Fn(&str) -> u64>,
}

impl<'a> Tokens<'a> {
    /// `pairs` gives, for each node of `graph`, the number of the pair that it is in.
    pub(super) fn new(
        graph: &'a Graph,
        matches: &'a Matches<'a>,
        side: u8,
        pairs: &[Option<usize>],
        outer: Option<Outer<'a>>,
    ) -> Self {
        let mut tokens = Self {
            inputs: graph.inputs.iter().map(|input| (input.name.as_str(), ())).collect(),
            weights: if side == 0 { &matches.before } else { &matches.after },
            own_weights: graph.weights.iter().map(|weight| (weight.name.as_str(), ())).collect(),
            producers: HashMap::new(),
            structure: Vec::with_capacity(graph.nodes.len()),
            side,
            outer: outer.map(|outer| if side == 0 { outer.0 } else { outer.1 }),
        };
        for (index, node) in graph.nodes.iter().enumerate() {
            tokens.structure.push(tokens.of_node(node, pairs));
            tokens
                .producers
                .extend(node.outputs.iter().enumerate().map(|(place, name)| (name.as_str(), (index, place))));
        }
        tokens
    }

    /// The operator, attributes and inputs of a node.
    fn of_node(&self, node: &Node, pairs: &[Option<usize>]) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&node.operator, &node.domain, node.outputs.len()).hash(&mut hasher);
        let mut attributes: Vec<(&str, String)> = node
            .attributes
            .iter()
            .map(|attribute| (attribute.name.as_str(), attributes::text(&attribute.value)))
            .collect();
        attributes.sort_unstable();
        attributes.hash(&mut hasher);
        for input in &node.inputs {
            self.of_value(input, pairs).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// The structure of the node at `index`.
    pub(super) fn structure(&self, index: usize) -> u64 {
        self.structure[index]
    }

    /// The token of a value.
    pub(super) fn of_value(&self, name: &str, pairs: &[Option<usize>]) -> u64 {
        let mut hasher = DefaultHasher::new();
        if let Some((producer, place)) = self.producers.get(name) {
            match pairs.get(*producer).copied().flatten() {
                Some(pair) => ("node", pair, place).hash(&mut hasher),
                None => ("structure", self.structure[*producer], place).hash(&mut hasher),
            }
        } else if let Some(pair) = self.weights.get(name) {
            ("weight", pair).hash(&mut hasher);
        } else if self.own_weights.contains_key(name) {
            ("weight of one side", self.side, name).hash(&mut hasher);
        } else if self.inputs.contains_key(name) {
            ("input", name).hash(&mut hasher);
        } else if let Some(outer) = self.outer {
            ("outer", outer(name)).hash(&mut hasher);
        } else {
            ("nothing", name).hash(&mut hasher);
        }
        hasher.finish()
    }
}
