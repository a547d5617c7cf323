//! Chooses the number types of floats.
//!
//! *Narrow* (f16): products and what only moves or gates their results, and the cache. Weights are rounded once, after every merge in f32.
//! Everything that sums squares or exponentials, angles, masks, log-gates and the residual stream, from the rows of the embedding table on,
//! stay f32: they overflow f16, or lose what the model needs. *Storage* (bf16): what comes to a product, weights and prefix rows, and the
//! tables of the base model are held in the narrow type and widened in the graph, for runtimes without kernels of that type; what is
//! computed is f32.

mod narrow;
mod store;
mod width;

use super::rewriter::Rewriter;
use super::{Outcome, Pass};
use crate::ir::{DType, Expression, Graph, IrError, Node, Op, ValueId};
use crate::target::{Operators, Opset};
use narrow::narrow;
use std::collections::BTreeMap;
use store::store;

/// Weights of fewer numbers stay f32 in storage: norms, biases, tables.
pub(in crate::passes) const SMALL: usize = 256;

/// Number types of an artifact's floats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// Everything f32.
    #[default]
    F32,
    /// Products and cache in f16.
    F16,
    /// Weights stored in bf16, computed in f32.
    BF16,
    /// Large weights of the base model held in eight bits, computed in f32.
    Int8,
    /// The same in four bits; the embedding table and the head in eight.
    Int4,
}

impl Precision {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::F32, Self::F16, Self::BF16, Self::Int8, Self::Int4];

    /// Names of the runtimes that know the type; empty when all do. tract 0.23 has no bf16 and no integers of four bits.
    pub fn runtimes(self) -> &'static [&'static str] {
        match self {
            Self::F32 | Self::F16 | Self::Int8 => &[],
            Self::BF16 | Self::Int4 => &["ort-cpu", "ort-cpu-unoptimized", "ort-cuda"],
        }
    }

    /// The lowest opset that has the type: integers of four bits came with 21. ONNX Runtime's own operators take them as bytes.
    pub fn lowest_opset(self, operators: Operators) -> Opset {
        match (self, operators) {
            (Self::Int4, Operators::Standard) => Opset::V21,
            _ => Opset::V18,
        }
    }

    /// How far the answers of a task may be from the trainer's, where what is asked is what quantisation lost and not whether numbers are
    /// equal: the largest mean total variation of the next token's distribution. A statement of what is tolerable, not a measurement: on
    /// average, the probability of no event whatever moves by more than 2 % (10 % in four bits).
    pub fn distortion_bound(self) -> Option<f64> {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => None,
            Self::Int8 => Some(0.02),
            Self::Int4 => Some(0.1),
        }
    }

    /// Largest absolute difference of a logit that is up to 10, in proportion beyond, that rounding may make; none for what is computed in f32. Set
    /// after what one run of a real model needed (benches/README.md, "Number types").
    pub fn tolerance(self) -> Option<f64> {
        match self {
            Self::F32 | Self::Int8 | Self::Int4 => None,
            Self::F16 => Some(1e-1),
            Self::BF16 => Some(1.0),
        }
    }

    /// Name, as on the command line and in `pemlc.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        }
    }
}

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct ChoosePrecision(pub Precision);

impl Pass for ChoosePrecision {
    fn name(&self) -> &'static str {
        "precision"
    }

    fn run(&self, graph: &mut Graph) -> Result<Outcome, String> {
        match self.0 {
            // Whole numbers are the pass `quantise`'s.
            Precision::F32 | Precision::Int8 | Precision::Int4 => Ok(Outcome::default()),
            Precision::F16 => narrow(graph, DType::F16).map_err(|error| error.to_string()),
            Precision::BF16 => store(graph, DType::BF16).map_err(|error| error.to_string()),
        }
    }
}

/// Whether a node gathers rows of a table of the base model, which is no constant that the compiler made.
fn reads_table(graph: &Graph, node: &Node) -> bool {
    let stored = |id: &ValueId| {
        let expression = graph.initialisers.get(id);
        expression.is_some_and(|expression| !expression.checkpoint_names().is_empty()) && !graph.is_overridable(*id)
    };
    matches!(node.op, Op::Gather { axis: 0 }) && node.inputs.first().is_some_and(stored)
}

