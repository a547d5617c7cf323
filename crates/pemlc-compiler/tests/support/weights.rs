//! Deterministic weights that no libm function touched: multiples of 1/1024.

use pemlc_artifact::tensors::{NamedTensor, TensorMap, Values};
use pemlc_compiler::ir::Encoding;

/// A stream of small numbers.
pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// A multiple of 1/1024 in `[-limit/1024, limit/1024]`.
    pub fn small(&mut self, limit: i32) -> f32 {
        let span = u64::from(2 * limit.unsigned_abs() + 1);
        ((self.next() % span) as i32 - limit) as f32 / 1024.0
    }

    pub fn tensor(&mut self, shape: &[usize], limit: i32) -> NamedTensor {
        let values = (0..shape.iter().product()).map(|_| self.small(limit)).collect();
        NamedTensor { shape: shape.to_vec(), values: Values::F32(values) }
    }

    /// A matrix that `encoding` holds exactly: multiples of a power of two, a third of them below 0, each block of 32 with both ends of the range.
    pub fn whole(&mut self, shape: &[usize; 2], encoding: Encoding) -> NamedTensor {
        let largest = encoding.largest();
        let step = 0.5 / (largest + 1.0);
        let mut number = |place: usize| {
            let integer = match (place % shape[1]) % 32 {
                0 => 0.0,
                1 => largest,
                _ => (self.next() % (largest as u64 + 1)) as f32,
            };
            step * (integer - (largest + 1.0) * 0.3125)
        };
        NamedTensor { shape: shape.to_vec(), values: Values::F32((0..shape[0] * shape[1]).map(&mut number).collect()) }
    }

    /// As [`Self::tensor`], around 1: for norm weights.
    pub fn near_one(&mut self, shape: &[usize]) -> NamedTensor {
        let values = (0..shape.iter().product()).map(|_| 1.0 + self.small(200)).collect();
        NamedTensor { shape: shape.to_vec(), values: Values::F32(values) }
    }
}

/// The f32 values of a tensor.
pub fn floats<'a>(tensors: &'a TensorMap, name: &str) -> &'a [f32] {
    match &tensors.get(name).unwrap_or_else(|| panic!("no tensor {name}")).values {
        Values::F32(values) => values,
        Values::I64(_) => panic!("{name} is not f32"),
    }
}
