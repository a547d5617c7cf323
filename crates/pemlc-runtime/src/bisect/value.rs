//! Values inside a graph, as a runtime computed them or a file holds them.

/// Number type of a value, as far as comparing needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NumberType {
    F32,
    F16,
    Bf16,
    F64,
    /// Integers and booleans of any width: exact.
    Integer,
}

impl NumberType {
    /// Half of the distance from 1 to the next number: the largest relative error of one rounding. Zero for integers.
    pub(super) fn unit_roundoff(self) -> f64 {
        match self {
            Self::F32 => f64::powi(2.0, -24),
            Self::F16 => f64::powi(2.0, -11),
            Self::Bf16 => f64::powi(2.0, -8),
            Self::F64 => f64::powi(2.0, -53),
            Self::Integer => 0.0,
        }
    }

    /// Below this a number may have been flushed to zero, or have lost digits.
    pub(super) fn smallest(self) -> f64 {
        match self {
            Self::F16 => f64::powi(2.0, -24),
            Self::F32 | Self::Bf16 => f64::from(f32::MIN_POSITIVE),
            Self::F64 | Self::Integer => 0.0,
        }
    }

    /// The largest finite number.
    pub(super) fn largest(self) -> f64 {
        match self {
            Self::F16 => 65504.0,
            Self::F32 | Self::Bf16 => f64::from(f32::MAX),
            Self::F64 | Self::Integer => f64::MAX,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::F64 => "f64",
            Self::Integer => "integer",
        }
    }
}

/// Numbers in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Numbers {
    /// f32, and f16 and bf16 in f32.
    Float(Vec<f32>),
    Double(Vec<f64>),
    Integer(Vec<i64>),
}

/// A tensor.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Value {
    pub(super) number_type: NumberType,
    pub(super) shape: Vec<usize>,
    pub(super) numbers: Numbers,
}

impl Value {
    pub(super) fn new(number_type: NumberType, shape: Vec<usize>, numbers: Numbers) -> Self {
        Self { number_type, shape, numbers }
    }

    pub(super) fn integers(shape: Vec<usize>, numbers: Vec<i64>) -> Self {
        Self::new(NumberType::Integer, shape, Numbers::Integer(numbers))
    }

    pub(super) fn len(&self) -> usize {
        match &self.numbers {
            Numbers::Float(numbers) => numbers.len(),
            Numbers::Double(numbers) => numbers.len(),
            Numbers::Integer(numbers) => numbers.len(),
        }
    }

    /// The number at a place in row-major order; NaN outside.
    pub(super) fn at(&self, index: usize) -> f64 {
        let number = match &self.numbers {
            Numbers::Float(numbers) => numbers.get(index).map(|number| f64::from(*number)),
            Numbers::Double(numbers) => numbers.get(index).copied(),
            Numbers::Integer(numbers) => numbers.get(index).map(|number| *number as f64),
        };
        number.unwrap_or(f64::NAN)
    }

    /// The integer at a place, where integers are.
    pub(super) fn integer(&self, index: usize) -> Option<i64> {
        match &self.numbers {
            Numbers::Integer(numbers) => numbers.get(index).copied(),
            Numbers::Float(_) | Numbers::Double(_) => None,
        }
    }

    /// All integers, where integers are.
    pub(super) fn all_integers(&self) -> Option<&[i64]> {
        match &self.numbers {
            Numbers::Integer(numbers) => Some(numbers),
            Numbers::Float(_) | Numbers::Double(_) => None,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match &self.numbers {
            Numbers::Float(numbers) => 4 * numbers.len(),
            Numbers::Double(numbers) => 8 * numbers.len(),
            Numbers::Integer(numbers) => 8 * numbers.len(),
        }
    }

    /// `f32[2, 5, 576]`.
    pub(super) fn describe(&self) -> String {
        format!("{}{:?}", self.number_type.name(), self.shape)
    }
}

/// Indices of an element, slowest first, of its place in row-major order.
pub(super) fn indices(shape: &[usize], mut place: usize) -> Vec<usize> {
    let mut indices = vec![0; shape.len()];
    for (axis, size) in shape.iter().enumerate().rev() {
        indices[axis] = place % (*size).max(1);
        place /= (*size).max(1);
    }
    indices
}

/// The place in row-major order of an element.
pub(super) fn place(shape: &[usize], indices: &[usize]) -> usize {
    shape.iter().zip(indices).fold(0, |place, (size, index)| place * size + index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_and_places_are_inverse() {
        let shape = [2, 3, 4];
        for at in 0..24 {
            assert_eq!(place(&shape, &indices(&shape, at)), at);
        }
        assert_eq!(indices(&shape, 17), [1, 1, 1]);
        assert_eq!((indices(&[], 0), place(&[], &[])), (Vec::new(), 0));
    }
}
