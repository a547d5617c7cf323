//! The cost of one node.

use super::{Cost, Sizes};
use crate::inspect::shapes::dim::Dim;
use crate::inspect::shapes::fact::Fact;
use crate::inspect::shapes::walk::{Call, Visit};
use std::collections::BTreeSet;

const SHAPES: &str = "shapes are not known";
const OPERATOR: &str = "operator is not known";

/// Operations an element of softmax and of norms: a pass to reduce, one to subtract or square, one to scale, one more to sum.
const NORM_OPERATIONS: u64 = 4;

/// The class of the node and its cost, or why that is not known.
pub(super) fn cost(
    visit: &Visit<'_, '_>,
    sizes: &Sizes,
    missing: &mut dyn FnMut(&str),
) -> (&'static str, Result<Cost, &'static str>) {
    let class = class(&visit.call);
    let mut counter = Counter { visit, sizes, missing };
    (class, counter.cost(class).and_then(|cost| cost.ok_or(SHAPES)))
}

/// What an operator does.
fn class(call: &Call<'_>) -> &'static str {
    match call.node.operator.as_str() {
        "MatMul"
        | "Gemm"
        | "FusedMatMul"
        | "FusedGemm"
        | "MatMulNBits"
        | "MatMulInteger"
        | "QLinearMatMul"
        | "Einsum"
        | "DynamicQuantizeMatMul"
        | "MatMulIntegerToFloat" => "matrix product",
        "Attention" | "GroupQueryAttention" | "MultiHeadAttention" => "attention",
        "Conv" | "ConvInteger" | "QLinearConv" | "FusedConv" | "ConvTranspose" => "convolution",
        "LSTM" | "GRU" | "RNN" => "recurrence",
        "Softmax"
        | "LogSoftmax"
        | "LayerNormalization"
        | "RMSNormalization"
        | "BatchNormalization"
        | "InstanceNormalization"
        | "GroupNormalization"
        | "SimplifiedLayerNormalization"
        | "SkipLayerNormalization"
        | "SkipSimplifiedLayerNormalization"
        | "LpNormalization"
        | "Hardmax" => "softmax and norms",
        "CumSum" | "ArgMax" | "ArgMin" | "TopK" | "AveragePool" | "MaxPool" | "GlobalAveragePool" | "GlobalMaxPool" => {
            "reduction"
        }
        "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" | "Identity" | "Shape" | "Size" | "Constant" | "Dropout" => {
            "no work"
        }
        "Transpose" | "Concat" | "Split" | "Slice" | "Gather" | "GatherElements" | "GatherND" | "Expand" | "Tile"
        | "Pad" | "Cast" | "Range" | "ConstantOfShape" | "ScatterElements" | "ScatterND" | "Trilu" | "OneHot"
        | "EyeLike" => "data movement",
        "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Mod" | "Max" | "Min" | "Mean" | "Sum" | "And" | "Or" | "Xor"
        | "Not" | "Equal" | "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual" | "Where" | "Abs" | "Neg"
        | "Sign" | "Exp" | "Log" | "Sqrt" | "Reciprocal" | "Sin" | "Cos" | "Tan" | "Sinh" | "Cosh" | "Tanh"
        | "Asin" | "Acos" | "Atan" | "Erf" | "Sigmoid" | "Relu" | "LeakyRelu" | "PRelu" | "Elu" | "Selu" | "Celu"
        | "Gelu" | "Mish" | "Swish" | "QuickGelu" | "FastGelu" | "BiasGelu" | "HardSwish" | "HardSigmoid"
        | "Softplus" | "Softsign" | "Clip" | "Ceil" | "Floor" | "Round" | "IsNaN" | "IsInf" | "BitShift"
        | "BitwiseAnd" | "BitwiseOr" | "BitwiseNot" | "ThresholdedRelu" | "RotaryEmbedding" | "QuantizeLinear"
        | "DequantizeLinear" => "elementwise",
        operator if operator.starts_with("Reduce") && call.is_standard() => "reduction",
        _ => "other",
    }
}

struct Counter<'a, 'v> {
    visit: &'v Visit<'a, 'v>,
    sizes: &'v Sizes,
    missing: &'v mut dyn FnMut(&str),
}

impl Counter<'_, '_> {
    /// The cost, none where it overflows or a shape is not known.
    fn cost(&mut self, class: &str) -> Result<Option<Cost>, &'static str> {
        let Some((multiply_adds, operations)) = (match class {
            "no work" => return Ok(Some(Cost::default())),
            "matrix product" => self.product().map(|count| (count, 0)),
            "attention" => self.attention().map(|count| (count, 0)),
            "convolution" => self.convolution().map(|count| (count, 0)),
            "recurrence" => self.recurrence().map(|count| (count, 0)),
            "softmax and norms" => self
                .elements(self.visit.inputs.first())
                .and_then(|count| count.checked_mul(NORM_OPERATIONS))
                .map(|count| (0, count)),
            "reduction" => self.elements(self.visit.inputs.first()).map(|count| (0, count)),
            "data movement" => Some((0, 0)),
            "elementwise" => self.output().map(|count| (0, count)),
            _ => return Err(OPERATOR),
        }) else {
            return Ok(None);
        };
        let Some((weight_bytes, activation_bytes)) = self.bytes() else { return Ok(None) };
        Ok(Some(Cost { nodes: 1, multiply_adds, operations, weight_bytes, activation_bytes }))
    }

    fn value(&mut self, dim: &Dim) -> Option<u64> {
        let sizes = self.sizes;
        dim.evaluate(&|symbol| sizes.get(symbol), self.missing)
    }

    fn product_of(&mut self, dims: &[Dim]) -> Option<u64> {
        // Every dimension is evaluated, so that all symbols without a size are told.
        let sizes: Vec<Option<u64>> = dims.iter().map(|dim| self.value(dim)).collect();
        sizes.into_iter().try_fold(1u64, |product, size| product.checked_mul(size?))
    }

    fn elements(&mut self, fact: Option<&Option<Fact>>) -> Option<u64> {
        let shape = fact?.as_ref()?.shape.clone()?;
        self.product_of(&shape)
    }

    fn output(&mut self) -> Option<u64> {
        let shape = self.visit.outputs.first()?.shape.clone()?;
        self.product_of(&shape)
    }

    fn input(&self, place: usize) -> Fact {
        self.visit.inputs.get(place).cloned().flatten().unwrap_or_default()
    }

    fn has(&self, place: usize) -> bool {
        self.visit.inputs.get(place).is_some_and(Option::is_some)
    }

    fn product(&mut self) -> Option<u64> {
        let call = self.visit.call;
        let one = self.input(0);
        let flag = |name: &str| call.int(name).unwrap_or(0) != 0;
        let inner = match call.node.operator.as_str() {
            "Einsum" => return self.einsum(),
            "MatMulNBits" => Dim::Fixed(call.int("K")?),
            "Gemm" | "FusedMatMul" | "FusedGemm" if flag("transA") => one.dim(-2),
            _ => one.dim(-1),
        };
        let (outputs, inner) = (self.output(), self.value(&inner));
        outputs?.checked_mul(inner?)
    }

    /// The product of the sizes of all letters.
    fn einsum(&mut self) -> Option<u64> {
        let equation = self.visit.call.text("equation")?;
        let operands = equation.split("->").next()?.split(',');
        let mut letters = BTreeSet::new();
        let mut dims = Vec::new();
        for (place, operand) in operands.enumerate() {
            let operand: Vec<char> = operand.chars().filter(|c| !c.is_whitespace()).collect();
            let fact = self.input(place);
            if operand.contains(&'.') || fact.rank() != Some(operand.len()) {
                return None;
            }
            for (axis, letter) in operand.iter().enumerate() {
                if letters.insert(*letter) {
                    dims.push(fact.dim(i64::try_from(axis).ok()?));
                }
            }
        }
        self.product_of(&dims)
    }

    /// Scores and their product with the values; projections inside the operator too.
    fn attention(&mut self) -> Option<u64> {
        let call = self.visit.call;
        let (query, key, value) = (self.input(0), self.input(1), self.input(2));
        let heads = |name: &str| call.int(name).map_or(Dim::Unknown, Dim::Fixed);
        let pairs = |batch: Dim, queries: Dim, keys: Dim, width: Dim| vec![batch, queries, keys, width];
        let dims = match (call.node.operator.as_str(), call.is_standard(), query.rank()) {
            ("Attention", true, Some(4)) => {
                let keys = if self.has(4) { self.input(4).dim(2).plus(&key.dim(2)) } else { key.dim(2) };
                let width = query.dim(1).times(&query.dim(3).plus(&value.dim(3)));
                pairs(query.dim(0), query.dim(2), keys, width)
            }
            ("Attention", true, Some(3)) => {
                let keys = if self.has(4) { self.input(4).dim(2).plus(&key.dim(1)) } else { key.dim(1) };
                let value_width = value.dim(2).divided_by(&heads("kv_num_heads")).times(&heads("q_num_heads"));
                pairs(query.dim(0), query.dim(1), keys, query.dim(2).plus(&value_width))
            }
            ("GroupQueryAttention", ..) => {
                let keys = if self.has(3) { self.input(3).dim(2).plus(&query.dim(1)) } else { query.dim(1) };
                let width = self.visit.outputs.first().map(|output| output.dim(-1)).unwrap_or_default();
                pairs(query.dim(0), query.dim(1), keys, width.times(&Dim::Fixed(2)))
            }
            ("MultiHeadAttention", _, Some(3)) if key.rank() == Some(3) && value.rank() == Some(3) => {
                let keys = if self.has(6) { self.input(6).dim(2).plus(&key.dim(1)) } else { key.dim(1) };
                pairs(query.dim(0), query.dim(1), keys, query.dim(2).plus(&value.dim(2)))
            }
            _ => return None,
        };
        self.product_of(&dims)
    }

    fn convolution(&mut self) -> Option<u64> {
        let transposed = self.visit.call.node.operator == "ConvTranspose";
        let weight = self.input(if self.visit.call.node.operator == "QLinearConv" { 3 } else { 1 });
        let kernel = weight.shape.as_deref().and_then(|shape| shape.get(1..)).map(<[Dim]>::to_vec)?;
        let around = if transposed { self.elements(self.visit.inputs.first()) } else { self.output() };
        let kernel = self.product_of(&kernel);
        around?.checked_mul(kernel?)
    }

    /// Each step and row meets every weight once.
    fn recurrence(&mut self) -> Option<u64> {
        let steps = self.product_of(&[self.input(0).dim(0), self.input(0).dim(1)]);
        let weights = self.elements(self.visit.inputs.get(1)).zip(self.elements(self.visit.inputs.get(2)));
        steps?.checked_mul(weights.and_then(|(own, recurrent)| own.checked_add(recurrent))?)
    }

    /// Bytes of weights, and of other values.
    fn bytes(&mut self) -> Option<(u64, u64)> {
        let (mut weights, mut activations) = (0u64, 0u64);
        let gathers =
            matches!(self.visit.call.node.operator.as_str(), "Gather" | "GatherElements" | "GatherND" | "Slice");
        let mut complete = true;
        for (place, fact) in self.visit.inputs.iter().enumerate() {
            let Some(fact) = fact else { continue };
            // Of a table only what is taken is read: as much as is written.
            let read = if gathers && place == 0 {
                self.visit.outputs.first().cloned().unwrap_or_default()
            } else {
                fact.clone()
            };
            let dtype = if read.dtype.bits().is_some() { read.dtype } else { fact.dtype };
            let bytes = self.size(&Fact { dtype, ..read });
            complete &= bytes.is_some();
            let sum = if fact.weight { &mut weights } else { &mut activations };
            *sum = sum.saturating_add(bytes.unwrap_or(0));
        }
        for (fact, output) in self.visit.outputs.iter().zip(&self.visit.call.node.outputs) {
            // Second outputs are often declared and never used; what is known of them counts.
            let bytes = if output.is_empty() { Some(0) } else { self.size(fact) };
            activations = activations.saturating_add(bytes.unwrap_or(0));
            complete &= bytes.is_some();
        }
        complete.then_some((weights, activations))
    }

    fn size(&mut self, fact: &Fact) -> Option<u64> {
        let elements = fact.shape.clone().and_then(|shape| self.product_of(&shape))?;
        elements.checked_mul(fact.dtype.bits()?).map(|bits| bits.div_ceil(8))
    }
}
