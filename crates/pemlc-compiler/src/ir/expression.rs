//! Initialisers as expressions over checkpoint tensors, evaluated one at a time while the file is written, so that memory stays near
//! the largest single tensor.

use super::tensor::Tensor;
use super::value::{DType, ValueType};
use std::sync::Arc;

/// How the bytes of an initialiser come about.
#[derive(Debug, Clone, PartialEq)]
pub enum Expression {
    /// Values in memory.
    Constant(Arc<Tensor>),
    /// A tensor of the base model, as f32.
    Checkpoint {
        /// Hugging Face name.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A matrix with its axes swapped.
    Transpose(Box<Expression>),
    /// `base + down * up`, in f32: `base` `[in, out]`, `down` `[in, rank]`, `up` `[rank, out]`.
    AddLowRank {
        /// The matrix added to.
        base: Box<Expression>,
        /// `[in, rank]`.
        down: Arc<Tensor>,
        /// `[rank, out]`.
        up: Arc<Tensor>,
    },
    /// `base` with its columns brought to the lengths `norms`, in f32: `base * norms / ||base||`.
    ColumnNorms {
        /// `[in, out]`.
        base: Box<Expression>,
        /// `[out]`.
        norms: Arc<Tensor>,
    },
}

impl Expression {
    /// A constant.
    pub fn constant(tensor: Tensor) -> Self {
        Self::Constant(Arc::new(tensor))
    }

    /// Number type and shape of the result; the error says in words what does not fit.
    pub fn value_type(&self) -> Result<ValueType, String> {
        match self {
            Self::Constant(tensor) => Ok(tensor.value_type()),
            Self::Checkpoint { shape, .. } => Ok(ValueType::new(DType::F32, shape.iter().copied())),
            Self::Transpose(inner) => {
                let mut inner = inner.value_type()?;
                if inner.rank() != 2 {
                    return Err(format!("only a matrix can be transposed, not {inner}"));
                }
                inner.shape.reverse();
                Ok(inner)
            }
            Self::AddLowRank { base, down, up } => {
                let base = base.value_type()?;
                let fits = match (base.fixed_shape().as_deref(), down.shape(), up.shape()) {
                    (Some([rows, columns]), [down_rows, rank], [up_rank, up_columns]) => {
                        rows == down_rows && rank == up_rank && columns == up_columns
                    }
                    _ => false,
                };
                let floats = base.dtype == DType::F32 && down.as_f32().is_some() && up.as_f32().is_some();
                if !fits || !floats {
                    let (down, up) = (down.value_type(), up.value_type());
                    return Err(format!("cannot add the product of {down} and {up} to {base}"));
                }
                Ok(base)
            }
            Self::ColumnNorms { base, norms } => {
                let base = base.value_type()?;
                let fits = match (base.fixed_shape().as_deref(), norms.shape()) {
                    (Some([_, columns]), [count]) => columns == count,
                    _ => false,
                };
                if !fits || base.dtype != DType::F32 || norms.as_f32().is_none() {
                    return Err(format!("cannot bring the columns of {base} to norms {}", norms.value_type()));
                }
                Ok(base)
            }
        }
    }
}
