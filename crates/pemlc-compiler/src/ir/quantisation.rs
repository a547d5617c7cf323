//! Matrices held in whole numbers: each row in blocks of columns that share a scale and an offset. A number is its integer times its
//! block's scale, plus its offset.
//!
//! Scales and offsets are numbers that f16 holds, whatever type they are stored in (beside nibbles, an offset and eight scales): every target then
//! holds the same weights. The product of
//! a scale and an integer of eight bits is exact in f32, and the sum rounds once, so that runtimes cannot differ in what they dequantise.

use super::value::{DType, ValueType};

/// What the integers are and how they are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// 0 to 255, one to a byte.
    U8,
    /// 0 to 15, ONNX's own type: two to a byte, the first in the low half.
    U4,
    /// The same bytes, of which ONNX Runtime's `MatMulNBits` takes 8 away: its offsets are larger by eight scales.
    Nibbles,
}

impl Encoding {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::U8, Self::U4, Self::Nibbles];

    /// Name in the text form.
    pub fn name(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::U4 => "u4",
            Self::Nibbles => "nibbles",
        }
    }

    /// The largest integer.
    pub fn largest(self) -> f32 {
        match self {
            Self::U8 => 255.0,
            Self::U4 | Self::Nibbles => 15.0,
        }
    }
}

/// How a matrix is held in whole numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Quantisation {
    /// The integers.
    pub encoding: Encoding,
    /// Columns that share a scale and an offset, an even number. The last block of a row is filled up with its last number.
    pub block: usize,
}

/// What of a quantised matrix an initialiser holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// `[rows, blocks, block]` integers, `[rows, blocks, block / 2]` bytes of nibbles.
    Values,
    /// `[rows, blocks, 1]` f16, `[rows, blocks]` f32 beside nibbles.
    Scales,
    /// As the scales.
    Offsets,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Values, Self::Scales, Self::Offsets];

    /// Name in the text form.
    pub fn name(self) -> &'static str {
        match self {
            Self::Values => "values",
            Self::Scales => "scales",
            Self::Offsets => "offsets",
        }
    }
}

impl Quantisation {
    /// Blocks of a row of `columns` numbers.
    pub fn blocks(self, columns: usize) -> usize {
        columns.div_ceil(self.block.max(1))
    }

    /// Type of a part of a matrix `rows` `[rows, columns]`; the error says in words what does not fit.
    pub fn value_type(self, part: Part, rows: &ValueType) -> Result<ValueType, String> {
        let shape = rows.fixed_shape().filter(|shape| rows.dtype == DType::F32 && shape.len() == 2);
        let Some([count, columns]) = shape.as_deref() else {
            return Err(format!("only a matrix of f32 can be quantised, not {rows}"));
        };
        if self.block == 0 || self.block % 2 == 1 {
            return Err(format!("blocks have an even number of columns, not {}", self.block));
        }
        let blocks = self.blocks(*columns);
        let of = |dtype, shape: &[usize]| Ok(ValueType::new(dtype, shape.iter().copied()));
        match (part, self.encoding) {
            (Part::Values, Encoding::U8) => of(DType::U8, &[*count, blocks, self.block]),
            (Part::Values, Encoding::U4) => of(DType::U4, &[*count, blocks, self.block]),
            (Part::Values, Encoding::Nibbles) => of(DType::U8, &[*count, blocks, self.block / 2]),
            (_, Encoding::Nibbles) => of(DType::F32, &[*count, blocks]),
            (_, _) => of(DType::F16, &[*count, blocks, 1]),
        }
    }
}
