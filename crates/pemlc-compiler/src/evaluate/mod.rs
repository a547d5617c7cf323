//! The values of initialisers, a block of a matrix at a time: no weight is ever in memory as a whole.

mod arithmetic;
mod product;
#[cfg(test)]
mod tests;

use crate::ir::{Data, Expression, Tensor};
pub(crate) use arithmetic::rotate;
use arithmetic::{add_product, column_scales, transpose_into};
use pemlc_artifact::{Checkpoint, CheckpointError, TensorView};
pub(crate) use product::{product, row_product};
use std::ops::Range;

/// Numbers of a block, f32.
const BLOCK: usize = 1 << 21;
/// Bytes of a checkpoint that a block which reads across its rows keeps in memory at a time.
const READ: usize = 16 << 20;

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
    /// The f32 values of `expression`; of a cast, what it rounds, and of a quantised matrix, its rows.
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
            Expression::Cast { base, .. } | Expression::Quantise { rows: base, .. } => Self::new(base, checkpoint)?,
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
        blocks(self.rows, self.columns, BLOCK)
    }

    /// The same in smaller ones, for what takes long: there is work for several workers in one matrix then.
    pub(crate) fn small_row_blocks(&self) -> Vec<Range<usize>> {
        blocks(self.rows, self.columns, BLOCK / 16)
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
            Source::Stored(view) => {
                let block = view.block_f32(rows.clone(), columns);
                view.release(rows);
                block
            }
            Source::Slice { base, start } => base.block(rows.start + start..rows.end + start, columns),
            Source::Transpose(inner) => {
                let mut block = vec![0.0; rows.len() * columns.len()];
                for part in inner.parts(columns.clone()) {
                    let values = inner.block(part.clone(), rows.clone());
                    transpose_into(&values, part.len(), &mut block, columns.len(), part.start - columns.start);
                }
                block
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

impl Matrix<'_> {
    /// `rows` in parts: of a stored matrix so many that their bytes may be in memory together, whatever their width.
    fn parts(&self, rows: Range<usize>) -> Vec<Range<usize>> {
        let height = match &self.source {
            Source::Stored(view) if view.shape.len() >= 2 => (READ / view.row_bytes().max(1)).max(1),
            _ => rows.len().max(1),
        };
        rows.clone().step_by(height).map(|start| start..(start + height).min(rows.end)).collect()
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

fn blocks(rows: usize, columns: usize, numbers: usize) -> Vec<Range<usize>> {
    let height = (numbers / columns.max(1)).max(1);
    (0..rows).step_by(height).map(|start| start..(start + height).min(rows)).collect()
}

fn floats(tensor: &Tensor) -> Result<&[f32], EvaluateError> {
    tensor.as_f32().ok_or_else(|| EvaluateError::Type(tensor.value_type().to_string()))
}
