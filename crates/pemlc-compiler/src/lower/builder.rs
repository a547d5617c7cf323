//! Short words for building graphs: every lowering uses these.

use crate::ir::{
    Binary, Comparison, DType, Expression, Graph, IrError, Op, Tensor, Unary, ValueId, ValueType, scalar_name,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A graph under construction, with its scalar constants shared.
pub(crate) struct Builder {
    graph: Graph,
    scalars: BTreeMap<String, ValueId>,
}

impl Builder {
    pub(crate) fn new(name: &str) -> Self {
        Self { graph: Graph::new(name), scalars: BTreeMap::new() }
    }

    pub(crate) fn finish(self) -> Graph {
        self.graph
    }

    pub(crate) fn input(&mut self, name: impl Into<String>, value_type: ValueType) -> ValueId {
        self.graph.input(name, value_type)
    }

    pub(crate) fn output(&mut self, value: ValueId) {
        self.graph.output(value);
    }

    pub(crate) fn weight(&mut self, name: impl Into<String>, expression: Expression) -> Result<ValueId, IrError> {
        self.graph.initialiser(name, expression)
    }

    pub(crate) fn constant(&mut self, name: impl Into<String>, tensor: &Arc<Tensor>) -> Result<ValueId, IrError> {
        self.graph.initialiser(name, Expression::Constant(Arc::clone(tensor)))
    }

    /// A tensor that an adapter brings. Without one it is NaN throughout, and so is every answer: the base model must not answer.
    pub(crate) fn brought_by_adapter(
        &mut self,
        name: impl Into<String>,
        shape: Vec<usize>,
    ) -> Result<ValueId, IrError> {
        self.graph.overridable(name, Expression::constant(Tensor::f32_from_fn(shape, |_| f32::NAN)))
    }

    /// A scalar constant, made once however often it is asked for.
    pub(crate) fn scalar_f32(&mut self, value: f32) -> Result<ValueId, IrError> {
        self.scalar(scalar_name(value), Tensor::scalar_f32(value))
    }

    /// A scalar constant, made once however often it is asked for.
    pub(crate) fn scalar_i64(&mut self, value: i64) -> Result<ValueId, IrError> {
        self.scalar(format!("constants.i64.{value}"), Tensor::scalar_i64(value))
    }

    fn scalar(&mut self, name: String, tensor: Tensor) -> Result<ValueId, IrError> {
        if let Some(id) = self.scalars.get(&name) {
            return Ok(*id);
        }
        let id = self.graph.constant(name.clone(), tensor)?;
        self.scalars.insert(name, id);
        Ok(id)
    }

    pub(crate) fn node(&mut self, name: impl Into<String>, op: Op, inputs: &[ValueId]) -> Result<ValueId, IrError> {
        self.graph.node(name, op, inputs)
    }

    pub(crate) fn add(&mut self, name: impl Into<String>, x: ValueId, y: ValueId) -> Result<ValueId, IrError> {
        self.node(name, Op::Binary(Binary::Add), &[x, y])
    }

    pub(crate) fn sub(&mut self, name: impl Into<String>, x: ValueId, y: ValueId) -> Result<ValueId, IrError> {
        self.node(name, Op::Binary(Binary::Sub), &[x, y])
    }

    pub(crate) fn mul(&mut self, name: impl Into<String>, x: ValueId, y: ValueId) -> Result<ValueId, IrError> {
        self.node(name, Op::Binary(Binary::Mul), &[x, y])
    }

    pub(crate) fn matmul(&mut self, name: impl Into<String>, x: ValueId, y: ValueId) -> Result<ValueId, IrError> {
        self.node(name, Op::MatMul, &[x, y])
    }

    pub(crate) fn unary(&mut self, name: impl Into<String>, function: Unary, x: ValueId) -> Result<ValueId, IrError> {
        self.node(name, Op::Unary(function), &[x])
    }

    pub(crate) fn compare(
        &mut self,
        name: impl Into<String>,
        relation: Comparison,
        x: ValueId,
        y: ValueId,
    ) -> Result<ValueId, IrError> {
        self.node(name, Op::Comparison(relation), &[x, y])
    }

    pub(crate) fn cast(&mut self, name: impl Into<String>, to: DType, x: ValueId) -> Result<ValueId, IrError> {
        self.node(name, Op::Cast { to }, &[x])
    }

    /// `None` keeps the dimension.
    pub(crate) fn reshape(
        &mut self,
        name: impl Into<String>,
        x: ValueId,
        shape: &[Option<usize>],
    ) -> Result<ValueId, IrError> {
        self.node(name, Op::Reshape { shape: shape.to_vec() }, &[x])
    }

    pub(crate) fn transpose(
        &mut self,
        name: impl Into<String>,
        x: ValueId,
        permutation: &[usize],
    ) -> Result<ValueId, IrError> {
        self.node(name, Op::Transpose { permutation: permutation.to_vec() }, &[x])
    }

    pub(crate) fn unsqueeze(
        &mut self,
        name: impl Into<String>,
        x: ValueId,
        axes: &[usize],
    ) -> Result<ValueId, IrError> {
        self.node(name, Op::Unsqueeze { axes: axes.to_vec() }, &[x])
    }

    pub(crate) fn concat(
        &mut self,
        name: impl Into<String>,
        axis: usize,
        parts: &[ValueId],
    ) -> Result<ValueId, IrError> {
        self.node(name, Op::Concat { axis }, parts)
    }

    pub(crate) fn gather(
        &mut self,
        name: impl Into<String>,
        axis: usize,
        data: ValueId,
        indices: ValueId,
    ) -> Result<ValueId, IrError> {
        self.node(name, Op::Gather { axis }, &[data, indices])
    }

    pub(crate) fn slice(
        &mut self,
        name: impl Into<String>,
        axis: usize,
        range: std::ops::Range<usize>,
        x: ValueId,
    ) -> Result<ValueId, IrError> {
        self.node(name, Op::Slice { axis, start: range.start, end: range.end }, &[x])
    }

    /// Number of axes of `x`.
    pub(crate) fn rank(&self, x: ValueId) -> usize {
        self.graph.value(x).value_type.rank()
    }
}