/// `id` as `wanted`: itself, or through a cast.
fn cast(
    rewriter: &mut Rewriter<'_>,
    casts: &mut BTreeMap<(ValueId, DType), ValueId>,
    id: ValueId,
    wanted: DType,
) -> Result<ValueId, IrError> {
    if rewriter.graph().value(id).value_type.dtype == wanted {
        return Ok(id);
    }
    if let Some(made) = casts.get(&(id, wanted)) {
        return Ok(*made);
    }
    let name = format!("{}.as_{wanted}", rewriter.name(id));
    let made = rewriter.node(name, Op::Cast { to: wanted }, &[id])?;
    casts.insert((id, wanted), made);
    Ok(made)
}

/// Gathers rows of a table in the type that it has, and widens those.
fn widen_rows(rewriter: &mut Rewriter<'_>, node: &Node, dtype: DType) -> Result<(), IrError> {
    if rewriter.graph().value(node.inputs[0]).value_type.dtype != dtype {
        rewriter.keep(node.clone());
        return Ok(());
    }
    let name = format!("{}.{dtype}", rewriter.name(node.output()));
    let made = rewriter.node(name, node.op.clone(), &node.inputs)?;
    rewriter.replace(node.output(), Op::Cast { to: DType::F32 }, &[made]);
    Ok(())
}

/// Rounds an initialiser to `dtype`.
fn round_initialiser(graph: &mut Graph, id: ValueId, dtype: DType) {
    if let Some(base) = graph.initialisers.remove(&id) {
        graph.initialisers.insert(id, Expression::Cast { to: dtype, base: Box::new(base) });
        graph.values[id.0].value_type.dtype = dtype;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Binary, Dim, Symbol, Tensor, Unary, ValueType, verify};

    /// `y = x W + b` behind a norm-like square root, and a cache that grows by `y`.
    fn graph() -> Graph {
        let mut graph = Graph::new("g");
        let rows = |size: Dim| ValueType::new(DType::F32, [Symbol::Batch.into(), size, 3.into()]);
        let past = graph.input("past", rows(Symbol::PastSequence.into()));
        let ids = graph.input("ids", ValueType::new(DType::I64, [Symbol::Batch, Symbol::Sequence]));
        let table = Expression::Checkpoint { name: "table".to_owned(), shape: vec![2000, 3] };
        let table = graph.initialiser("table", table).unwrap();
        let weight = Expression::Checkpoint { name: "weight".to_owned(), shape: vec![3, 3] };
        let weight = graph.initialiser("weight", weight).unwrap();
        let bias = graph.constant("bias", Tensor::f32_from_fn(vec![3], |i| i as f32)).unwrap();
        let two = graph.constant("two", Tensor::scalar_f32(2.0)).unwrap();
        let x = graph.node("x", Op::Gather { axis: 0 }, &[table, ids]).unwrap();
        let squares = graph.node("squares", Op::Binary(Binary::Pow), &[x, two]).unwrap();
        let root = graph.node("root", Op::Unary(Unary::Sqrt), &[squares]).unwrap();
        let product = graph.node("product", Op::MatMul, &[root, weight]).unwrap();
        let y = graph.node("y", Op::Binary(Binary::Add), &[product, bias]).unwrap();
        let present = graph.node("present", Op::Concat { axis: 1 }, &[past, y]).unwrap();
        graph.output(y);
        graph.output(present);
        graph
    }

    #[test]
    fn products_and_the_cache_are_narrow_and_squares_are_not() {
        let mut graph = graph();
        ChoosePrecision(Precision::F16).run(&mut graph).unwrap();
        verify(&graph).unwrap();
        insta::assert_snapshot!(graph);
    }

    #[test]
    fn stored_weights_are_widened_where_they_are_read() {
        let mut graph = graph();
        let outcome = ChoosePrecision(Precision::BF16).run(&mut graph).unwrap();
        verify(&graph).unwrap();
        assert_eq!(outcome.changed, ["weight `table` is stored in bf16"]);
        insta::assert_snapshot!(graph);
    }

    #[test]
    fn f32_changes_nothing() {
        let mut changed = graph();
        assert_eq!(ChoosePrecision(Precision::F32).run(&mut changed).unwrap(), Outcome::default());
        assert_eq!(changed, graph());
    }
}
