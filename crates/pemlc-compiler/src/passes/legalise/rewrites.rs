//! What rewritings share: the old nodes by what they make, scalar constants and derived values made once.

use super::super::rewriter::Rewriter;
use crate::ir::{Data, Graph, IrError, Node, Op, Tensor, ValueId, scalar_name};
use std::collections::BTreeMap;

/// A rewriter over nodes of which any may be looked up.
pub(super) struct Rewrites<'a, 'g> {
    rewriter: Rewriter<'g>,
    makers: BTreeMap<ValueId, &'a Node>,
    scalars: BTreeMap<u32, ValueId>,
    derived: BTreeMap<(ValueId, &'static str), ValueId>,
}

impl<'a, 'g> Rewrites<'a, 'g> {
    pub(super) fn new(rewriter: Rewriter<'g>, nodes: &'a [Node]) -> Self {
        let makers = nodes.iter().flat_map(|node| node.outputs.iter().map(move |id| (*id, node))).collect();
        let scalars = scalars(rewriter.graph());
        Self { rewriter, makers, scalars, derived: BTreeMap::new() }
    }

    pub(super) fn finish(self) {
        self.rewriter.finish();
    }

    pub(super) fn graph(&self) -> &Graph {
        self.rewriter.graph()
    }

    pub(super) fn name(&self, id: ValueId) -> &str {
        self.rewriter.name(id)
    }

    /// The node that made `id` in the graph as it was.
    pub(super) fn maker(&self, id: ValueId) -> Option<&'a Node> {
        self.makers.get(&id).copied()
    }

    /// Size of an axis of `id`, where it is fixed.
    pub(super) fn size(&self, id: ValueId, axis: usize) -> Option<usize> {
        self.graph().value(id).value_type.shape.get(axis)?.fixed()
    }

    pub(super) fn keep(&mut self, node: &Node) {
        self.rewriter.keep(node.clone());
    }

    /// Puts a node that makes `outputs`, which other nodes made before.
    pub(super) fn put(&mut self, op: Op, inputs: &[ValueId], outputs: &[ValueId]) {
        self.rewriter.keep(Node { op, inputs: inputs.to_vec(), outputs: outputs.to_vec() });
    }

    pub(super) fn node(&mut self, name: impl Into<String>, op: Op, inputs: &[ValueId]) -> Result<ValueId, IrError> {
        self.rewriter.node(name, op, inputs)
    }

    pub(super) fn replace(&mut self, output: ValueId, op: Op, inputs: &[ValueId]) {
        self.rewriter.replace(output, op, inputs);
    }

    /// A scalar constant: the graph's own where it has one.
    pub(super) fn scalar(&mut self, value: f32) -> Result<ValueId, IrError> {
        if let Some(id) = self.scalars.get(&value.to_bits()) {
            return Ok(*id);
        }
        let id = self.rewriter.constant(scalar_name(value), Tensor::scalar_f32(value))?;
        self.scalars.insert(value.to_bits(), id);
        Ok(id)
    }

    /// `op` on `x` in a value named `x.part`, made once however often it is asked for.
    pub(super) fn derived(&mut self, x: ValueId, part: &'static str, op: Op) -> Result<ValueId, IrError> {
        if let Some(id) = self.derived.get(&(x, part)) {
            return Ok(*id);
        }
        let id = self.node(format!("{}.{part}", self.name(x)), op, &[x])?;
        self.derived.insert((x, part), id);
        Ok(id)
    }
}

/// Scalar f32 constants of `graph` by their bits.
fn scalars(graph: &Graph) -> BTreeMap<u32, ValueId> {
    let scalar = |id: ValueId| match graph.constant_of(id).map(|tensor| (tensor.shape(), tensor.data())) {
        Some(([], Data::F32(values))) => values.first().map(|value| (value.to_bits(), id)),
        _ => None,
    };
    graph.initialisers().filter_map(|(id, _)| scalar(id)).collect()
}
