//! Initialisers as expressions over checkpoint tensors, evaluated one at a time while the file is written, so that memory stays near
//! the largest single tensor.

use super::quantisation::{Part, Quantisation};
use super::tensor::{Data, Tensor};
use super::value::{DType, Dim, ValueType};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
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
    /// `base`, f32, in another floating-point type: rounded once, to nearest, ties to even. It can be part of no other expression.
    Cast {
        /// Number type of the result.
        to: DType,
        /// What is rounded.
        base: Box<Expression>,
    },
    /// Matrices beside each other: columns of the parts one after another.
    ConcatColumns(Vec<Expression>),
    /// Parts `start..end` of `base` along its first axis, of two axes or more. Parts of one weight that a file holds need no bytes of their own.
    Slice {
        /// What is cut.
        base: Box<Expression>,
        /// First part.
        start: usize,
        /// One past the last part.
        end: usize,
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
    /// One part of `rows`, f32, held in whole numbers. It can be part of no other expression.
    Quantise {
        /// The integers, their scales or offsets.
        part: Part,
        /// How.
        quantisation: Quantisation,
        /// `[rows, columns]`.
        rows: Box<Expression>,
    },
    /// `base`, keys in the "rotate half" layout, as they would be `offsets` positions further on: attention sees only differences of
    /// positions, so keys that were computed at some positions serve at others. Angles and sums are made in f64.
    RotateKeys {
        /// f32 `[sets, kv_heads, rows, head_dim]`.
        base: Box<Expression>,
        /// i64 `[sets]`, which may be negative.
        offsets: Arc<Tensor>,
        /// Inverse frequencies, f32 `[head_dim / 2]`.
        frequencies: Arc<Tensor>,
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
            Self::Cast { to, base } => {
                let base = base.part_type()?;
                if base.dtype != DType::F32 || !to.is_float() {
                    return Err(format!("cannot round {base} to {to}"));
                }
                Ok(ValueType { dtype: *to, ..base })
            }
            Self::ConcatColumns(parts) => {
                let mut columns = 0;
                let mut rows = None;
                for part in parts {
                    let value_type = part.part_type()?;
                    let shape = value_type.fixed_shape().filter(|_| value_type.dtype == DType::F32);
                    match shape.as_deref() {
                        Some([own, width]) if rows.is_none_or(|rows| rows == *own) => {
                            rows = Some(*own);
                            columns += width;
                        }
                        _ => return Err(format!("{value_type} cannot stand beside {} rows", rows.unwrap_or_default())),
                    }
                }
                Ok(ValueType::new(DType::F32, [rows.unwrap_or_default(), columns]))
            }
            Self::Slice { base, start, end } => {
                let mut base = base.part_type()?;
                let size = base.shape.first().and_then(Dim::fixed).filter(|_| base.rank() >= 2);
                if start >= end || size.is_none_or(|size| *end > size) {
                    return Err(format!("cannot take parts {start} to {end} of {base}"));
                }
                base.shape[0] = Dim::from(end - start);
                Ok(base)
            }
            Self::Transpose(inner) => {
                let mut inner = inner.part_type()?;
                if inner.rank() != 2 {
                    return Err(format!("only a matrix can be transposed, not {inner}"));
                }
                inner.shape.reverse();
                Ok(inner)
            }
            Self::AddLowRank { base, down, up } => {
                let base = base.part_type()?;
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
                let base = base.part_type()?;
                let fits = match (base.fixed_shape().as_deref(), norms.shape()) {
                    (Some([_, columns]), [count]) => columns == count,
                    _ => false,
                };
                if !fits || base.dtype != DType::F32 || norms.as_f32().is_none() {
                    return Err(format!("cannot bring the columns of {base} to norms {}", norms.value_type()));
                }
                Ok(base)
            }
            Self::Quantise { part, quantisation, rows } => quantisation.value_type(*part, &rows.part_type()?),
            Self::RotateKeys { base, offsets, frequencies } => {
                rotated(&base.part_type()?, &offsets.value_type(), &frequencies.value_type())
            }
        }
    }
}

