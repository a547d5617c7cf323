use super::*;
use crate::bisect::graph::Attribute;
use crate::bisect::value::{NumberType, Numbers};
use std::collections::BTreeMap;

fn node(operator: &str, attributes: &[(&str, Attribute)]) -> Node {
    let attributes: BTreeMap<_, _> =
        attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    let domain = if operator == "MatMulNBits" { "com.microsoft" } else { "" };
    Node {
        name: "n".to_owned(),
        operator: operator.to_owned(),
        domain: domain.to_owned(),
        inputs: Vec::new(),
        outputs: vec!["y".to_owned()],
        attributes,
    }
}

fn floats(shape: &[usize], numbers: &[f32]) -> Value {
    Value::new(NumberType::F32, shape.to_vec(), Numbers::Float(numbers.to_vec()))
}

fn integers(shape: &[usize], numbers: &[i64]) -> Value {
    Value::integers(shape.to_vec(), numbers.to_vec())
}

fn counting(shape: &[usize]) -> Value {
    let count = shape.iter().product::<usize>();
    floats(shape, &(0..count).map(|number| number as f32).collect::<Vec<_>>())
}

/// All elements of an output of `shape`.
fn all(node: &Node, inputs: &[&Value], shape: &[usize]) -> Vec<f64> {
    let output = counting(shape);
    let inputs: Vec<Option<&Value>> = inputs.iter().copied().map(Some).collect();
    (0..output.len()).map(|at| element(node, &inputs, &output, 0, at).map_or(f64::NAN, |exact| exact.number)).collect()
}

#[test]
fn elements_meet_as_broadcasting_says() {
    let (a, b) = (counting(&[2, 3]), floats(&[3], &[10.0, 20.0, 30.0]));
    assert_eq!(all(&node("Add", &[]), &[&a, &b], &[2, 3]), [10.0, 21.0, 32.0, 13.0, 24.0, 35.0]);
    let condition = integers(&[2, 1], &[1, 0]);
    assert_eq!(all(&node("Where", &[]), &[&condition, &a, &b], &[2, 3]), [0.0, 1.0, 2.0, 10.0, 20.0, 30.0]);
    assert_eq!(all(&node("Less", &[]), &[&a, &floats(&[], &[2.5])], &[2, 3]), [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]);
}

#[test]
fn functions_have_their_values() {
    let x = floats(&[3], &[-2.0, 0.5, 4.0]);
    let close = |operator: &str, expected: [f64; 3]| {
        for (found, expected) in all(&node(operator, &[]), &[&x], &[3]).into_iter().zip(expected) {
            assert!((found - expected).abs() < 1e-9, "{operator}: {found}, expected {expected}");
        }
    };
    close("Erf", [-0.995_322_265_019, 0.520_499_877_813, 0.999_999_984_583]);
    close("Sigmoid", [0.119_202_922_022, 0.622_459_331_202, 0.982_013_790_038]);
    close("Swish", [-0.238_405_844_044, 0.311_229_665_601, 3.928_055_160_152]);
}

#[test]
fn products_of_stacks_of_matrices() {
    // Two rows of a batch, one matrix for both.
    let (a, b) = (counting(&[2, 2, 2]), floats(&[2, 2], &[1.0, 2.0, 3.0, 4.0]));
    assert_eq!(all(&node("MatMul", &[]), &[&a, &b], &[2, 2, 2]), [3.0, 4.0, 11.0, 16.0, 19.0, 28.0, 27.0, 40.0]);
    let turned = node("Gemm", &[("transB", Attribute::Integer(1)), ("alpha", Attribute::Float(2.0))]);
    let (a, c) = (counting(&[2, 2]), floats(&[2], &[0.5, 1.0]));
    assert_eq!(all(&turned, &[&a, &b, &c], &[2, 2]), [4.5, 9.0, 16.5, 37.0]);
}

#[test]
fn products_by_packed_weights() {
    // K = 4 in two blocks of 2 (as the reference allows), N = 1: (1 - 8) 2, (15 - 8) 2, (8 - 8) 3, (9 - 8) 3.
    let attributes = [("K", 4), ("N", 1), ("bits", 4), ("block_size", 2)];
    let attributes = attributes.map(|(name, value)| (name, Attribute::Integer(value)));
    let (a, b) = (floats(&[1, 4], &[1.0, 1.0, 1.0, 10.0]), integers(&[1, 2, 1], &[0xf1, 0x98]));
    let scales = floats(&[2], &[2.0, 3.0]);
    assert_eq!(all(&node("MatMulNBits", &attributes), &[&a, &b, &scales], &[1, 1]), [30.0]);
}

