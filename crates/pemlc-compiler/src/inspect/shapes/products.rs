//! Matrix products, convolutions, attention.

use super::dim::Dim;
use super::fact::Fact;
use super::operators::broadcast_shapes;
use super::walk::Call;

/// Facts of the outputs, if the operator is one of these.
pub(super) fn infer(call: Call<'_>, inputs: &[Option<Fact>]) -> Option<Vec<Fact>> {
    let input = |place: usize| inputs.get(place).cloned().flatten().unwrap_or_default();
    let (first, second) = (input(0), input(1));
    let dtype = first.dtype;
    let attribute = |name: &str| call.int(name).map_or(Dim::Unknown, Dim::Fixed);
    let shape = match (call.node.operator.as_str(), call.is_standard()) {
        ("MatMul", true) => matmul(&first, &second, false, false),
        ("MatMulInteger", _) => {
            return Some(vec![Fact::new(crate::inspect::number::DataType(6), matmul(&first, &second, false, false))]);
        }
        ("FusedMatMul", false) => {
            let flag = |name: &str| call.int(name).unwrap_or(0) != 0;
            matmul(&first, &second, flag("transA"), flag("transB"))
        }
        ("Gemm", _) => first.shape.as_ref().zip(second.shape.as_ref()).map(|_| {
            let flag = |name: &str| call.int(name).unwrap_or(0) != 0;
            vec![first.dim(i64::from(flag("transA"))), second.dim(i64::from(!flag("transB")))]
        }),
        ("MatMulNBits", false) => first.shape.as_deref().and_then(|shape| {
            let (_, rows) = shape.split_last()?;
            Some([rows, &[attribute("N")]].concat())
        }),
        ("Attention", true) => return Some(attention(call, inputs)),
        ("GroupQueryAttention", false) => return Some(grouped_attention(call, inputs)),
        ("MultiHeadAttention", false) => first.shape.as_deref().filter(|shape| shape.len() == 3).map(<[Dim]>::to_vec),
        _ => return None,
    };
    Some(vec![Fact::new(dtype, shape)])
}

/// The shape of a batched matrix product, its operands perhaps transposed.
pub(crate) fn matmul(one: &Fact, other: &Fact, transpose_one: bool, transpose_other: bool) -> Option<Vec<Dim>> {
    let (one, other) = (one.shape.as_deref()?, other.shape.as_deref()?);
    let matrix = |shape: &[Dim], transpose: bool| {
        let (batch, matrix) = shape.split_at_checked(shape.len().checked_sub(2)?)?;
        let (rows, columns) = if transpose { (1, 0) } else { (0, 1) };
        Some((batch.to_vec(), matrix.get(rows)?.clone(), matrix.get(columns)?.clone()))
    };
    match (one.len(), other.len()) {
        (0, _) | (_, 0) => None,
        (1, 1) => Some(Vec::new()),
        (1, _) => matrix(other, transpose_other).map(|(batch, _, columns)| [batch, vec![columns]].concat()),
        (_, 1) => matrix(one, transpose_one).map(|(batch, rows, _)| [batch, vec![rows]].concat()),
        _ => {
            let ((left, rows, _), (right, _, columns)) = (matrix(one, transpose_one)?, matrix(other, transpose_other)?);
            Some([broadcast_shapes(&[&left, &right])?, vec![rows, columns]].concat())
        }
    }
}

/// The standard operator of opset 23: heads are a dimension, or an attribute where the input has three dimensions.
fn attention(call: Call<'_>, inputs: &[Option<Fact>]) -> Vec<Fact> {
    let input = |place: usize| inputs.get(place).cloned().flatten().unwrap_or_default();
    let (query, key, value, past) = (input(0), input(1), input(2), input(4));
    let total = |own: Dim| if inputs.get(4).is_some_and(Option::is_some) { past.dim(2).plus(&own) } else { own };
    let (output, key_shape, value_shape) = match query.rank() {
        Some(4) => (
            Some(vec![query.dim(0), query.dim(1), query.dim(2), value.dim(3)]),
            Some(vec![key.dim(0), key.dim(1), total(key.dim(2)), key.dim(3)]),
            Some(vec![value.dim(0), value.dim(1), total(value.dim(2)), value.dim(3)]),
        ),
        Some(3) => {
            let heads = |name: &str| call.int(name).map_or(Dim::Unknown, Dim::Fixed);
            let (own, shared) = (heads("q_num_heads"), heads("kv_num_heads"));
            let width = |fact: &Fact| fact.dim(2).divided_by(&shared);
            (
                Some(vec![query.dim(0), query.dim(1), own.times(&width(&value))]),
                Some(vec![key.dim(0), shared.clone(), total(key.dim(1)), width(&key)]),
                Some(vec![value.dim(0), shared.clone(), total(value.dim(1)), width(&value)]),
            )
        }
        _ => (None, None, None),
    };
    [output, key_shape, value_shape].into_iter().map(|shape| Fact::new(query.dtype, shape)).collect()
}

/// ONNX Runtime's GroupQueryAttention: the past grows by the tokens of this run.
fn grouped_attention(call: Call<'_>, inputs: &[Option<Fact>]) -> Vec<Fact> {
    let input = |place: usize| inputs.get(place).cloned().flatten().unwrap_or_default();
    let (query, past) = (input(0), input(3));
    let heads = |name: &str| call.int(name).map_or(Dim::Unknown, Dim::Fixed);
    let packed = inputs.get(1).is_none_or(Option::is_none);
    let width = if packed {
        let all = heads("num_heads").plus(&heads("kv_num_heads").times(&Dim::Fixed(2)));
        heads("num_heads").times(&query.dim(2).divided_by(&all))
    } else {
        query.dim(2)
    };
    let output = query.rank().filter(|rank| *rank == 3).map(|_| vec![query.dim(0), query.dim(1), width]);
    let present = past
        .rank()
        .filter(|rank| *rank == 4)
        .map(|_| vec![past.dim(0), past.dim(1), past.dim(2).plus(&query.dim(1)), past.dim(3)]);
    [output, present.clone(), present].into_iter().map(|shape| Fact::new(query.dtype, shape)).collect()
}
