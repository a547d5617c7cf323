//! The values of one initialiser.

use crate::ir::{Expression, Tensor};
use pemlc_artifact::{Checkpoint, CheckpointError, TensorView};
use std::borrow::Cow;

/// Rows dequantised at a time while a matrix is transposed.
const BLOCK_ROWS: usize = 64;

/// Why an initialiser has no values.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// The base model lacks the tensor or cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The base model's tensor has another shape than its configuration says.
    #[error("tensor `{name}` of the base model is {found:?}, its configuration asks for {expected:?}")]
    Shape {
        /// Tensor of the base model.
        name: String,
        /// Shape by the configuration.
        expected: Vec<usize>,
        /// Shape in the file.
        found: Vec<usize>,
    },
    /// The expression is of a kind that has no f32 values; the verifier lets none through.
    #[error("expression has no f32 values: {0}")]
    Type(String),
}

/// The f32 values of `expression`, row-major.
pub(super) fn evaluate<'a>(
    expression: &'a Expression,
    checkpoint: &Checkpoint,
) -> Result<Cow<'a, [f32]>, EvaluateError> {
    match expression {
        Expression::Constant(tensor) => floats(tensor).map(Cow::Borrowed),
        Expression::Checkpoint { name, shape } => Ok(Cow::Owned(open(checkpoint, name, shape)?.to_f32())),
        Expression::Transpose(inner) => match inner.as_ref() {
            Expression::Checkpoint { name, shape } => Ok(Cow::Owned(transpose_blocks(&open(checkpoint, name, shape)?))),
            inner => {
                let shape = shape_of(inner)?;
                let values = evaluate(inner, checkpoint)?;
                let mut result = vec![0.0; values.len()];
                scatter_transposed(&values, shape[1], 0, shape[0], &mut result);
                Ok(Cow::Owned(result))
            }
        },
        Expression::AddLowRank { base, down, up } => {
            let mut values = evaluate(base, checkpoint)?.into_owned();
            add_product(&mut values, floats(down)?, floats(up)?, down.shape().last().copied().unwrap_or_default());
            Ok(Cow::Owned(values))
        }
        Expression::ColumnNorms { base, norms } => {
            let mut values = evaluate(base, checkpoint)?.into_owned();
            set_column_norms(&mut values, floats(norms)?);
            Ok(Cow::Owned(values))
        }
    }
}

fn floats(tensor: &Tensor) -> Result<&[f32], EvaluateError> {
    tensor.as_f32().ok_or_else(|| EvaluateError::Type(tensor.value_type().to_string()))
}

fn shape_of(expression: &Expression) -> Result<[usize; 2], EvaluateError> {
    let value_type = expression.value_type().map_err(EvaluateError::Type)?;
    let shape = value_type.fixed_shape().and_then(|shape| <[usize; 2]>::try_from(shape).ok());
    shape.ok_or_else(|| EvaluateError::Type(value_type.to_string()))
}

fn open<'a>(checkpoint: &'a Checkpoint, name: &str, shape: &[usize]) -> Result<TensorView<'a>, EvaluateError> {
    let view = checkpoint.tensor(name)?;
    if view.shape == shape {
        return Ok(view);
    }
    Err(EvaluateError::Shape { name: name.to_owned(), expected: shape.to_vec(), found: view.shape })
}

/// A matrix of the checkpoint, transposed a block of rows at a time, so that it is in memory once.
fn transpose_blocks(view: &TensorView<'_>) -> Vec<f32> {
    let (rows, columns) = (view.shape[0], view.shape[1]);
    let mut result = vec![0.0; rows * columns];
    let mut start = 0;
    while start < rows {
        let end = (start + BLOCK_ROWS).min(rows);
        scatter_transposed(&view.rows_f32(start..end), columns, start, rows, &mut result);
        start = end;
    }
    result
}

/// Writes rows `start..` of a matrix with `rows` rows, given in `block`, as columns of `result` `[columns, rows]`.
fn scatter_transposed(block: &[f32], columns: usize, start: usize, rows: usize, result: &mut [f32]) {
    let height = block.len() / columns.max(1);
    for column in 0..columns {
        let target = &mut result[column * rows + start..column * rows + start + height];
        for (row, value) in target.iter_mut().enumerate() {
            *value = block[row * columns + column];
        }
    }
}

/// `values [in, out] += down [in, rank] * up [rank, out]`.
fn add_product(values: &mut [f32], down: &[f32], up: &[f32], rank: usize) {
    let outputs = up.len() / rank.max(1);
    for (row, weights) in values.chunks_exact_mut(outputs.max(1)).zip(down.chunks_exact(rank.max(1))) {
        for (weight, direction) in weights.iter().zip(up.chunks_exact(outputs.max(1))) {
            for (value, change) in row.iter_mut().zip(direction) {
                *value += weight * change;
            }
        }
    }
}

/// Scales the columns of `values [in, out]` to the lengths `norms [out]`. Lengths are summed in f64; a column of zeros stays.
fn set_column_norms(values: &mut [f32], norms: &[f32]) {
    let mut squares = vec![0.0; norms.len()];
    for row in values.chunks_exact(norms.len().max(1)) {
        for (sum, value) in squares.iter_mut().zip(row) {
            *sum += f64::from(*value) * f64::from(*value);
        }
    }
    let scale = |(norm, sum): (&f32, &f64)| if *sum == 0.0 { 0.0 } else { (f64::from(*norm) / sum.sqrt()) as f32 };
    let scales: Vec<f32> = norms.iter().zip(&squares).map(scale).collect();
    for row in values.chunks_exact_mut(norms.len().max(1)) {
        row.iter_mut().zip(&scales).for_each(|(value, scale)| *value *= scale);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_rows_become_columns() {
        let mut result = vec![0.0; 6];
        scatter_transposed(&[1.0, 2.0], 2, 0, 3, &mut result);
        scatter_transposed(&[3.0, 4.0, 5.0, 6.0], 2, 1, 3, &mut result);
        assert_eq!(result, [1.0, 3.0, 5.0, 2.0, 4.0, 6.0]);
    }

    #[test]
    fn low_rank_products_are_added() {
        // [1 1; 1 1] + [1; 2] [10 20]
        let mut values = vec![1.0; 4];
        add_product(&mut values, &[1.0, 2.0], &[10.0, 20.0], 1);
        assert_eq!(values, [11.0, 21.0, 21.0, 41.0]);
    }

    #[test]
    fn columns_get_their_norms() {
        let mut values = vec![3.0, 0.0, 1.0, 4.0, 0.0, 0.0];
        set_column_norms(&mut values, &[10.0, 7.0, 2.0]);
        assert_eq!(values, [6.0, 0.0, 2.0, 8.0, 0.0, 0.0]);
    }
}