#[test]
fn rows_are_summed_and_normalised() {
    let x = floats(&[2, 2], &[0.0, 3f32.ln(), 1.0, 1.0]);
    let close = |found: Vec<f64>, expected: [f64; 4]| {
        assert!(found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-6), "{found:?}");
    };
    close(all(&node("Softmax", &[]), &[&x], &[2, 2]), [0.25, 0.75, 0.5, 0.5]);
    let y = floats(&[2, 2], &[3.0, 4.0, 6.0, 8.0]);
    let tiny = [("epsilon", Attribute::Float(0.0))];
    let scale = floats(&[2], &[1.0, 2.0]);
    let root = 12.5f64.sqrt();
    let expected = [3.0 / root, 8.0 / root, 3.0 / root, 8.0 / root];
    close(all(&node("RMSNormalization", &tiny), &[&y, &scale], &[2, 2]), expected);
    let bias = floats(&[2], &[0.5, 0.0]);
    close(all(&node("LayerNormalization", &tiny), &[&y, &scale, &bias], &[2, 2]), [-0.5, 2.0, -0.5, 2.0]);
    let axis = integers(&[1], &[1]);
    assert_eq!(all(&node("ReduceMean", &[]), &[&y, &axis], &[2, 1]), [3.5, 7.0]);
    assert_eq!(all(&node("CumSum", &[]), &[&y, &axis], &[2, 2]), [3.0, 7.0, 6.0, 14.0]);
}

#[test]
fn attention_of_grouped_heads_with_a_mask() {
    // Two heads of one group, one query, two rows: scores ln 3 and 0, then a mask that leaves the second row alone.
    let q = floats(&[1, 2, 1, 2], &[3f32.ln(), 0.0, 0.0, 1.0]);
    let k = floats(&[1, 1, 2, 2], &[2.0, 0.0, 0.0, 2.0]);
    let v = floats(&[1, 1, 2, 2], &[4.0, 8.0, 0.0, 16.0]);
    let scale = [("scale", Attribute::Float(0.5))];
    let mask = floats(&[1, 1, 1, 2], &[0.0, 0.0]);
    let found = all(&node("Attention", &scale), &[&q, &k, &v, &mask], &[1, 2, 1, 2]);
    let (e, all_shares) = (1f64.exp(), 1.0 + 1f64.exp());
    let expected = [3.0, 10.0, 4.0 / all_shares, (8.0 + 16.0 * e) / all_shares];
    assert!(found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-6), "{found:?}");
    let hidden = floats(&[1, 1, 1, 2], &[f32::MIN, 0.0]);
    assert_eq!(all(&node("Attention", &scale), &[&q, &k, &v, &hidden], &[1, 2, 1, 2]), [0.0, 16.0, 0.0, 16.0]);
    // What it has no reference for.
    let causal = node("Attention", &[("is_causal", Attribute::Integer(1))]);
    assert_eq!(element(&causal, &[Some(&q), Some(&k), Some(&v)], &q, 0, 0), None);
}

