//! The number types of ONNX: names, sizes, and values as f64.

use super::types;
use half::{bf16, f16};
use std::fmt;

/// A `TensorProto.DataType`, known or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct DataType(pub(crate) i32);

impl DataType {
    pub(crate) const F32: Self = Self(1);
    pub(crate) const I64: Self = Self(7);
    pub(crate) const STRING: Self = Self(8);
    pub(crate) const BOOL: Self = Self(9);
    pub(crate) const F16: Self = Self(10);
    pub(crate) const BF16: Self = Self(16);

    /// Bits that one element takes; none for strings and unknown types.
    pub(crate) fn bits(self) -> Option<u64> {
        Some(match self.0 {
            2 | 3 | 9 | 17..=20 => 8,
            4 | 5 | 10 | 16 => 16,
            1 | 6 | 12 => 32,
            7 | 11 | 13 | 14 => 64,
            15 => 128,
            21..=23 => 4,
            _ => return None,
        })
    }

    /// Whether its values are fractions; a difference of two of them is a matter of rounding.
    pub(crate) fn is_float(self) -> bool {
        matches!(self.0, 1 | 10 | 11 | 16..=20 | 23)
    }

    /// Whether [`Self::decode`] knows it.
    pub(crate) fn is_number(self) -> bool {
        self.bits().is_some() && !matches!(self.0, 14 | 15)
    }

    /// Appends the values in `bytes`, little-endian as in `raw_data`, at most `limit`. Four-bit types have the first value in the
    /// low half of a byte.
    pub(crate) fn decode(self, bytes: &[u8], limit: usize, values: &mut Vec<f64>) {
        fn each<const N: usize>(bytes: &[u8], values: &mut Vec<f64>, value: impl Fn([u8; N]) -> f64) {
            values.extend(bytes.as_chunks::<N>().0.iter().map(|bytes| value(*bytes)));
        }
        match self.0 {
            1 => each(bytes, values, |bytes| f64::from(f32::from_le_bytes(bytes))),
            2 => each(bytes, values, |[byte]| f64::from(byte)),
            3 => each(bytes, values, |[byte]| f64::from(byte as i8)),
            4 => each(bytes, values, |bytes| f64::from(u16::from_le_bytes(bytes))),
            5 => each(bytes, values, |bytes| f64::from(i16::from_le_bytes(bytes))),
            6 => each(bytes, values, |bytes| f64::from(i32::from_le_bytes(bytes))),
            7 => each(bytes, values, |bytes| i64::from_le_bytes(bytes) as f64),
            9 => each(bytes, values, |[byte]| f64::from(u8::from(byte != 0))),
            10 => each(bytes, values, |bytes| f16::from_le_bytes(bytes).to_f64()),
            11 => each(bytes, values, f64::from_le_bytes),
            12 => each(bytes, values, |bytes| f64::from(u32::from_le_bytes(bytes))),
            13 => each(bytes, values, |bytes| u64::from_le_bytes(bytes) as f64),
            16 => each(bytes, values, |bytes| bf16::from_le_bytes(bytes).to_f64()),
            17 => each(bytes, values, |[byte]| small_float(byte, 3, 7, Specials::NanOnly)),
            18 => each(bytes, values, |[byte]| small_float(byte, 3, 8, Specials::NegativeZeroIsNan)),
            19 => each(bytes, values, |[byte]| small_float(byte, 2, 15, Specials::Ieee)),
            20 => each(bytes, values, |[byte]| small_float(byte, 2, 16, Specials::NegativeZeroIsNan)),
            21 => values.extend(halves(bytes).take(limit).map(f64::from)),
            22 => values.extend(halves(bytes).take(limit).map(|half| f64::from(((half << 4) as i8) >> 4))),
            23 => values.extend(halves(bytes).take(limit).map(four_bit_float)),
            _ => {}
        }
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&types::data_type(self.0))
    }
}

fn halves(bytes: &[u8]) -> impl Iterator<Item = u8> + '_ {
    bytes.iter().flat_map(|byte| [byte & 15, byte >> 4])
}