impl Expression {
    /// The type as part of another expression, which rounded and quantised ones cannot be.
    fn part_type(&self) -> Result<ValueType, String> {
        match self {
            Self::Cast { .. } | Self::Quantise { .. } => {
                Err("what is rounded or quantised can be part of nothing else".to_owned())
            }
            _ => self.value_type(),
        }
    }

    /// A number that expressions of the same bits share; others hardly ever do.
    pub fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.digest_into(&mut hasher);
        hasher.finish()
    }

    fn digest_into(&self, hasher: &mut DefaultHasher) {
        std::mem::discriminant(self).hash(hasher);
        let mut tensor = |tensor: &Tensor| {
            tensor.shape().hash(hasher);
            match tensor.data() {
                Data::F32(values) => values.iter().for_each(|value| value.to_bits().hash(hasher)),
                Data::I64(values) => values.hash(hasher),
                Data::Bool(values) => values.hash(hasher),
            }
        };
        match self {
            Self::Constant(constant) => tensor(constant),
            Self::Checkpoint { name, shape } => (name, shape).hash(hasher),
            Self::Cast { to, base } => {
                to.hash(hasher);
                base.digest_into(hasher);
            }
            Self::ConcatColumns(parts) => parts.iter().for_each(|part| part.digest_into(hasher)),
            Self::Slice { base, start, end } => {
                (start, end).hash(hasher);
                base.digest_into(hasher);
            }
            Self::Transpose(base) => base.digest_into(hasher),
            Self::AddLowRank { base, down, up } => {
                tensor(down);
                tensor(up);
                base.digest_into(hasher);
            }
            Self::ColumnNorms { base, norms } => {
                tensor(norms);
                base.digest_into(hasher);
            }
            Self::Quantise { part, quantisation, rows } => {
                (part, quantisation).hash(hasher);
                rows.digest_into(hasher);
            }
            Self::RotateKeys { base, offsets, frequencies } => {
                tensor(offsets);
                tensor(frequencies);
                base.digest_into(hasher);
            }
        }
    }

    /// The weight that it is a part of along the first axis, in the number type that it is held in, and which parts.
    pub fn whole(&self) -> Option<(Self, Range<usize>)> {
        match self {
            Self::Slice { base, start, end } => Some((Self::clone(base), *start..*end)),
            Self::Cast { to, base } => {
                let (whole, parts) = base.whole()?;
                Some((Self::Cast { to: *to, base: Box::new(whole) }, parts))
            }
            _ => None,
        }
    }

    /// Names of the checkpoint's tensors that it reads.
    pub fn checkpoint_names(&self) -> Vec<&str> {
        match self {
            Self::Constant(_) => Vec::new(),
            Self::Checkpoint { name, .. } => vec![name],
            Self::ConcatColumns(parts) => parts.iter().flat_map(Self::checkpoint_names).collect(),
            Self::Cast { base, .. }
            | Self::Slice { base, .. }
            | Self::Transpose(base)
            | Self::AddLowRank { base, .. }
            | Self::ColumnNorms { base, .. }
            | Self::Quantise { rows: base, .. }
            | Self::RotateKeys { base, .. } => base.checkpoint_names(),
        }
    }
}

/// The type of rotated keys; the error says in words what does not fit.
pub(super) fn rotated(keys: &ValueType, offsets: &ValueType, frequencies: &ValueType) -> Result<ValueType, String> {
    let fits = match (&*keys.shape, &*offsets.shape, &*frequencies.shape) {
        ([sets, _, _, width], [count], [pairs]) => {
            sets == count && width.fixed().zip(pairs.fixed()).is_some_and(|(width, pairs)| width == 2 * pairs)
        }
        _ => false,
    };
    if !fits || [keys.dtype, offsets.dtype, frequencies.dtype] != [DType::F32, DType::I64, DType::F32] {
        return Err(format!("cannot rotate {keys} by offsets {offsets} and frequencies {frequencies}"));
    }
    Ok(keys.clone())
}
