//! The values of initialisers, a block of a matrix at a time: no weight is ever in memory as a whole.

mod arithmetic;
mod product;

use crate::ir::{Data, Expression, Tensor};
pub(crate) use arithmetic::rotate;
use arithmetic::{add_product, column_scales, transposed};
use pemlc_artifact::{Checkpoint, CheckpointError, TensorView};
pub(crate) use product::{product, row_product};
use std::ops::Range;

/// Numbers of a block, f32.
const BLOCK: usize = 1 << 20;

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
    /// A number does not fit the type it is rounded to.
    #[error(
        "the value {value} at row {row}, column {column} is beyond {dtype}, whose largest number is {largest}: use another --dtype"
    )]
    Overflow {
        /// The number.
        value: f32,
        /// Where it is, the tensor seen as a matrix.
        row: usize,
        /// Where it is.
        column: usize,
        /// The type asked for.
        dtype: &'static str,
        /// Its largest number.
        largest: f32,
    },
    /// A number of the base model, or of what was trained, is NaN or infinite.
    #[error("the value at row {row}, column {column} is {value}: the base model's file or the training is broken")]
    NotFinite {
        /// The number.
        value: f32,
        /// Where it is, the tensor seen as a matrix.
        row: usize,
        /// Where it is.
        column: usize,
    },
    /// The expression is of a kind that has no f32 values; the verifier lets none through.
    #[error("expression has no f32 values: {0}")]
    Type(String),
}

/// An expression as a matrix whose blocks can be asked for. Tensors of other ranks have the first axis as rows, vectors one row.
#[derive(Debug)]
pub(crate) struct Matrix<'a> {
    source: Source<'a>,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
}

