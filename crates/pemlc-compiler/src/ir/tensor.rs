//! Constants held in memory.

use super::value::{DType, ValueType};

/// Values of a constant, row-major.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum Data {
    F32(Vec<f32>),
    I64(Vec<i64>),
    Bool(Vec<bool>),
}

impl Data {
    /// How many values there are.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::I64(values) => values.len(),
            Self::Bool(values) => values.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A constant tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    shape: Vec<usize>,
    data: Data,
}

impl Tensor {
    /// A tensor of `shape`, or `None` when the number of values is another.
    pub fn new(shape: Vec<usize>, data: Data) -> Option<Self> {
        let count = data.len();
        let expected = shape.iter().try_fold(1usize, |product, size| product.checked_mul(*size))?;
        (count == expected).then_some(Self { shape, data })
    }

    /// An f32 tensor whose value at each row-major place is `value(place)`.
    pub fn f32_from_fn(shape: Vec<usize>, value: impl FnMut(usize) -> f32) -> Self {
        let count = shape.iter().product();
        Self { shape, data: Data::F32((0..count).map(value).collect()) }
    }

    /// As [`f32_from_fn`](Self::f32_from_fn), of whole numbers.
    pub fn i64_from_fn(shape: Vec<usize>, value: impl FnMut(usize) -> i64) -> Self {
        let count = shape.iter().product();
        Self { shape, data: Data::I64((0..count).map(value).collect()) }
    }

    /// A scalar.
    pub fn scalar_f32(value: f32) -> Self {
        Self { shape: Vec::new(), data: Data::F32(vec![value]) }
    }

    /// A scalar.
    pub fn scalar_i64(value: i64) -> Self {
        Self { shape: Vec::new(), data: Data::I64(vec![value]) }
    }

    /// A vector.
    pub fn vector_f32(values: Vec<f32>) -> Self {
        Self { shape: vec![values.len()], data: Data::F32(values) }
    }

    /// A vector.
    pub fn vector_i64(values: Vec<i64>) -> Self {
        Self { shape: vec![values.len()], data: Data::I64(values) }
    }

    /// The same values without a first axis of size 1; a tensor with another first axis stays.
    pub fn without_first_axis(mut self) -> Self {
        if self.shape.first() == Some(&1) {
            self.shape.remove(0);
        }
        self
    }

    /// Part `index` along the first axis, which stays with size 1.
    ///
    /// # Panics
    /// When there is no such part.
    pub fn part(&self, index: usize) -> Self {
        let size = self.data.len() / self.shape[0].max(1);
        let range = index * size..(index + 1) * size;
        let data = match &self.data {
            Data::F32(values) => Data::F32(values[range].to_vec()),
            Data::I64(values) => Data::I64(values[range].to_vec()),
            Data::Bool(values) => Data::Bool(values[range].to_vec()),
        };
        Self { shape: [&[1], &self.shape[1..]].concat(), data }
    }

    /// Shape, outermost dimension first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Values, row-major.
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// The values, if they are f32.
    pub fn as_f32(&self) -> Option<&[f32]> {
        match &self.data {
            Data::F32(values) => Some(values),
            _ => None,
        }
    }

    /// The values, if they are i64.
    pub fn as_i64(&self) -> Option<&[i64]> {
        match &self.data {
            Data::I64(values) => Some(values),
            _ => None,
        }
    }

    /// Number type and shape.
    pub fn value_type(&self) -> ValueType {
        let dtype = match self.data {
            Data::F32(_) => DType::F32,
            Data::I64(_) => DType::I64,
            Data::Bool(_) => DType::Bool,
        };
        ValueType::new(dtype, self.shape.iter().copied())
    }

    /// Values as little-endian bytes, the layout of ONNX raw data.
    pub fn to_bytes(&self) -> Vec<u8> {
        match &self.data {
            Data::F32(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Data::I64(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Data::Bool(values) => values.iter().map(|value| u8::from(*value)).collect(),
        }
    }
}
