//! Matrices held in whole numbers: each row in blocks of columns that share a scale. A number is its integer times its block's scale.
//!
//! Scales are numbers that f16 holds, whatever type they are stored in: every target then holds the same weights, and their products
//! with integers of eight bits are exact in f32, so that runtimes cannot differ in what they dequantise.

use super::value::{DType, ValueType};

/// What the integers are and how they are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// -127 to 127, one to a byte.
    I8,
    /// -8 to 7, ONNX's own type: two to a byte, the first in the low half.
    I4,
    /// The same, 8 added to each, in bytes of two: what ONNX Runtime's `MatMulNBits` reads.
    Nibbles,
}

impl Encoding {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::I8, Self::I4, Self::Nibbles];

    /// Name in the text form.
    pub fn name(self) -> &'static str {
        match self {
            Self::I8 => "i8",
            Self::I4 => "i4",
            Self::Nibbles => "nibbles",
        }
    }

    /// Smallest and largest integer.
    pub fn range(self) -> (f32, f32) {
        match self {
            Self::I8 => (-127.0, 127.0),
            Self::I4 | Self::Nibbles => (-8.0, 7.0),
        }
    }
}

/// How a matrix is held in whole numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Quantisation {
    /// The integers.
    pub encoding: Encoding,
    /// Columns that share a scale; absent when all of a row do. The last block is filled up with zeros.
    pub block: Option<usize>,
}

/// What of a quantised matrix an initialiser holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// `[rows, blocks, block]` integers, `[rows, columns]` where a row is one block, `[rows, blocks, block / 2]` bytes of nibbles.
    Values,
    /// `[rows, blocks, 1]` f16, `[rows, 1]` where a row is one block, `[rows, blocks]` f32 beside nibbles.
    Scales,
}

impl Part {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Values, Self::Scales];

    /// Name in the text form.
    pub fn name(self) -> &'static str {
        match self {
            Self::Values => "values",
            Self::Scales => "scales",
        }
    }
}

impl Quantisation {
    /// Blocks of a row of `columns` numbers.
    pub fn blocks(self, columns: usize) -> usize {
        self.block.map_or(1, |block| columns.div_ceil(block))
    }

    /// Type of a part of a matrix `rows` `[rows, columns]`; the error says in words what does not fit.
    pub fn value_type(self, part: Part, rows: &ValueType) -> Result<ValueType, String> {
        let shape = rows.fixed_shape().filter(|shape| rows.dtype == DType::F32 && shape.len() == 2);
        let Some([count, columns]) = shape.as_deref() else {
            return Err(format!("only a matrix of f32 can be quantised, not {rows}"));
        };
        if self.block.is_none_or(|block| block % 2 == 1 || block == 0) && self.encoding != Encoding::I8
            || self.block == Some(0)
        {
            return Err(format!("{} take blocks of an even number of columns", self.encoding.name()));
        }
        let blocks = self.blocks(*columns);
        let of = |dtype, shape: &[usize]| Ok(ValueType::new(dtype, shape.iter().copied()));
        match (part, self.encoding, self.block) {
            (Part::Values, Encoding::I8, None) => of(DType::I8, &[*count, *columns]),
            (Part::Values, Encoding::I8, Some(block)) => of(DType::I8, &[*count, blocks, block]),
            (Part::Values, Encoding::I4, block) => of(DType::I4, &[*count, blocks, block.unwrap_or(*columns)]),
            (Part::Values, Encoding::Nibbles, block) => of(DType::U8, &[*count, blocks, block.unwrap_or(*columns) / 2]),
            (Part::Scales, Encoding::Nibbles, _) => of(DType::F32, &[*count, blocks]),
            (Part::Scales, _, None) => of(DType::F16, &[*count, 1]),
            (Part::Scales, _, Some(_)) => of(DType::F16, &[*count, blocks, 1]),
        }
    }
}