#[derive(Debug)]
enum Source<'a> {
    Constant(&'a [f32]),
    Stored(TensorView<'a>),
    Slice { base: Box<Matrix<'a>>, start: usize },
    Transpose(Box<Matrix<'a>>),
    AddLowRank { base: Box<Matrix<'a>>, down: &'a [f32], up: &'a [f32], rank: usize },
    ScaleColumns { base: Box<Matrix<'a>>, scales: Vec<f32> },
    Rotate { base: Box<Matrix<'a>>, offsets: &'a [i64], frequencies: &'a [f32] },
    Beside(Vec<Matrix<'a>>),
}

impl<'a> Matrix<'a> {
    /// The f32 values of `expression`; of a cast, what it rounds.
    pub(crate) fn new(expression: &'a Expression, checkpoint: &'a Checkpoint) -> Result<Self, EvaluateError> {
        Ok(match expression {
            Expression::Constant(tensor) => {
                let (rows, columns) = as_matrix(tensor.shape());
                Self { source: Source::Constant(floats(tensor)?), rows, columns }
            }
            Expression::Checkpoint { name, shape } => {
                let view = checkpoint.tensor(name)?;
                if view.shape != *shape {
                    let (name, expected, found) = (name.clone(), shape.clone(), view.shape);
                    return Err(EvaluateError::Shape { name, expected, found });
                }
                let (rows, columns) = as_matrix(shape);
                Self { source: Source::Stored(view), rows, columns }
            }
            Expression::Cast { base, .. } => Self::new(base, checkpoint)?,
            Expression::Slice { base, start, end } => {
                let base = Box::new(Self::new(base, checkpoint)?);
                let columns = base.columns;
                Self { source: Source::Slice { base, start: *start }, rows: end - start, columns }
            }
            Expression::Transpose(inner) => {
                let inner = Self::new(inner, checkpoint)?;
                let (rows, columns) = (inner.columns, inner.rows);
                Self { source: Source::Transpose(Box::new(inner)), rows, columns }
            }
            Expression::AddLowRank { base, down, up } => {
                let base = Self::new(base, checkpoint)?;
                let (rows, columns) = (base.rows, base.columns);
                let rank = down.shape().last().copied().unwrap_or_default();
                let (base, down, up) = (Box::new(base), floats(down)?, floats(up)?);
                Self { source: Source::AddLowRank { base, down, up, rank }, rows, columns }
            }
            Expression::ColumnNorms { base, norms } => {
                let base = Self::new(base, checkpoint)?;
                let (rows, columns) = (base.rows, base.columns);
                let scales = column_scales(&base, floats(norms)?);
                Self { source: Source::ScaleColumns { base: Box::new(base), scales }, rows, columns }
            }
            Expression::RotateKeys { base, offsets, frequencies } => {
                let base = Self::new(base, checkpoint)?;
                let (rows, columns) = (base.rows, base.columns);
                let offsets = offsets.as_i64().ok_or_else(|| EvaluateError::Type(offsets.value_type().to_string()))?;
                let (base, frequencies) = (Box::new(base), floats(frequencies)?);
                Self { source: Source::Rotate { base, offsets, frequencies }, rows, columns }
            }
            Expression::ConcatColumns(parts) => {
                let parts: Vec<Self> =
                    parts.iter().map(|part| Self::new(part, checkpoint)).collect::<Result<_, _>>()?;
                let rows = parts.first().map_or(0, |part| part.rows);
                let columns = parts.iter().map(|part| part.columns).sum();
                Self { source: Source::Beside(parts), rows, columns }
            }
        })
    }

    /// Ranges of rows, each a block of moderate size, that make up the matrix in order.
    pub(crate) fn row_blocks(&self) -> Vec<Range<usize>> {
        blocks(self.rows, self.columns)
    }

    /// Rows `rows` and columns `columns`, row-major.
    pub(crate) fn block(&self, rows: Range<usize>, columns: Range<usize>) -> Vec<f32> {
        match &self.source {
            Source::Constant(values) => {
                let mut block = Vec::with_capacity(rows.len() * columns.len());
                for row in rows {
                    block.extend_from_slice(&values[row * self.columns..][columns.clone()]);
                }
                block
            }
            // A vector is one row here, and one element a row there.
            Source::Stored(view) if view.shape.len() < 2 => view.rows_f32(columns),
            Source::Stored(view) => view.block_f32(rows, columns),
            Source::Slice { base, start } => base.block(rows.start + start..rows.end + start, columns),
            Source::Transpose(inner) => {
                transposed(&inner.block(columns.clone(), rows.clone()), columns.len(), rows.len())
            }
            Source::AddLowRank { base, down, up, rank } => {
                let mut block = base.block(rows.clone(), columns.clone());
                let width = columns.len();
                for (row, values) in rows.zip(block.chunks_exact_mut(width.max(1))) {
                    add_product(values, &down[row * rank..(row + 1) * rank], up, self.columns, columns.clone());
                }
                block
            }
            Source::ScaleColumns { base, scales } => {
                let mut block = base.block(rows, columns.clone());
                let scales = &scales[columns];
                for row in block.chunks_exact_mut(scales.len().max(1)) {
                    row.iter_mut().zip(scales).for_each(|(value, scale)| *value *= scale);
                }
                block
            }
            Source::Rotate { base, offsets, frequencies } => {
                // Pairs of a head stay together.
                let head = 2 * frequencies.len().max(1);
                let whole = columns.start / head * head..columns.end.next_multiple_of(head);
                let mut block = base.block(rows.clone(), whole.clone());
                for (row, values) in rows.zip(block.chunks_exact_mut(whole.len().max(1))) {
                    rotate(values, offsets[row], frequencies);
                }
                if whole == columns {
                    return block;
                }
                let kept = columns.start - whole.start..columns.end - whole.start;
                block.chunks_exact(whole.len().max(1)).flat_map(|row| &row[kept.clone()]).copied().collect()
            }
            Source::Beside(parts) => {
                let width = columns.len();
                let mut block = vec![0.0; rows.len() * width];
                let mut start = 0;
                for part in parts {
                    let (from, to) = (columns.start.max(start), columns.end.min(start + part.columns));
                    if from < to {
                        let values = part.block(rows.clone(), from - start..to - start);
                        for (target, source) in block.chunks_exact_mut(width).zip(values.chunks_exact(to - from)) {
                            target[from - columns.start..to - columns.start].copy_from_slice(source);
                        }
                    }
                    start += part.columns;
                }
                block
            }
        }
    }
}

/// All values of `expression`: for initialisers that are small.
pub(crate) fn values(expression: &Expression, checkpoint: &Checkpoint) -> Result<Tensor, EvaluateError> {
    let matrix = Matrix::new(expression, checkpoint)?;
    let values = matrix.block(0..matrix.rows, 0..matrix.columns);
    let shape = expression.value_type().map_err(EvaluateError::Type)?.fixed_shape();
    let tensor = shape.and_then(|shape| Tensor::new(shape, Data::F32(values)));
    tensor.ok_or_else(|| EvaluateError::Type("it has another number of values than its shape holds".to_owned()))
}

/// `[rows, columns]` of a tensor seen as a matrix.
fn as_matrix(shape: &[usize]) -> (usize, usize) {
    match shape {
        [rows, rest @ ..] if !rest.is_empty() => (*rows, rest.iter().product()),
        vector => (1, vector.iter().product()),
    }
}

fn blocks(rows: usize, columns: usize) -> Vec<Range<usize>> {
    let height = (BLOCK / columns.max(1)).max(1);
    (0..rows).step_by(height).map(|start| start..(start + height).min(rows)).collect()
}

fn floats(tensor: &Tensor) -> Result<&[f32], EvaluateError> {
    tensor.as_f32().ok_or_else(|| EvaluateError::Type(tensor.value_type().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Arc;

    pub(super) fn matrix(rows: usize, columns: usize, seed: u32) -> Tensor {
        Tensor::f32_from_fn(vec![rows, columns], |i| ((i as u32 * 37 + seed * 11) % 23) as f32 - 11.0)
    }

    fn whole(expression: &Expression) -> Vec<f32> {
        let checkpoint = checkpoint();
        let matrix = Matrix::new(expression, &checkpoint).unwrap();
        matrix.block(0..matrix.rows, 0..matrix.columns)
    }

    /// Nothing is read from it here: the expressions are of constants.
    pub(super) fn checkpoint() -> Checkpoint {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tiny-model");
        Checkpoint::open(&root).unwrap()
    }

    #[test]
    fn low_rank_products_are_added() {
        // [1 1; 1 1] + [1; 2] [10 20]
        let base = Expression::constant(Tensor::f32_from_fn(vec![2, 2], |_| 1.0));
        let down = Arc::new(Tensor::f32_from_fn(vec![2, 1], |i| i as f32 + 1.0));
        let up = Arc::new(Tensor::f32_from_fn(vec![1, 2], |i| 10.0 * (i as f32 + 1.0)));
        assert_eq!(whole(&Expression::AddLowRank { base: Box::new(base), down, up }), [11.0, 21.0, 21.0, 41.0]);
    }

    #[test]
    fn columns_get_their_norms() {
        let values = [3.0, 0.0, 1.0, 4.0, 0.0, 0.0];
        let base = Box::new(Expression::constant(Tensor::f32_from_fn(vec![2, 3], |i| values[i])));
        let norms = Arc::new(Tensor::vector_f32(vec![10.0, 7.0, 2.0]));
        assert_eq!(whole(&Expression::ColumnNorms { base, norms }), [6.0, 0.0, 2.0, 8.0, 0.0, 0.0]);
    }

    #[test]
    fn keys_are_turned_by_their_sets_positions() {
        // Two sets of one head of one row; a quarter turn and an eighth turn a position.
        let pi = std::f32::consts::PI;
        let keys = [1.0, 1.0, 0.0, 0.0];
        let base = Box::new(Expression::constant(Tensor::f32_from_fn(vec![2, 1, 1, 4], |i| keys[i % 4])));
        let offsets = Arc::new(Tensor::vector_i64(vec![-1, 2]));
        let frequencies = Arc::new(Tensor::vector_f32(vec![pi / 2.0, pi / 4.0]));
        let turned = whole(&Expression::RotateKeys { base, offsets, frequencies });
        let half = 0.5f32.sqrt();
        let expected = [0.0, half, -1.0, -half, -1.0, 0.0, 0.0, 1.0];
        assert!(turned.iter().zip(expected).all(|(found, wanted)| (found - wanted).abs() < 1e-6), "{turned:?}");
    }

    #[test]
    fn part_of_a_head_is_turned_as_the_whole() {
        let base = Box::new(Expression::constant(Tensor::f32_from_fn(vec![2, 3, 1, 4], |i| i as f32)));
        let offsets = Arc::new(Tensor::vector_i64(vec![3, -5]));
        let turned =
            Expression::RotateKeys { base, offsets, frequencies: Arc::new(Tensor::vector_f32(vec![1.0, 0.01])) };
        let (all, checkpoint) = (whole(&turned), checkpoint());
        let matrix = Matrix::new(&turned, &checkpoint).unwrap();
        assert_eq!(matrix.block(1..2, 3..10), all[12 + 3..12 + 10]);
        assert_eq!(values(&turned, &checkpoint).unwrap().as_f32().unwrap(), all);
    }

    #[test]
    fn parts_are_cut_along_the_first_axis() {
        let base = Box::new(Expression::constant(Tensor::f32_from_fn(vec![4, 2, 3], |i| i as f32)));
        let part = Expression::Slice { base, start: 1, end: 3 };
        assert_eq!(whole(&part), (6..18).map(|i| i as f32).collect::<Vec<_>>());
        let checkpoint = checkpoint();
        assert_eq!(Matrix::new(&part, &checkpoint).unwrap().block(1..2, 2..4), [14.0, 15.0]);
    }

    #[test]
    fn a_weight_of_the_checkpoint_is_read_by_blocks() {
        let checkpoint = checkpoint();
        let name = "model.layers.0.mlp.up_proj.weight".to_owned();
        let shape = checkpoint.tensor(&name).unwrap().shape;
        let stored = checkpoint.tensor(&name).unwrap().to_f32();
        let leaf = Expression::Checkpoint { name, shape: shape.clone() };
        let transpose = Expression::Transpose(Box::new(leaf));
        let matrix = Matrix::new(&transpose, &checkpoint).unwrap();
        assert_eq!((matrix.rows, matrix.columns), (shape[1], shape[0]));
        let block = matrix.block(3..5, 1..4);
        let column = |row: usize| [1, 2, 3].map(|column| stored[column * shape[1] + row]);
        assert_eq!(block, [column(3), column(4)].concat());
    }

    proptest! {
        /// Whatever the expression, blocks are the parts of the whole, and the whole is what the definition says.
        #[test]
        fn blocks_are_parts_of_the_whole(
            rows in 1usize..9, columns in 1usize..9, rank in 1usize..7, seed in 0u32..50,
            (cut_rows, cut_columns) in (0.0f64..1.0, 0.0f64..1.0),
        ) {
            let (down, up) = (matrix(rows, rank, seed + 1), matrix(rank, columns, seed + 2));
            let base = Expression::Transpose(Box::new(Expression::constant(matrix(columns, rows, seed))));
            let sum = Expression::AddLowRank { base: Box::new(base), down: Arc::new(down.clone()), up: Arc::new(up.clone()) };
            let beside = Expression::ConcatColumns(vec![sum, Expression::constant(matrix(rows, 3, seed + 3))]);
            let (turned, low, high) = (matrix(columns, rows, seed), down.as_f32().unwrap(), up.as_f32().unwrap());
            let right = matrix(rows, 3, seed + 3);
            let mut expected = Vec::new();
            for row in 0..rows {
                for column in 0..columns {
                    let product: f32 = (0..rank).map(|k| low[row * rank + k] * high[k * columns + column]).sum();
                    expected.push(turned.as_f32().unwrap()[column * rows + row] + product);
                }
                expected.extend(&right.as_f32().unwrap()[row * 3..row * 3 + 3]);
            }
            prop_assert_eq!(&whole(&beside), &expected);
            let width = columns + 3;
            let (row, column) = ((cut_rows * rows as f64) as usize, (cut_columns * width as f64) as usize);
            let checkpoint = checkpoint();
            let found = Matrix::new(&beside, &checkpoint).unwrap().block(row..rows, column..width);
            let part: Vec<f32> = (row..rows).flat_map(|r| expected[r * width + column..(r + 1) * width].to_vec()).collect();
            prop_assert_eq!(found, part);
        }
    }

    #[test]
    fn blocks_cover_all_rows() {
        assert_eq!(blocks(5, BLOCK / 2), [0..2, 2..4, 4..5]);
        assert_eq!(blocks(2, BLOCK * 3), [0..1, 1..2]);
        assert_eq!(blocks(3, 0).first(), Some(&(0..3)));
    }
}
