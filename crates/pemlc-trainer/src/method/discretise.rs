//! From mixed operations to a cell: one operation an edge, few edges a node, few skips.

use pemlc_artifact::prompt::{Edge, Operation};

/// Edges that lead to one node.
const MOST_EDGES: usize = 2;

/// The cell that the mixtures' logits ask for. Of each edge's candidates the likeliest wins, `none` excepted; each node keeps the
/// [`MOST_EDGES`] edges whose winners weigh most; and of the winners that are skips all but the `most_skips` heaviest give way to
/// their edge's next candidate, if it has one: a search on one objective drifts to skips, which learn fastest, and a cell of skips alone
/// is no network. The first of equals wins.
///
/// `places` are `(from, to)` by (to, from); `logits` has a row for each of `candidates` logits.
pub(super) fn discretise(
    places: &[(usize, usize)],
    logits: &[f32],
    candidates: &[Operation],
    most_skips: usize,
) -> Vec<Edge> {
    let rows = logits.chunks(candidates.len().max(1));
    let mut edges: Vec<(Edge, Vec<f64>)> = places
        .iter()
        .zip(rows)
        .filter_map(|(&(from, to), logits)| {
            let weights = softmax(logits);
            let winner = best(candidates, &weights, |operation| operation != Operation::None)?;
            Some((Edge { from, to, operation: candidates[winner], weight: weights[winner] }, weights))
        })
        .collect();
    for node in places.iter().map(|(_, to)| *to) {
        while edges.iter().filter(|(edge, _)| edge.to == node).count() > MOST_EDGES {
            let lightest = lightest(&edges, |edge| edge.to == node);
            edges.retain({
                let mut index = 0;
                move |_| {
                    index += 1;
                    Some(index - 1) != lightest
                }
            });
        }
    }
    let mut kept = vec![false; edges.len()];
    for _ in 0..most_skips {
        let heaviest = edges
            .iter()
            .enumerate()
            .filter(|(index, (edge, _))| edge.operation == Operation::Skip && !kept[*index])
            .fold(None, |best: Option<(usize, f64)>, (index, (edge, _))| match best {
                Some((_, weight)) if weight >= edge.weight => best,
                _ => Some((index, edge.weight)),
            });
        if let Some((index, _)) = heaviest {
            kept[index] = true;
        }
    }
    for ((edge, weights), kept) in edges.iter_mut().zip(kept) {
        let other = |operation: Operation| !matches!(operation, Operation::None | Operation::Skip);
        if edge.operation == Operation::Skip
            && !kept
            && let Some(next) = best(candidates, weights, other)
        {
            (edge.operation, edge.weight) = (candidates[next], weights[next]);
        }
    }
    edges.into_iter().map(|(edge, _)| edge).collect()
}

pub(super) fn softmax(logits: &[f32]) -> Vec<f64> {
    let total: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
    logits.iter().map(|logit| f64::from(*logit).exp() / total).collect()
}

/// The heaviest candidate among those allowed.
fn best(candidates: &[Operation], weights: &[f64], allowed: impl Fn(Operation) -> bool) -> Option<usize> {
    let mut best: Option<usize> = None;
    for (index, operation) in candidates.iter().enumerate() {
        if allowed(*operation) && best.is_none_or(|best| weights[index] > weights[best]) {
            best = Some(index);
        }
    }
    best
}

/// Which of the edges that `which` names weighs least; the last of equals.
fn lightest(edges: &[(Edge, Vec<f64>)], which: impl Fn(&Edge) -> bool) -> Option<usize> {
    let mut lightest: Option<(usize, f64)> = None;
    for (index, (edge, _)) in edges.iter().enumerate() {
        if which(edge) && lightest.is_none_or(|(_, weight)| edge.weight <= weight) {
            lightest = Some((index, edge.weight));
        }
    }
    lightest.map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CANDIDATES: [Operation; 3] = [Operation::None, Operation::Skip, Operation::Linear];

    fn cell(places: &[(usize, usize)], logits: &[f32], skips: usize) -> Vec<(usize, usize, Operation)> {
        let edges = discretise(places, logits, &CANDIDATES, skips);
        edges.into_iter().map(|edge| (edge.from, edge.to, edge.operation)).collect()
    }

    #[test]
    fn none_never_wins() {
        assert_eq!(cell(&[(0, 1)], &[9.0, 1.0, 2.0], 2), [(0, 1, Operation::Linear)]);
        assert!(discretise(&[(0, 1)], &[1.0], &[Operation::None], 2).is_empty());
    }

    #[test]
    fn a_weight_is_the_winners_share_of_its_mixture() {
        let edges = discretise(&[(0, 1)], &[0.0, 0.0, 3f32.ln()], &CANDIDATES, 2);
        assert!((edges[0].weight - 0.6).abs() < 1e-6, "{}", edges[0].weight);
    }

    #[test]
    fn a_node_keeps_its_two_heaviest_edges() {
        let places = [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)];
        let linear = |weight: f32| [0.0, 0.0, weight];
        let logits = [1.0, 1.0, 1.0, 3.0, 1.0, 2.0].map(linear).concat();
        let found = cell(&places, &logits, 2);
        let expected = [(0, 1), (0, 2), (1, 2), (0, 3), (2, 3)].map(|(from, to)| (from, to, Operation::Linear));
        assert_eq!(found, expected);
    }

    #[test]
    fn skips_beyond_the_limit_take_the_next_operation() {
        let places = [(0, 1), (0, 2), (1, 2)];
        let logits = [[0.0, 2.0, 0.0], [0.0, 3.0, 0.0], [0.0, 1.0, 0.0]].concat();
        let operations = |skips| cell(&places, &logits, skips).into_iter().map(|edge| edge.2).collect::<Vec<_>>();
        use Operation::{Linear, Skip};
        assert_eq!(operations(3), [Skip, Skip, Skip]);
        assert_eq!(operations(2), [Skip, Skip, Linear]);
        assert_eq!(operations(1), [Linear, Skip, Linear]);
        assert_eq!(operations(0), [Linear, Linear, Linear]);
        let only = discretise(&[(0, 1)], &[1.0], &[Operation::Skip], 0);
        assert_eq!(only[0].operation, Operation::Skip);
    }
}
