//! What operators make of types and shapes. An operator or a case that is not here yields an unknown shape, never a wrong one.

use super::dim::Dim;
use super::fact::{Fact, axis_index};
use super::walk::Call;
use super::{arithmetic, layout, products, windows};
use crate::inspect::model::AttributeValue;
use crate::inspect::number::DataType;
use std::rc::Rc;

/// Facts of the outputs; missing ones are unknown.
pub(crate) fn infer(call: Call<'_>, inputs: &[Option<Fact>]) -> Vec<Fact> {
    let input = |place: usize| inputs.get(place).cloned().flatten().unwrap_or_default();
    let first = input(0);
    let operator = call.node.operator.as_str();
    if let Some(facts) =
        products::infer(call, inputs).or_else(|| layout::infer(call, inputs)).or_else(|| windows::infer(call, inputs))
    {
        return facts;
    }
    let fact = match operator {
        "Constant" => constant(call),
        "Identity" | "Dropout" => first,
        "Cast" => {
            let to = call.int("to").and_then(|to| i32::try_from(to).ok()).unwrap_or_default();
            Fact { dtype: DataType(to), ..first }.unweighted()
        }
        "Shape" => shape(call, &first),
        "Size" => Fact::new(DataType::I64, Some(Vec::new())).holding(Some(vec![first.elements()])),
        "ConstantOfShape" => {
            let dtype = match call.attribute("value") {
                Some(AttributeValue::Tensor(tensor)) => tensor.dtype,
                _ => DataType::F32,
            };
            Fact::new(dtype, first.contents.as_deref().map(<[Dim]>::to_vec))
        }
        "Range" => {
            let (start, limit, step) = (input(0), input(1), input(2));
            let single = |fact: &Fact| fact.contents.as_deref().and_then(|contents| contents.first().cloned());
            let count = match (single(&start), single(&limit), single(&step)) {
                (Some(start), Some(limit), Some(Dim::Fixed(1))) => limit.minus(&start),
                _ => Dim::Unknown,
            };
            Fact::new(start.dtype, Some(vec![count]))
        }
        "Equal" | "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual" | "And" | "Or" | "Xor" => {
            Fact::new(DataType::BOOL, broadcast(&[&input(0), &input(1)]))
        }
        "IsNaN" | "IsInf" => Fact { dtype: DataType::BOOL, ..first }.unweighted(),
        "Where" => Fact::new(input(1).dtype, broadcast(&[&input(0), &input(1), &input(2)])),
        "Add" | "Sub" | "Mul" | "Div" => {
            let shape = broadcast(&[&input(0), &input(1)]);
            Fact::new(first.dtype, shape).holding(arithmetic::binary(operator, &input(0), &input(1)))
        }
        "Pow" | "Mod" | "PRelu" | "BitShift" | "BitwiseAnd" | "BitwiseOr" | "BiasGelu" | "FastGelu" => {
            let given: Vec<Fact> = inputs.iter().flatten().cloned().collect();
            Fact::new(first.dtype, broadcast(&given.iter().collect::<Vec<_>>()))
        }
        "Max" | "Min" | "Mean" | "Sum" => {
            let given: Vec<Fact> = inputs.iter().flatten().cloned().collect();
            Fact::new(first.dtype, broadcast(&given.iter().collect::<Vec<_>>()))
        }
        "LayerNormalization" | "SimplifiedLayerNormalization" | "RMSNormalization" => return vec![first.unweighted()],
        "SkipLayerNormalization" | "SkipSimplifiedLayerNormalization" => {
            let same = first.unweighted();
            return vec![same.clone(), Fact::default(), Fact::default(), same];
        }
        "ArgMax" | "ArgMin" => {
            let reduced = reduced(call, &first, Some(&[call.int("axis").unwrap_or(0)]));
            Fact::new(DataType::I64, reduced)
        }
        "DequantizeLinear" => Fact::new(input(1).dtype, first.shape.as_deref().map(<[Dim]>::to_vec)),
        "QuantizeLinear" => {
            let dtype = inputs.get(2).and_then(Option::as_ref).map_or(DataType(2), |zero| zero.dtype);
            Fact::new(dtype, first.shape.as_deref().map(<[Dim]>::to_vec))
        }
        _ if operator.starts_with("Reduce") && call.is_standard() => {
            let axes = call.ints("axes").map(<[i64]>::to_vec).or_else(|| integers(&input(1)));
            let given = call.ints("axes").is_some() || inputs.get(1).is_some_and(Option::is_some);
            match (axes, given) {
                (None, true) => Fact { dtype: first.dtype, ..Fact::default() },
                (axes, _) => Fact::new(first.dtype, reduced(call, &first, axes.as_deref())),
            }
        }
        _ if is_unary(operator) => first.unweighted(),
        _ => Fact::default(),
    };
    vec![fact]
}

