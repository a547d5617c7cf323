//! The type of a value: number type and symbolic shape.

use std::fmt;

/// Number type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DType {
    /// 32-bit float.
    F32,
    /// 16-bit float of 5 exponent bits.
    F16,
    /// 16-bit float of 8 exponent bits.
    BF16,
    /// 32-bit signed integer.
    I32,
    /// 8-bit signed integer.
    I8,
    /// 8-bit unsigned integer.
    U8,
    /// 4-bit signed integer, two to a byte, the first in the low half.
    I4,
    /// 4-bit unsigned integer, packed likewise.
    U4,
    /// 64-bit signed integer.
    I64,
    /// Truth value.
    Bool,
}

impl DType {
    /// Every number type.
    pub const ALL: [Self; 10] =
        [Self::F32, Self::F16, Self::BF16, Self::I64, Self::I32, Self::I8, Self::U8, Self::I4, Self::U4, Self::Bool];

    /// Name in the text form.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::I64 => "i64",
            Self::I32 => "i32",
            Self::I8 => "i8",
            Self::U8 => "u8",
            Self::I4 => "i4",
            Self::U4 => "u4",
            Self::Bool => "bool",
        }
    }

    /// Whether it is a floating-point type.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16)
    }

    /// Bytes that `count` values take in a file.
    pub fn bytes(self, count: usize) -> usize {
        match self {
            Self::I64 => count * 8,
            Self::F32 | Self::I32 => count * 4,
            Self::F16 | Self::BF16 => count * 2,
            Self::I8 | Self::U8 | Self::Bool => count,
            Self::I4 | Self::U4 => count.div_ceil(2),
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A size that is known only when the graph runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Symbol {
    /// Rows of the batch.
    Batch,
    /// Tokens already in the key-value cache.
    PastSequence,
    /// Tokens of this run.
    Sequence,
}

impl Symbol {
    /// The symbol that is written `name`.
    pub(crate) fn named(name: &str) -> Option<Self> {
        [Self::Batch, Self::PastSequence, Self::Sequence].into_iter().find(|symbol| symbol.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Batch => "batch_size",
            Self::PastSequence => "past_sequence_length",
            Self::Sequence => "sequence_length",
        }
    }
}

/// One dimension: a sum of symbols and a constant.
///
/// A sum and not an arbitrary expression, because concatenation along an axis is the only way in which sizes combine here.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Dim {
    symbols: Vec<Symbol>,
    constant: usize,
}

impl Dim {
    /// `past_sequence_length + sequence_length`, which ONNX clients call `total_sequence_length`.
    pub fn total_sequence() -> Self {
        Self::from(Symbol::PastSequence).plus(&Self::from(Symbol::Sequence))
    }

    /// The size, if no symbol is in it.
    pub fn fixed(&self) -> Option<usize> {
        self.symbols.is_empty().then_some(self.constant)
    }

    /// Whether it is one symbol alone.
    pub fn is_symbol(&self) -> bool {
        self.symbols.len() == 1 && self.constant == 0
    }

    /// The sum of two dimensions.
    pub fn plus(&self, other: &Self) -> Self {
        let mut symbols = [self.symbols.as_slice(), other.symbols.as_slice()].concat();
        symbols.sort_unstable();
        // Texts may hold any sizes; a sum that is beyond a number fits no value.
        Self { symbols, constant: self.constant.saturating_add(other.constant) }
    }
}

impl From<usize> for Dim {
    fn from(constant: usize) -> Self {
        Self { symbols: Vec::new(), constant }
    }
}

impl From<Symbol> for Dim {
    fn from(symbol: Symbol) -> Self {
        Self { symbols: vec![symbol], constant: 0 }
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut terms: Vec<String> = match self.symbols.as_slice() {
            [Symbol::PastSequence, Symbol::Sequence] => vec!["total_sequence_length".to_owned()],
            symbols => symbols.iter().map(|symbol| symbol.name().to_owned()).collect(),
        };
        if self.constant > 0 || terms.is_empty() {
            terms.push(self.constant.to_string());
        }
        f.write_str(&terms.join(" + "))
    }
}

/// Number type and shape of a value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ValueType {
    /// Number type.
    pub dtype: DType,
    /// Shape, outermost dimension first.
    pub shape: Vec<Dim>,
}

impl ValueType {
    /// A type from a number type and dimensions.
    pub fn new<D: Into<Dim>>(dtype: DType, shape: impl IntoIterator<Item = D>) -> Self {
        Self { dtype, shape: shape.into_iter().map(Into::into).collect() }
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// The shape, if every dimension is known.
    pub fn fixed_shape(&self) -> Option<Vec<usize>> {
        self.shape.iter().map(Dim::fixed).collect()
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims: Vec<String> = self.shape.iter().map(Dim::to_string).collect();
        write!(f, "{}[{}]", self.dtype, dims.join(", "))
    }
}