/// What the encodings of an eight-bit float's largest exponent mean.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Specials {
    /// Infinities and NaNs as in larger floats.
    Ieee,
    /// All bits set is NaN; no infinities.
    NanOnly,
    /// The bits of -0 are NaN; nothing else is special.
    NegativeZeroIsNan,
}

/// An eight-bit float of `mantissa` bits and this exponent bias.
fn small_float(byte: u8, mantissa: u32, bias: i32, specials: Specials) -> f64 {
    let sign = if byte & 0x80 == 0 { 1.0 } else { -1.0 };
    let exponent = i32::from((byte & 0x7f) >> mantissa);
    let fraction = f64::from(byte & ((1 << mantissa) - 1)) / f64::from(1 << mantissa);
    let largest = (1 << (7 - mantissa)) - 1;
    match specials {
        Specials::NegativeZeroIsNan if byte == 0x80 => return f64::NAN,
        Specials::NanOnly if byte & 0x7f == 0x7f => return f64::NAN,
        Specials::Ieee if exponent == largest && fraction == 0.0 => return sign * f64::INFINITY,
        Specials::Ieee if exponent == largest => return f64::NAN,
        _ => {}
    }
    let (scale, leading) = if exponent == 0 { (1 - bias, 0.0) } else { (exponent - bias, 1.0) };
    sign * (leading + fraction) * f64::powi(2.0, scale)
}

/// f4e2m1.
fn four_bit_float(half: u8) -> f64 {
    let magnitude = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0][usize::from(half & 7)];
    if half & 8 == 0 { magnitude } else { -magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(dtype: i32, bytes: &[u8], limit: usize) -> Vec<f64> {
        let mut values = Vec::new();
        DataType(dtype).decode(bytes, limit, &mut values);
        values
    }

    #[test]
    fn small_floats_have_the_values_of_the_standard() {
        // Largest, smallest subnormal, one, and the specials of each type, from the OCP and ONNX tables.
        assert_eq!(decoded(17, &[0x7e, 0x01, 0x38, 0xb8], 4), [448.0, 0.001953125, 1.0, -1.0]);
        assert!(decoded(17, &[0x7f, 0xff], 2).iter().all(|value| value.is_nan()));
        assert_eq!(decoded(18, &[0x7f, 0x01, 0x40], 3), [240.0, 0.0009765625, 1.0]);
        assert_eq!(
            decoded(19, &[0x7b, 0x01, 0x3c, 0x7c, 0xfc], 5),
            [57344.0, 1.52587890625e-5, 1.0, f64::INFINITY, f64::NEG_INFINITY]
        );
        assert!(decoded(19, &[0x7d], 1)[0].is_nan());
        assert_eq!(decoded(20, &[0x7f, 0x01], 2), [57344.0, 7.62939453125e-6]);
        assert!(decoded(18, &[0x80], 1)[0].is_nan() && decoded(20, &[0x80], 1)[0].is_nan());
        assert_eq!(decoded(23, &[0x91, 0x7f], 4), [0.5, -0.5, -6.0, 6.0]);
    }

    #[test]
    fn four_bit_integers_stand_low_half_first() {
        assert_eq!(decoded(21, &[0x2f, 0x01], 3), [15.0, 2.0, 1.0]);
        assert_eq!(decoded(22, &[0x8f], 2), [-1.0, -8.0]);
    }

    #[test]
    fn whole_numbers_and_halves() {
        assert_eq!(decoded(10, &[0x00, 0x3c, 0x00, 0xc0], 2), [1.0, -2.0]);
        assert_eq!(decoded(16, &[0x80, 0x3f], 1), [1.0]);
        assert_eq!(decoded(3, &[0xff, 0x7f], 2), [-1.0, 127.0]);
        assert_eq!(decoded(9, &[0, 7], 2), [0.0, 1.0]);
        assert_eq!(decoded(7, &(-5i64).to_le_bytes(), 1), [-5.0]);
        assert!(decoded(8, b"text", 4).is_empty());
    }
}
