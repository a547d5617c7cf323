//! f32 values as the bytes of the type that the graph holds them in: rounded once, and nothing lost unseen.

use crate::evaluate::EvaluateError;
use crate::ir::DType;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// Bytes of `values`, which are rows `first_row..` of a matrix with `columns` columns. f32 is written as it is.
pub(super) fn round(values: &[f32], dtype: DType, first_row: usize, columns: usize) -> Result<Vec<u8>, EvaluateError> {
    let refuse_beyond = |midpoint: f32, name: &'static str, largest: f32| {
        // One walk without a branch; what is wrong, and where, is looked for only if something is.
        if largest_magnitude(values) < midpoint.to_bits() {
            return Ok(());
        }
        let index = values.iter().position(|value| value.abs().to_bits() >= midpoint.to_bits()).unwrap_or_default();
        let (row, column, value) = (first_row + index / columns.max(1), index % columns.max(1), values[index]);
        Err(if value.is_finite() {
            EvaluateError::Overflow { value, row, column, dtype: name, largest }
        } else {
            EvaluateError::NotFinite { value, row, column }
        })
    };
    match dtype {
        DType::F32 => Ok(bytes(values, |value| value.to_le_bytes())),
        DType::F16 => {
            refuse_beyond(65_520.0, "f16", f16::MAX.to_f32())?;
            let mut rounded = vec![f16::ZERO; values.len()];
            rounded.convert_from_f32_slice(values);
            Ok(bytes(&rounded, |value| value.to_le_bytes()))
        }
        DType::BF16 => {
            refuse_beyond(f32::from_bits(0x7f7f_8000), "bf16", bf16::MAX.to_f32())?;
            let mut rounded = vec![bf16::ZERO; values.len()];
            rounded.convert_from_f32_slice(values);
            Ok(bytes(&rounded, |value| value.to_le_bytes()))
        }
        other => Err(EvaluateError::Type(format!("floats cannot become {other}"))),
    }
}

/// Fails when a value is NaN or infinite, and says where.
pub(super) fn refuse_not_finite(values: &[f32], first_row: usize, columns: usize) -> Result<(), EvaluateError> {
    if largest_magnitude(values) < f32::INFINITY.to_bits() {
        return Ok(());
    }
    let index = values.iter().position(|value| !value.is_finite()).unwrap_or_default();
    let (row, column, value) = (first_row + index / columns.max(1), index % columns.max(1), values[index]);
    Err(EvaluateError::NotFinite { value, row, column })
}

/// The bits of the largest absolute value, which order as the values do; those of infinity and NaN are above all others.
fn largest_magnitude(values: &[f32]) -> u32 {
    values.iter().fold(0, |largest, value| largest.max(value.abs().to_bits()))
}

fn bytes<T: Copy, const N: usize>(values: &[T], to_bytes: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    let mut bytes = vec![0; values.len() * N];
    for (place, value) in bytes.as_chunks_mut::<N>().0.iter_mut().zip(values) {
        *place = to_bytes(*value);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn halves(values: &[f32]) -> Vec<f32> {
        let bytes = round(values, DType::F16, 0, values.len()).unwrap();
        bytes.chunks_exact(2).map(|pair| f16::from_le_bytes([pair[0], pair[1]]).to_f32()).collect()
    }

    #[test]
    fn ties_go_to_even_and_small_numbers_stay() {
        let smallest = f16::MIN_POSITIVE_SUBNORMAL.to_f32();
        assert_eq!(halves(&[2049.0, 2051.0, 65504.0, smallest, -0.0]), [2048.0, 2052.0, 65504.0, smallest, -0.0]);
        // Below the midpoint to the next number that would exist.
        assert_eq!(halves(&[65519.0]), [65504.0]);
        let bytes = round(&[1.0 + 1.0 / 256.0, 3.0e38], DType::BF16, 0, 2).unwrap();
        let rounded: Vec<f32> =
            bytes.chunks_exact(2).map(|pair| bf16::from_le_bytes([pair[0], pair[1]]).to_f32()).collect();
        assert_eq!(rounded, [1.0, bf16::from_f32(3.0e38).to_f32()]);
    }

    #[test]
    fn overflow_is_named() {
        let error = round(&[1.0, 2.0, 65520.0, 4.0], DType::F16, 10, 2).unwrap_err().to_string();
        assert_eq!(
            error,
            "the value 65520 at row 11, column 0 is beyond f16, whose largest number is 65504: use another --dtype"
        );
        let error = round(&[1.0, f32::NAN], DType::BF16, 0, 2).unwrap_err().to_string();
        assert_eq!(error, "the value at row 0, column 1 is NaN: the base model's file or the training is broken");
        assert!(round(&[f32::NEG_INFINITY], DType::F32, 0, 1).is_ok());
        assert!(refuse_not_finite(&[1.0, f32::MAX], 0, 2).is_ok());
        let error = refuse_not_finite(&[1.0, 2.0, 3.0, f32::NEG_INFINITY], 4, 2).unwrap_err().to_string();
        assert!(error.starts_with("the value at row 5, column 1 is -inf"), "{error}");
    }

    /// The smallest numbers that round beyond the type, and the largest that do not.
    #[test]
    fn what_overflows_is_what_rounds_to_infinity() {
        for (dtype, midpoint) in [(DType::F16, 65_520.0f32), (DType::BF16, f32::from_bits(0x7f7f_8000))] {
            let below = f32::from_bits(midpoint.to_bits() - 1);
            for (value, fits) in [(below, true), (-below, true), (midpoint, false), (-midpoint, false)] {
                let infinite = match dtype {
                    DType::F16 => f16::from_f32(value).is_infinite(),
                    _ => bf16::from_f32(value).is_infinite(),
                };
                assert_eq!(infinite, !fits, "{value}");
                assert_eq!(round(&[value], dtype, 0, 1).is_ok(), fits, "{value}");
            }
        }
    }
}
