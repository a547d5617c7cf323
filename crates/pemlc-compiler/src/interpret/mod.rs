//! Evaluates single operators on constants: what constant folding runs on. Clear before fast; the weights of a decoder never pass here.

mod broadcast;
mod elementwise;
mod layout;
mod linear;

use crate::ir::{Op, Tensor, ValueType, infer};

/// Larger values are not made: what the compiler folds is small, and a text may name any shape.
const MOST_NUMBERS: usize = 1 << 28;

/// The value of `op` on `inputs`; the error says in words what does not fit.
pub fn evaluate(op: &Op, inputs: &[&Tensor]) -> Result<Tensor, String> {
    let types: Vec<ValueType> = inputs.iter().map(|tensor| tensor.value_type()).collect();
    let result = infer(op, &types.iter().collect::<Vec<_>>())?;
    let [result] = result.as_slice() else { return Err("makes several values".to_owned()) };
    let shape = result.fixed_shape().ok_or("has a symbolic shape")?;
    let numbers = shape.iter().try_fold(1usize, |count, size| count.checked_mul(*size));
    if numbers.is_none_or(|numbers| numbers > MOST_NUMBERS) {
        return Err(format!("has more than {MOST_NUMBERS} numbers"));
    }
    let data = match (op, inputs) {
        (Op::And | Op::Binary(_) | Op::Comparison(_) | Op::Where | Op::Unary(_) | Op::Cast { .. }, _) => {
            elementwise::evaluate(op, inputs, &shape)?
        }
        (Op::Reshape { .. } | Op::SoftPrompt | Op::Squeeze { .. } | Op::Unsqueeze { .. }, [input]) => {
            input.data().clone()
        }
        (Op::Concat { axis }, _) => layout::concat(*axis, inputs)?,
        (Op::Gather { axis }, [data, indices]) => layout::gather(*axis, data, indices)?,
        (Op::Slice { axis, start, end }, [input]) => layout::slice(*axis, *start..*end, input),
        (Op::Transpose { permutation }, [input]) => layout::transpose(permutation, input, &shape),
        (Op::MatMul, [left, right]) => linear::matmul(left, right, &shape)?,
        (Op::TaskLowRank, [x, index, down, up]) => linear::task_low_rank(x, index, down, up)?,
        (Op::RotateKeys, [keys, offsets, frequencies]) => linear::rotate_keys(keys, offsets, frequencies)?,
        (Op::GatherElements { axis }, [data, indices]) => layout::gather_elements(*axis, data, indices)?,
        (Op::LogSoftmax { axis }, [input]) => linear::log_softmax(*axis, input)?,
        (Op::Softmax { axis }, [input]) => linear::softmax(*axis, input)?,
        (Op::CumSum { axis }, [input]) => linear::cumulative_sum(*axis, input)?,
        (Op::ReduceMean { axes }, [input]) => linear::reduce(axes, input, &shape, true)?,
        (Op::ReduceSum { axes }, [input]) => linear::reduce(axes, input, &shape, false)?,
        _ => return Err(format!("({}) is not evaluated", op.name())),
    };
    Tensor::new(shape, data).ok_or_else(|| "made another number of values than its shape holds".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Binary, Comparison, DType, Data, Unary};

    fn floats(shape: &[usize], values: &[f32]) -> Tensor {
        Tensor::new(shape.to_vec(), Data::F32(values.to_vec())).unwrap()
    }

    fn integers(shape: &[usize], values: &[i64]) -> Tensor {
        Tensor::new(shape.to_vec(), Data::I64(values.to_vec())).unwrap()
    }

    #[test]
    fn matmul_broadcasts_its_batch() {
        let left = floats(&[2, 1, 2], &[1.0, 2.0, 3.0, 4.0]);
        let right = floats(&[2, 3], &[1.0, 2.0, 3.0, 10.0, 20.0, 30.0]);
        let product = evaluate(&Op::MatMul, &[&left, &right]).unwrap();
        assert_eq!(product, floats(&[2, 1, 3], &[21.0, 42.0, 63.0, 43.0, 86.0, 129.0]));
    }

    #[test]
    fn values_of_any_size_that_a_text_may_name_are_refused() {
        let (left, right) = (floats(&[1 << 32, 0], &[]), floats(&[0, 1 << 32], &[]));
        assert!(evaluate(&Op::MatMul, &[&left, &right]).unwrap_err().contains("more than"));
        assert!(evaluate(&Op::ReduceSum { axes: vec![1] }, &[&left]).unwrap_err().contains("more than"));
    }

    #[test]
    fn elementwise_operators_broadcast() {
        let column = floats(&[2, 1], &[1.0, 4.0]);
        let row = floats(&[2], &[2.0, 3.0]);
        let evaluate = |op| evaluate(&Op::Binary(op), &[&column, &row]).unwrap();
        assert_eq!(evaluate(Binary::Sub), floats(&[2, 2], &[-1.0, -2.0, 2.0, 1.0]));
        assert_eq!(evaluate(Binary::Pow), floats(&[2, 2], &[1.0, 1.0, 16.0, 64.0]));
        let root = super::evaluate(&Op::Unary(Unary::Sqrt), &[&column]).unwrap();
        assert_eq!(root, floats(&[2, 1], &[1.0, 2.0]));
    }

    #[test]
    fn a_causal_mask_from_running_sums() {
        let ones = integers(&[1, 3], &[1, 1, 1]);
        let rank = evaluate(&Op::CumSum { axis: 1 }, &[&ones]).unwrap();
        assert_eq!(rank, integers(&[1, 3], &[1, 2, 3]));
        let query = evaluate(&Op::Unsqueeze { axes: vec![2] }, &[&rank]).unwrap();
        let key = evaluate(&Op::Unsqueeze { axes: vec![1] }, &[&rank]).unwrap();
        let visible = evaluate(&Op::Comparison(Comparison::LessOrEqual), &[&key, &query]).unwrap();
        let (zero, low) = (Tensor::scalar_f32(0.0), Tensor::scalar_f32(-1.0));
        let mask = evaluate(&Op::Where, &[&visible, &zero, &low]).unwrap();
        assert_eq!(mask, floats(&[1, 3, 3], &[0.0, -1.0, -1.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0]));
    }

    #[test]
    fn layout_operators_move_values() {
        let input = integers(&[2, 3], &[0, 1, 2, 10, 11, 12]);
        let transposed = evaluate(&Op::Transpose { permutation: vec![1, 0] }, &[&input]).unwrap();
        assert_eq!(transposed, integers(&[3, 2], &[0, 10, 1, 11, 2, 12]));
        let cut = evaluate(&Op::Slice { axis: 1, start: 1, end: 3 }, &[&input]).unwrap();
        assert_eq!(cut, integers(&[2, 2], &[1, 2, 11, 12]));
        let joined = evaluate(&Op::Concat { axis: 1 }, &[&cut, &input]).unwrap();
        assert_eq!(joined, integers(&[2, 5], &[1, 2, 0, 1, 2, 11, 12, 10, 11, 12]));
        let indices = integers(&[1, 2], &[2, 0]);
        let gathered = evaluate(&Op::Gather { axis: 1 }, &[&input, &indices]).unwrap();
        assert_eq!(gathered, integers(&[2, 1, 2], &[2, 0, 12, 10]));
        let outside = integers(&[1], &[-1]);
        assert_eq!(evaluate(&Op::Gather { axis: 0 }, &[&input, &outside]).unwrap_err(), "index -1 of 2 slices");
    }

    #[test]
    fn elements_are_gathered_at_their_own_place() {
        let input = integers(&[2, 3], &[0, 1, 2, 10, 11, 12]);
        let indices = integers(&[2, 2], &[2, 0, 1, 1]);
        let gathered = evaluate(&Op::GatherElements { axis: 1 }, &[&input, &indices]).unwrap();
        assert_eq!(gathered, integers(&[2, 2], &[2, 0, 11, 11]));
    }

    #[test]
    fn each_row_goes_through_its_own_tasks_factors() {
        let x = floats(&[2, 1, 2], &[1.0, 2.0, 3.0, 4.0]);
        let down = floats(&[2, 2, 1], &[1.0, 10.0, 100.0, 1000.0]);
        let up = floats(&[2, 1, 2], &[1.0, -1.0, 2.0, 0.5]);
        let result = evaluate(&Op::TaskLowRank, &[&x, &integers(&[2], &[1, 0]), &down, &up]).unwrap();
        assert_eq!(result, floats(&[2, 1, 2], &[4200.0, 1050.0, 43.0, -43.0]));
        let unknown = evaluate(&Op::TaskLowRank, &[&x, &integers(&[2], &[1, 2]), &down, &up]);
        assert_eq!(unknown.unwrap_err(), "takes task 2 of 2");
    }

    #[test]
    fn keys_are_turned_by_their_sets_positions() {
        let keys = floats(&[2, 1, 1, 2], &[1.0, 0.0, 1.0, 0.0]);
        let quarter = floats(&[1], &[std::f32::consts::FRAC_PI_2]);
        let turned = evaluate(&Op::RotateKeys, &[&keys, &integers(&[2], &[1, -2]), &quarter]).unwrap();
        let expected = [0.0, 1.0, -1.0, 0.0];
        let close = turned.as_f32().unwrap().iter().zip(expected).all(|(found, wanted)| (found - wanted).abs() < 1e-6);
        assert!(close, "{turned:?}");
    }

    #[test]
    fn softmax_and_means_normalise_along_their_axis() {
        let input = floats(&[2, 2], &[0.0, 0.0, 1000.0, 1000.0]);
        let softmax = evaluate(&Op::Softmax { axis: 1 }, &[&input]).unwrap();
        assert_eq!(softmax, floats(&[2, 2], &[0.5; 4]));
        let logarithms = evaluate(&Op::LogSoftmax { axis: 1 }, &[&input]).unwrap();
        assert_eq!(logarithms, floats(&[2, 2], &[0.5f32.ln(); 4]));
        let mean = evaluate(&Op::ReduceMean { axes: vec![0] }, &[&input]).unwrap();
        assert_eq!(mean, floats(&[1, 2], &[500.0, 500.0]));
        let cast = evaluate(&Op::Cast { to: DType::I64 }, &[&mean]).unwrap();
        assert_eq!(cast, integers(&[1, 2], &[500, 500]));
    }
}