/// Operators whose output is like their first input.
fn is_unary(operator: &str) -> bool {
    matches!(
        operator,
        "Abs"
            | "Acos"
            | "Asin"
            | "Atan"
            | "BatchNormalization"
            | "BitwiseNot"
            | "Ceil"
            | "Celu"
            | "Clip"
            | "Cos"
            | "Cosh"
            | "CumSum"
            | "Elu"
            | "Erf"
            | "Exp"
            | "Floor"
            | "Gelu"
            | "GroupNormalization"
            | "HardSigmoid"
            | "HardSwish"
            | "InstanceNormalization"
            | "LeakyRelu"
            | "Log"
            | "LogSoftmax"
            | "Hardmax"
            | "LRN"
            | "Mish"
            | "Neg"
            | "Not"
            | "QuickGelu"
            | "Reciprocal"
            | "Relu"
            | "RotaryEmbedding"
            | "Round"
            | "ScatterElements"
            | "ScatterND"
            | "Selu"
            | "Sigmoid"
            | "Sign"
            | "Sin"
            | "Sinh"
            | "Softmax"
            | "Softplus"
            | "Softsign"
            | "Sqrt"
            | "Swish"
            | "Tan"
            | "Tanh"
            | "ThresholdedRelu"
            | "Trilu"
            | "LpNormalization"
    )
}

impl Fact {
    /// The same type and shape, of a value that is computed.
    pub(crate) fn unweighted(self) -> Self {
        Self { weight: false, ..self }
    }
}

fn constant(call: Call<'_>) -> Fact {
    let list = |values: &[i64]| {
        let dims: Vec<Dim> = values.iter().take(64).copied().map(Dim::Fixed).collect();
        Fact::new(DataType::I64, Some(vec![Dim::Fixed(values.len() as i64)]))
            .holding((dims.len() == values.len()).then_some(dims))
    };
    let attribute = call.node.attributes.first().and_then(|attribute| call.attribute(&attribute.name));
    let fact = match attribute {
        Some(AttributeValue::Tensor(tensor)) => Fact::of_weight(tensor),
        Some(AttributeValue::Int(value)) => {
            Fact::new(DataType::I64, Some(Vec::new())).holding(Some(vec![Dim::Fixed(*value)]))
        }
        Some(AttributeValue::Ints(values)) => list(values),
        Some(AttributeValue::Float(_)) => Fact::new(DataType::F32, Some(Vec::new())),
        Some(AttributeValue::Floats(values)) => Fact::new(DataType::F32, Some(vec![Dim::Fixed(values.len() as i64)])),
        _ => Fact::default(),
    };
    Fact { weight: true, ..fact }
}

fn shape(call: Call<'_>, of: &Fact) -> Fact {
    let Some(shape) = &of.shape else { return Fact::new(DataType::I64, Some(vec![Dim::Unknown])) };
    let bound = |value: i64| {
        let value = if value < 0 { value.saturating_add(shape.len() as i64) } else { value };
        usize::try_from(value).unwrap_or(0).min(shape.len())
    };
    let (start, end) = (bound(call.int("start").unwrap_or(0)), bound(call.int("end").unwrap_or(i64::MAX)));
    let dims = shape.get(start..end).unwrap_or_default().to_vec();
    Fact::new(DataType::I64, Some(vec![Dim::Fixed(dims.len() as i64)])).holding(Some(dims))
}

/// What a reduction leaves; without axes it is over all.
fn reduced(call: Call<'_>, of: &Fact, axes: Option<&[i64]>) -> Option<Vec<Dim>> {
    let shape = of.shape.as_deref()?;
    let keep = call.int("keepdims").unwrap_or(1) != 0;
    let axes: Vec<usize> = match axes {
        Some(axes) if !axes.is_empty() => {
            axes.iter().map(|axis| axis_index(*axis, shape.len())).collect::<Option<_>>()?
        }
        _ if call.int("noop_with_empty_axes") == Some(1) => Vec::new(),
        _ => (0..shape.len()).collect(),
    };
    let left = shape.iter().enumerate().filter_map(|(axis, dim)| match axes.contains(&axis) {
        false => Some(dim.clone()),
        true => keep.then_some(Dim::Fixed(1)),
    });
    Some(left.collect())
}

/// The shape of values broadcast together.
pub(crate) fn broadcast(facts: &[&Fact]) -> Option<Vec<Dim>> {
    let shapes: Vec<&Rc<[Dim]>> = facts.iter().map(|fact| fact.shape.as_ref()).collect::<Option<_>>()?;
    let shapes: Vec<&[Dim]> = shapes.into_iter().map(|shape| &**shape).collect();
    broadcast_shapes(&shapes)
}

pub(crate) fn broadcast_shapes(shapes: &[&[Dim]]) -> Option<Vec<Dim>> {
    let rank = shapes.iter().map(|shape| shape.len()).max()?;
    let mut result = vec![Dim::Fixed(1); rank];
    for shape in shapes {
        for (place, dim) in result[rank - shape.len()..].iter_mut().zip(*shape) {
            *place = together(place, dim);
        }
    }
    Some(result)
}

/// One dimension of two values broadcast together.
fn together(one: &Dim, other: &Dim) -> Dim {
    match (one, other) {
        (Dim::Fixed(1), dim) | (dim, Dim::Fixed(1)) => dim.clone(),
        // Whatever the other is at run time, it must be this or 1.
        (Dim::Fixed(size), _) | (_, Dim::Fixed(size)) => Dim::Fixed(*size),
        (Dim::Unknown, _) | (_, Dim::Unknown) => Dim::Unknown,
        // Two symbols that must be equal, unless one is 1 at run time: `total` and `past + sequence`, say.
        (one, _) => one.clone(),
    }
}

/// What a value holds, if that is all plain numbers.
pub(crate) fn integers(fact: &Fact) -> Option<Vec<i64>> {
    fact.contents.as_deref()?.iter().map(Dim::fixed).collect()
}
