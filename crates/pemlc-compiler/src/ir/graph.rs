//! A graph: nodes in execution order, nearly all with one output.

use super::expression::Expression;
use super::infer::infer;
use super::op::Op;
use super::tensor::Tensor;
use super::value::ValueType;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A value of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueId(pub(crate) usize);

/// A value's name and type.
#[derive(Debug, Clone, PartialEq)]
pub struct Value {
    /// Unique name. A node's output is named as the node.
    pub name: String,
    /// Number type and shape.
    pub value_type: ValueType,
}

/// An operator applied to values. It is named as its first output.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Operator and attributes.
    pub op: Op,
    /// Values read.
    pub inputs: Vec<ValueId>,
    /// Values made: at least one, and just one for all operators but the fused ones.
    pub outputs: Vec<ValueId>,
}

impl Node {
    /// The first value made, which gives the node its name.
    pub fn output(&self) -> ValueId {
        self.outputs[0]
    }
}

/// Name of a scalar constant. Its sign is a word: importers that keep letters and digits alone take `-1.0` for `1.0`, and burn-onnx then reads
/// the one where the other is meant.
pub(crate) fn scalar_name(value: f32) -> String {
    let sign = if value.is_sign_negative() && !value.is_nan() { "minus_" } else { "" };
    format!("constants.f32.{sign}{:?}", value.abs())
}

/// Why a graph cannot be built or is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IrError {
    /// An operator's inputs do not fit it.
    #[error("node `{node}` ({op}): {reason}")]
    Node {
        /// The node.
        node: String,
        /// Its operator.
        op: &'static str,
        /// What does not fit.
        reason: String,
    },
    /// An initialiser's expression does not fit together.
    #[error("initialiser `{name}`: {reason}")]
    Initialiser {
        /// The initialiser.
        name: String,
        /// What does not fit.
        reason: String,
    },
    /// An invariant of the graph as a whole is broken.
    #[error("graph `{graph}`: {reason}")]
    Graph {
        /// The graph.
        graph: String,
        /// What is broken.
        reason: String,
    },
}

/// A computation graph.
#[derive(Debug, Clone, PartialEq)]
pub struct Graph {
    /// Name of the graph.
    pub name: String,
    pub(crate) values: Vec<Value>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) inputs: Vec<ValueId>,
    pub(crate) outputs: Vec<ValueId>,
    pub(crate) initialisers: BTreeMap<ValueId, Expression>,
    pub(crate) overridable: BTreeSet<ValueId>,
}

impl Graph {
    /// An empty graph.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            values: Vec::new(),
            nodes: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            initialisers: BTreeMap::new(),
            overridable: BTreeSet::new(),
        }
    }

    /// Adds a graph input.
    pub fn input(&mut self, name: impl Into<String>, value_type: ValueType) -> ValueId {
        let id = self.add_value(name.into(), value_type);
        self.inputs.push(id);
        id
    }

    /// Adds an initialiser.
    pub fn initialiser(&mut self, name: impl Into<String>, expression: Expression) -> Result<ValueId, IrError> {
        let name = name.into();
        let value_type =
            expression.value_type().map_err(|reason| IrError::Initialiser { name: name.clone(), reason })?;
        let id = self.add_value(name, value_type);
        self.initialisers.insert(id, expression);
        Ok(id)
    }

    /// Adds an initialiser that a caller may override: an input with a default. No pass looks into it.
    pub fn overridable(&mut self, name: impl Into<String>, expression: Expression) -> Result<ValueId, IrError> {
        let id = self.initialiser(name, expression)?;
        self.overridable.insert(id);
        Ok(id)
    }

    /// Whether a caller may override the initialiser `id`.
    pub fn is_overridable(&self, id: ValueId) -> bool {
        self.overridable.contains(&id)
    }

    /// Adds a constant initialiser.
    pub fn constant(&mut self, name: impl Into<String>, tensor: Tensor) -> Result<ValueId, IrError> {
        self.initialiser(name, Expression::constant(tensor))
    }

    /// Appends a node named `name`, as is its one output, whose type is inferred.
    pub fn node(&mut self, name: impl Into<String>, op: Op, inputs: &[ValueId]) -> Result<ValueId, IrError> {
        let node = self.make_node(&[name.into()], op, inputs)?;
        let output = node.output();
        self.nodes.push(node);
        Ok(output)
    }

    /// A node with new output values, not yet in the list of nodes.
    pub(crate) fn make_node(&mut self, names: &[String], op: Op, inputs: &[ValueId]) -> Result<Node, IrError> {
        let types: Vec<&ValueType> = inputs.iter().map(|id| &self.value(*id).value_type).collect();
        let node = names.first().cloned().unwrap_or_default();
        let fail = |reason| IrError::Node { node: node.clone(), op: op.name(), reason };
        let types = infer(&op, &types).map_err(fail)?;
        if types.len() != names.len() {
            return Err(fail(format!("makes {} values, {} were named", types.len(), names.len())));
        }
        let outputs =
            names.iter().cloned().zip(types).map(|(name, value_type)| self.add_value(name, value_type)).collect();
        Ok(Node { op, inputs: inputs.to_vec(), outputs })
    }

    /// Makes `value` a graph output.
    pub fn output(&mut self, value: ValueId) {
        self.outputs.push(value);
    }

    /// The value `id`.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.0]
    }

    /// Nodes in execution order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Graph inputs in order.
    pub fn inputs(&self) -> &[ValueId] {
        &self.inputs
    }

    /// Graph outputs in order.
    pub fn outputs(&self) -> &[ValueId] {
        &self.outputs
    }

    /// Initialisers in the order of their creation.
    pub fn initialisers(&self) -> impl Iterator<Item = (ValueId, &Expression)> {
        self.initialisers.iter().map(|(id, expression)| (*id, expression))
    }

    /// The constant behind `id`, if it is an initialiser held in memory that nobody may override.
    pub fn constant_of(&self, id: ValueId) -> Option<&Arc<Tensor>> {
        match self.initialisers.get(&id) {
            Some(Expression::Constant(tensor)) if !self.is_overridable(id) => Some(tensor),
            _ => None,
        }
    }

    /// How many nodes and outputs read each value.
    pub(crate) fn use_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.values.len()];
        for id in self.nodes.iter().flat_map(|node| &node.inputs).chain(&self.outputs) {
            counts[id.0] += 1;
        }
        counts
    }

    /// Lets every reader of a key of `replacements` read its value instead. Outputs keep their ids, since their names are a contract.
    pub(crate) fn replace_uses(&mut self, replacements: &BTreeMap<ValueId, ValueId>) {
        for input in self.nodes.iter_mut().flat_map(|node| &mut node.inputs) {
            while let Some(other) = replacements.get(input) {
                *input = *other;
            }
        }
    }

    /// A value that nothing makes yet.
    pub(crate) fn declare(&mut self, name: String, value_type: ValueType) -> ValueId {
        self.add_value(name, value_type)
    }

    fn add_value(&mut self, name: String, value_type: ValueType) -> ValueId {
        self.values.push(Value { name, value_type });
        ValueId(self.values.len() - 1)
    }
}
