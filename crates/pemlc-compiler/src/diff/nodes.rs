//! Nodes: which belong together, and how those differ.

use super::tokens::{Outer, Tokens};
use super::weights::Matches;
use super::{Change, ChangeKind, Difference, Sides, attributes};
use crate::inspect::model::{Graph, Node, TensorType};
use crate::inspect::{shape_text, shortened};
use std::collections::{HashMap, VecDeque};

/// Compares the nodes of two graphs.
pub(super) fn compare(
    sides: &Sides<'_>,
    difference: &mut Difference,
    before: &Graph,
    after: &Graph,
    weights: &Matches<'_>,
    prefix: &str,
    outer: Option<Outer<'_>>,
) {
    let (first, second) = pair_up(before, after, weights, outer);
    let tokens = (Tokens::new(before, weights, 0, &first, outer), Tokens::new(after, weights, 1, &second, outer));
    let own: Outer<'_> = (&|name| tokens.0.of_value(name, &first), &|name| tokens.1.of_value(name, &second));
    let types = (declared(before), declared(after));
    let partner: HashMap<usize, usize> =
        second.iter().enumerate().filter_map(|(index, pair)| Some(((*pair)?, index))).collect();
    for (node, pair) in before.nodes.iter().zip(&first) {
        let subject = shortened(&format!("{prefix}node {}", node.label()));
        let Some(other) = pair.and_then(|pair| partner.get(&pair)).and_then(|index| after.nodes.get(*index)) else {
            let text = Some(attributes::node_text(node));
            difference.nodes.push(Change::new(subject, ChangeKind::Removed, text, None));
            continue;
        };
        let count = difference.nodes.len() + difference.weights.len() + difference.interface.len();
        if node.label() != other.label() {
            let names = (Some(node.label().to_owned()), Some(other.label().to_owned()));
            difference.nodes.push(Change::new(subject.clone(), ChangeKind::Renamed, names.0, names.1));
        }
        let subject = shortened(&format!("{prefix}node {}", other.label()));
        let operators = (Some(node.full_operator()), Some(other.full_operator()));
        difference.nodes.extend(Change::of(|| format!("{subject}, operator"), operators.0, operators.1));
        let values = |node: &Node, token: &dyn Fn(&str) -> u64| {
            node.inputs.iter().map(|input| token(input)).collect::<Vec<u64>>()
        };
        if values(node, own.0) != values(other, own.1) {
            let list = |node: &Node| Some(format!("({})", node.inputs.join(", ")));
            let kind = ChangeKind::Changed;
            difference.nodes.push(Change::new(format!("{subject}, inputs"), kind, list(node), list(other)));
        }
        outputs(difference, (node, &types.0), (other, &types.1), &subject);
        attributes::compare(sides, difference, (node, other), (&subject, prefix), own);
        let unchanged = count == difference.nodes.len() + difference.weights.len() + difference.interface.len();
        difference.same.nodes += usize::from(unchanged);
    }
    for (node, _) in after.nodes.iter().zip(&second).filter(|(_, pair)| pair.is_none()) {
        let text = Some(attributes::node_text(node));
        difference.nodes.push(Change::new(format!("{prefix}node {}", node.label()), ChangeKind::Added, None, text));
    }
}

/// Names of outputs, and their types where both files declare them.
fn outputs(
    difference: &mut Difference,
    before: (&Node, &HashMap<&str, &TensorType>),
    after: (&Node, &HashMap<&str, &TensorType>),
    subject: &str,
) {
    // The first output often is the node's name, whose change has been told.
    let told = before.0.label() != after.0.label();
    let list = |node: &Node| Some(node.outputs.join(", "));
    let first_only = before.0.outputs.len() == 1 && after.0.outputs.len() == 1;
    if before.0.outputs != after.0.outputs && !(told && first_only) {
        difference.nodes.extend(Change::of(|| format!("{subject}, outputs"), list(before.0), list(after.0)));
    }
    for (one, other) in before.0.outputs.iter().zip(&after.0.outputs) {
        if let (Some(one), Some(declared)) = (before.1.get(one.as_str()), after.1.get(other.as_str())) {
            let texts = (Some(shape_text(Some(one))), Some(shape_text(Some(declared))));
            difference.nodes.extend(Change::of(
                || format!("{subject}, type of {}", shortened(other)),
                texts.0,
                texts.1,
            ));
        }
    }
}

fn declared(graph: &Graph) -> HashMap<&str, &TensorType> {
    graph.values.iter().filter_map(|value| Some((value.name.as_str(), value.declared.as_ref()?))).collect()
}

/// For the nodes of each graph, the number of the pair that each is in.
fn pair_up(
    before: &Graph,
    after: &Graph,
    weights: &Matches<'_>,
    outer: Option<Outer<'_>>,
) -> (Vec<Option<usize>>, Vec<Option<usize>>) {
    let mut pairs = (vec![None; before.nodes.len()], vec![None; after.nodes.len()]);
    // A name that was generated may now stand for another node: first those of one operator, at last the rest.
    match_by(before, after, &mut pairs, |node| {
        (!node.name.is_empty()).then(|| (node.name.clone(), node.full_operator()))
    });
    match_by(before, after, &mut pairs, |node| Some((node.outputs.first()?.clone(), node.full_operator())));
    let tokens = (Tokens::new(before, weights, 0, &pairs.0, outer), Tokens::new(after, weights, 1, &pairs.1, outer));
    let mut waiting: HashMap<u64, VecDeque<usize>> = HashMap::new();
    for (index, _) in pairs.1.iter().enumerate().filter(|(_, pair)| pair.is_none()) {
        waiting.entry(tokens.1.structure(index)).or_default().push_back(index);
    }
    for (index, pair) in pairs.0.iter_mut().enumerate().filter(|(_, pair)| pair.is_none()) {
        if let Some(other) = waiting.get_mut(&tokens.0.structure(index)).and_then(VecDeque::pop_front) {
            *pair = Some(index);
            pairs.1[other] = Some(index);
        }
    }
    match_by(before, after, &mut pairs, |node| (!node.label().is_empty()).then(|| node.label().to_owned()));
    pairs
}

/// Pairs nodes that have no partner yet and one key, in the order of the files. A pair's number is the index in the first graph.
fn match_by<K: std::hash::Hash + Eq>(
    before: &Graph,
    after: &Graph,
    pairs: &mut (Vec<Option<usize>>, Vec<Option<usize>>),
    key: impl Fn(&Node) -> Option<K>,
) {
    let mut waiting: HashMap<K, VecDeque<usize>> = HashMap::new();
    for (index, node) in after.nodes.iter().enumerate().filter(|(index, _)| pairs.1[*index].is_none()) {
        if let Some(key) = key(node) {
            waiting.entry(key).or_default().push_back(index);
        }
    }
    for (index, node) in before.nodes.iter().enumerate() {
        if pairs.0[index].is_none()
            && let Some(other) = key(node).and_then(|key| waiting.get_mut(&key)?.pop_front())
        {
            pairs.0[index] = Some(index);
            pairs.1[other] = Some(index);
        }
    }
}
