//! Root-mean-square norms.

use super::rewrites::Rewrites;
use super::{Legalise, Written};
use crate::ir::{Binary, Graph, IrError, Node, Op, Real, Unary};
use std::collections::{BTreeMap, BTreeSet};

/// Additions that are written together with the norm of their sum, by places in the list of nodes.
#[derive(Default)]
pub(super) struct Sums {
    norms: BTreeMap<usize, usize>,
    written: BTreeSet<usize>,
}

impl Sums {
    /// The norm that is written with the addition at `place`.
    pub(super) fn norm_of(&self, place: usize) -> Option<usize> {
        self.norms.get(&place).copied()
    }

    /// Whether the node at `place` is a norm that its addition brings along.
    pub(super) fn are_written_with(&self, place: usize) -> bool {
        self.written.contains(&place)
    }
}

/// Finds norms of sums of two values of one type. The weight must be there before the addition.
pub(super) fn sums(graph: &Graph) -> Sums {
    let mut sums = Sums::default();
    let is_sum = |node: &Node| {
        let [x, y] = node.inputs[..] else { return false };
        let value_type = &graph.value(x).value_type;
        node.op == Op::Binary(Binary::Add) && *value_type == graph.value(y).value_type && value_type.rank() == 3
    };
    let additions = graph.nodes().iter().enumerate().filter(|(_, node)| is_sum(node));
    let additions: BTreeMap<_, _> = additions.map(|(place, node)| (node.output(), place)).collect();
    for (place, node) in graph.nodes().iter().enumerate() {
        let (Op::RmsNorm { .. }, [x, weight]) = (&node.op, &node.inputs[..]) else { continue };
        let Some(addition) = additions.get(x) else { continue };
        if graph.initialisers.contains_key(weight) && !sums.norms.contains_key(addition) {
            sums.norms.insert(*addition, place);
            sums.written.insert(place);
        }
    }
    sums
}

/// The addition `sum` and the norm of its result as one node.
pub(super) fn with_sum(rewrites: &mut Rewrites<'_, '_>, sum: &Node, norm: &Node) -> Written {
    let (Op::RmsNorm { epsilon }, [_, weight]) = (&norm.op, &norm.inputs[..]) else {
        rewrites.keep(sum);
        return Written::Kept;
    };
    let inputs = [sum.inputs.as_slice(), &[*weight]].concat();
    let op = Op::SkipSimplifiedLayerNorm { epsilon: *epsilon };
    rewrites.put(op, &inputs, &[norm.output(), sum.output()]);
    let norm = rewrites.name(norm.output());
    Written::Anew(format!("ONNX Runtime's SkipSimplifiedLayerNormalization, with its norm `{norm}`"))
}

pub(super) fn norm(
    legalise: &Legalise,
    rewrites: &mut Rewrites<'_, '_>,
    node: &Node,
    epsilon: Real,
) -> Result<Written, IrError> {
    if legalise.has_transformer_operators() {
        rewrites.keep(node);
        return Ok(Written::Kept);
    }
    if legalise.is_ort() {
        rewrites.replace(node.output(), Op::SimplifiedLayerNorm { epsilon }, &node.inputs);
        return Ok(Written::Anew("ONNX Runtime's SimplifiedLayerNormalization".to_owned()));
    }
    let name = rewrites.name(node.output()).to_owned();
    let (x, weight) = (node.inputs[0], node.inputs[1]);
    let axis = rewrites.graph().value(x).value_type.rank().saturating_sub(1);
    let (two, epsilon) = (rewrites.scalar(2.0)?, rewrites.scalar(epsilon.get())?);
    let squares = rewrites.node(format!("{name}.squares"), Op::Binary(Binary::Pow), &[x, two])?;
    let mean = rewrites.node(format!("{name}.mean_square"), Op::ReduceMean { axes: vec![axis] }, &[squares])?;
    let mean = rewrites.node(format!("{name}.mean_square.positive"), Op::Binary(Binary::Add), &[mean, epsilon])?;
    let root = rewrites.node(format!("{name}.root_mean_square"), Op::Unary(Unary::Sqrt), &[mean])?;
    let normed = rewrites.node(format!("{name}.normed"), Op::Binary(Binary::Div), &[x, root])?;
    rewrites.replace(node.output(), Op::Binary(Binary::Mul), &[normed, weight]);
    Ok(legalise.lacks("RMSNormalization"))
}
