//! How a pass replaces nodes: it walks the old nodes in order, and puts what it wants in their place.

use crate::ir::{DType, Expression, Graph, IrError, Node, Op, Tensor, ValueId};

/// A graph whose nodes are being put anew. Values and initialisers stay; nodes that are not put again are gone.
pub(crate) struct Rewriter<'a> {
    graph: &'a mut Graph,
    nodes: Vec<Node>,
}

impl<'a> Rewriter<'a> {
    /// Takes the nodes out of `graph`: the rewriter, and they in order.
    pub(crate) fn new(graph: &'a mut Graph) -> (Self, Vec<Node>) {
        let old = std::mem::take(&mut graph.nodes);
        let nodes = Vec::with_capacity(old.len());
        (Self { graph, nodes }, old)
    }

    /// The graph, its nodes excepted.
    pub(crate) fn graph(&self) -> &Graph {
        self.graph
    }

    /// Name of a value.
    pub(crate) fn name(&self, id: ValueId) -> &str {
        &self.graph.value(id).name
    }

    /// Puts an old node as it is.
    pub(crate) fn keep(&mut self, node: Node) {
        self.nodes.push(node);
    }

    /// Puts a new node named `name`.
    pub(crate) fn node(&mut self, name: impl Into<String>, op: Op, inputs: &[ValueId]) -> Result<ValueId, IrError> {
        let node = self.graph.make_node(&[name.into()], op, inputs)?;
        let output = node.output();
        self.nodes.push(node);
        Ok(output)
    }

    /// Puts a node that makes the value `output`, whose old maker is not put again. The verifier compares their types.
    pub(crate) fn replace(&mut self, output: ValueId, op: Op, inputs: &[ValueId]) {
        self.nodes.push(Node { op, inputs: inputs.to_vec(), outputs: vec![output] });
    }

    /// Declares `id` of another number type. The verifier compares it with what its maker gives.
    pub(crate) fn set_dtype(&mut self, id: ValueId, dtype: DType) {
        self.graph.values[id.0].value_type.dtype = dtype;
    }

    /// Adds a constant initialiser.
    pub(crate) fn constant(&mut self, name: impl Into<String>, tensor: Tensor) -> Result<ValueId, IrError> {
        self.graph.constant(name, tensor)
    }

    /// Adds an initialiser.
    pub(crate) fn initialiser(&mut self, name: impl Into<String>, expression: Expression) -> Result<ValueId, IrError> {
        self.graph.initialiser(name, expression)
    }

    /// Takes the expression of the initialiser `id` away: a node has to make the value, or nothing may read it.
    pub(crate) fn take_initialiser(&mut self, id: ValueId) -> Option<Expression> {
        self.graph.initialisers.remove(&id)
    }

    /// Makes `expression` the initialiser `id`, whose name stays and whose type becomes the expression's. The verifier looks at its readers.
    pub(crate) fn put_initialiser(&mut self, id: ValueId, expression: Expression) -> Result<(), IrError> {
        let name = self.name(id).to_owned();
        let value_type = expression.value_type().map_err(|reason| IrError::Initialiser { name, reason })?;
        self.graph.values[id.0].value_type = value_type;
        self.graph.initialisers.insert(id, expression);
        Ok(())
    }

    /// Leaves the new nodes in the graph.
    pub(crate) fn finish(self) {
        self.graph.nodes = self.nodes;
    }
}