#[test]
fn heads_are_turned_and_sums_are_normed() {
    // One token, two heads of two pairs; a quarter turn of the first pair.
    let x = floats(&[1, 1, 8], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
    let (cos, sin) = (floats(&[1, 1, 2], &[0.0, 1.0]), floats(&[1, 1, 2], &[1.0, 0.0]));
    let heads = [("num_heads", Attribute::Integer(2))];
    let expected = [-3.0, 2.0, 1.0, 4.0, -7.0, 6.0, 5.0, 8.0];
    assert_eq!(all(&node("RotaryEmbedding", &heads), &[&x, &cos, &sin], &[1, 1, 8]), expected);
    let by_head = floats(&[1, 2, 1, 4], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
    assert_eq!(all(&node("RotaryEmbedding", &[]), &[&by_head, &cos, &sin], &[1, 2, 1, 4]), expected);

    let mut skip = node("SkipSimplifiedLayerNormalization", &[("epsilon", Attribute::Float(0.0))]);
    skip.domain = "com.microsoft".to_owned();
    let (one, other) = (floats(&[1, 2], &[1.0, 1.0]), floats(&[1, 2], &[2.0, 3.0]));
    let inputs = [Some(&one), Some(&other), Some(&floats(&[2], &[1.0, 2.0]))].map(|value| value.cloned());
    let inputs: Vec<Option<&Value>> = inputs.iter().map(Option::as_ref).collect();
    let of = |which: usize, at: usize| element(&skip, &inputs, &one, which, at).map(|exact| exact.number);
    assert_eq!((of(0, 0), of(0, 1)), (Some(3.0 / 12.5f64.sqrt()), Some(8.0 / 12.5f64.sqrt())));
    assert_eq!((of(3, 0), of(3, 1), of(1, 0)), (Some(3.0), Some(4.0), None));
}

#[test]
fn elements_are_moved() {
    let x = counting(&[2, 3]);
    assert_eq!(all(&node("Transpose", &[]), &[&x], &[3, 2]), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    let axis = [("axis", Attribute::Integer(1))];
    assert_eq!(
        all(&node("Concat", &axis), &[&x, &counting(&[2, 1])], &[2, 4]),
        [0.0, 1.0, 2.0, 0.0, 3.0, 4.0, 5.0, 1.0]
    );
    assert_eq!(all(&node("Gather", &axis), &[&x, &integers(&[2], &[2, -3])], &[2, 2]), [2.0, 0.0, 5.0, 3.0]);
    let bounds = [&[-2][..], &[3], &[1]].map(|bound| integers(&[1], bound));
    assert_eq!(all(&node("Slice", &[]), &[&x, &bounds[0], &bounds[1], &bounds[2]], &[2, 2]), [1.0, 2.0, 4.0, 5.0]);
    let picked = integers(&[2, 1], &[2, 0]);
    assert_eq!(all(&node("GatherElements", &axis), &[&x, &picked], &[2, 1]), [2.0, 3.0]);
    assert_eq!(all(&node("Expand", &[]), &[&counting(&[2, 1])], &[2, 2]), [0.0, 0.0, 1.0, 1.0]);
    let output = counting(&[2, 1]);
    let last = element(&node("Split", &axis), &[Some(&x), Some(&integers(&[2], &[2, 1]))], &output, 1, 1);
    assert_eq!(last.map(|exact| exact.number), Some(5.0));
}

#[test]
fn weights_in_blocks_are_given_their_scales() {
    let (x, zeros) = (integers(&[4, 1], &[1, 2, 3, 4]), integers(&[2, 1], &[0, 1]));
    let scales = floats(&[2, 1], &[0.5, 2.0]);
    let blocks = [("axis", Attribute::Integer(0)), ("block_size", Attribute::Integer(2))];
    assert_eq!(all(&node("DequantizeLinear", &blocks), &[&x, &scales, &zeros], &[4, 1]), [0.5, 1.0, 4.0, 6.0]);
}

#[test]
fn rounding_is_allowed_and_no_more() {
    let output = floats(&[1], &[0.0]);
    let product = Exact::rounded(1.0, 10.0);
    assert!(product.explains(1.0 + 9.0 * f64::powi(2.0, -24), &output));
    assert!(!product.explains(1.0 + 11.0 * f64::powi(2.0, -24), &output));
    assert!(!product.explains(f64::NAN, &output) && !product.explains(f64::INFINITY, &output));
    assert!(Exact::rounded(f64::NAN, 1.0).explains(f64::NAN, &output));
    assert!(Exact::moved(2.0).explains(2.0, &output) && !Exact::moved(2.0).explains(2.0000002, &output));
    // What f16 cannot hold may be infinite.
    let half = Value::new(NumberType::F16, vec![1], Numbers::Float(vec![0.0]));
    assert!(Exact::rounded(70_000.0, 70_000.0).explains(f64::INFINITY, &half));
    assert!(!Exact::rounded(7_000.0, 7_000.0).explains(f64::INFINITY, &half));
}

#[test]
fn what_is_not_known_has_no_value() {
    let x = counting(&[2]);
    assert_eq!(element(&node("Selu", &[]), &[Some(&x)], &x, 0, 0), None);
    assert_eq!(element(&node("MatMul", &[]), &[Some(&x), Some(&x)], &x, 0, 0), None);
    assert_eq!(element(&node("Add", &[]), &[Some(&x), None], &x, 0, 0), None);
}
