//! Rows of f32 as the integers and scales of a quantised matrix.
//!
//! A scale is the one of a row of candidates, from the largest number's down, that makes the squared error of its block smallest: what is cut
//! off at the ends buys finer steps for all others. Each candidate is first moved to the best scale for the integers that it gives.

use super::evaluate::EvaluateError;
use crate::ir::{Encoding, Part, Quantisation};
use half::f16;

/// Share of the largest number that the end of the range stands for. The first puts the largest number at 7 of -8 to 7.
const CUTS: [f32; 9] = [8.0 / 7.0, 1.06, 1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7];
/// Adding and taking away rounds to the next integer, ties to even, whatever the instruction set, below 2^22.
const ROUNDING: f32 = 12_582_912.0;

/// The bytes of `part` of rows `first_row..`, of `columns` numbers each.
pub(super) fn quantise(
    values: &[f32],
    part: Part,
    quantisation: Quantisation,
    first_row: usize,
    columns: usize,
) -> Result<Vec<u8>, EvaluateError> {
    let width = columns.max(1);
    if let Some(index) = values.iter().position(|value| !value.is_finite()) {
        let (value, row, column) = (values[index], first_row + index / width, index % width);
        return Err(EvaluateError::NotFinite { value, row, column });
    }
    let block = quantisation.block.unwrap_or(width);
    let encoding = quantisation.encoding;
    let mut bytes = Vec::new();
    // The last block of a row is filled up with zeros, which cost nothing: every scale holds them.
    let mut padded = vec![0.0; block];
    for (row, numbers) in values.chunks_exact(width).enumerate() {
        for (index, chunk) in numbers.chunks(block).enumerate() {
            padded[..chunk.len()].copy_from_slice(chunk);
            padded[chunk.len()..].fill(0.0);
            let scale = scale(&padded, encoding);
            if scale.is_infinite() {
                let largest =
                    |best: usize, other: usize| if chunk[other].abs() > chunk[best].abs() { other } else { best };
                let column = (0..chunk.len()).fold(0, largest);
                return Err(EvaluateError::Overflow {
                    value: chunk[column],
                    row: first_row + row,
                    column: index * block + column,
                    dtype: "an integer with a scale of f16",
                    largest: f16::MAX.to_f32() * encoding.range().1,
                });
            }
            match part {
                Part::Values => integers(&padded, scale, encoding, &mut bytes),
                Part::Scales if encoding == Encoding::Nibbles => bytes.extend(scale.to_le_bytes()),
                Part::Scales => bytes.extend(f16::from_f32(scale).to_le_bytes()),
            }
        }
    }
    Ok(bytes)
}

/// The integer that stands for `value`, as a float.
fn integer(value: f32, inverse: f32, (low, high): (f32, f32)) -> f32 {
    ((value * inverse).clamp(low, high) + ROUNDING) - ROUNDING
}

/// One over `scale`, or 0 where everything is 0.
fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// The scale of a block: a number that f16 holds, infinite where none is large enough.
fn scale(block: &[f32], encoding: Encoding) -> f32 {
    let range = encoding.range();
    let largest =
        block.iter().fold(0.0f32, |largest, value| if value.abs() > largest.abs() { *value } else { largest });
    if largest == 0.0 {
        return 0.0;
    }
    // Four bits reach one further on the negative side: the largest number goes there, by a negative scale if need be.
    let end = if range.0.abs() > range.1 { range.0 } else { largest.signum() * range.1 };
    let mut best = (f32::INFINITY, f16::from_f32(largest / end).to_f32());
    for sign in [1.0, -1.0] {
        for cut in CUTS {
            let rough = sign * cut * largest / end;
            let (products, squares) = sums(block, inverse(rough), range);
            // The error of integers q at scale s is |w|^2 - 2 s w.q + s^2 q.q: smallest at w.q / q.q.
            let scale = f16::from_f32(if squares == 0.0 { rough } else { products / squares }).to_f32();
            let error = scale * (scale * squares - 2.0 * products);
            if error < best.0 && scale != 0.0 {
                best = (error, scale);
            }
        }
        // A range of as many on both sides makes nothing else of the other sign.
        if range.0 == -range.1 {
            break;
        }
    }
    best.1
}

/// Sums of `w q` and of `q q`, of numbers w and their integers q. Eight sums each, which stay in registers.
fn sums(block: &[f32], inverse: f32, range: (f32, f32)) -> (f32, f32) {
    let (mut products, mut squares) = ([0.0f32; 8], [0.0f32; 8]);
    let (eights, rest) = block.as_chunks::<8>();
    for eight in eights {
        for (lane, value) in eight.iter().enumerate() {
            let q = integer(*value, inverse, range);
            products[lane] += value * q;
            squares[lane] += q * q;
        }
    }
    for (lane, value) in rest.iter().enumerate() {
        let q = integer(*value, inverse, range);
        products[lane] += value * q;
        squares[lane] += q * q;
    }
    (products.iter().sum(), squares.iter().sum())
}

/// Appends the integers of a block.
fn integers(block: &[f32], scale: f32, encoding: Encoding, bytes: &mut Vec<u8>) {
    let (inverse, range) = (inverse(scale), encoding.range());
    let number = |value: &f32| integer(*value, inverse, range) as i8;
    match encoding {
        Encoding::I8 => bytes.extend(block.iter().map(|value| number(value).to_le_bytes()[0])),
        // Blocks have an even number of columns.
        Encoding::I4 | Encoding::Nibbles => {
            let offset = if encoding == Encoding::Nibbles { 8 } else { 0 };
            let nibble = |value: &f32| (number(value) + offset).to_le_bytes()[0] & 0xf;
            bytes.extend(block.as_chunks::<2>().0.iter().map(|[low, high]| nibble(low) | nibble(high) << 4));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decoded(values: &[f32], encoding: Encoding, block: Option<usize>, columns: usize) -> Vec<(f32, f32)> {
        let quantisation = Quantisation { encoding, block };
        let part = |part| quantise(values, part, quantisation, 0, columns).unwrap();
        let scales: Vec<f32> = match encoding {
            Encoding::Nibbles => {
                part(Part::Scales).chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
            }
            _ => part(Part::Scales).chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        };
        let nibbles = |byte: u8| [byte & 0xf, byte >> 4];
        let integers: Vec<i32> = match encoding {
            Encoding::I8 => part(Part::Values).iter().map(|byte| i32::from(byte.cast_signed())).collect(),
            Encoding::I4 => {
                let signed = |nibble: u8| i32::from((nibble << 4).cast_signed() >> 4);
                part(Part::Values).into_iter().flat_map(nibbles).map(signed).collect()
            }
            Encoding::Nibbles => part(Part::Values).into_iter().flat_map(nibbles).map(|n| i32::from(n) - 8).collect(),
        };
        // Of every number, what it became and its scale.
        let (size, blocks) = (block.unwrap_or(columns), quantisation.blocks(columns));
        (0..values.len())
            .map(|place| {
                let (row, column) = (place / columns, place % columns);
                let scale = scales[row * blocks + column / size];
                (integers[row * blocks * size + column] as f32 * scale, scale)
            })
            .collect()
    }

    #[test]
    fn packing_of_a_row() {
        // The scale is -0.5: the largest number, 4, stands at the end that reaches further.
        let row = [4.0, -3.5, 0.5, 0.0, 1.0, -1.0, 2.0, -2.0];
        let bytes = |part, encoding| quantise(&row, part, Quantisation { encoding, block: Some(4) }, 0, 8).unwrap();
        assert_eq!(bytes(Part::Scales, Encoding::Nibbles)[..4], (-0.5f32).to_le_bytes());
        // -8, 7 and -1, 0: two's complement, the first number in the low half; then the same with 8 added.
        assert_eq!(bytes(Part::Values, Encoding::I4)[..2], [0x78, 0x0f]);
        assert_eq!(bytes(Part::Values, Encoding::Nibbles)[..2], [0xf0, 0x87]);
        let whole =
            quantise(&[127.0, -127.0, 1.0], Part::Values, Quantisation { encoding: Encoding::I8, block: None }, 0, 3);
        assert_eq!(whole.unwrap(), [127, 129, 1]);
    }

    #[test]
    fn broken_numbers_are_named() {
        let quantisation = Quantisation { encoding: Encoding::I4, block: Some(2) };
        let fails = |values: &[f32]| quantise(values, Part::Values, quantisation, 3, 4).unwrap_err().to_string();
        assert_eq!(
            fails(&[0.0, 1.0, 2.0, f32::NAN]),
            "the value at row 3, column 3 is NaN: the base model's file or the training is broken"
        );
        assert!(
            fails(&[0.0, 1.0, 2.0, 1e30])
                .starts_with("the value 1000000000000000000000000000000 at row 3, column 3 is beyond")
        );
    }

    proptest! {
        /// A number is at most half a step from what it became, unless it lies beyond the range, and becomes its end then.
        #[test]
        fn numbers_are_within_half_a_step(
            values in prop::collection::vec(prop_oneof![-1.0f32..1.0, -1e-3f32..1e-3, Just(0.0), -100.0f32..100.0], 4 * 7),
            encoding in prop::sample::select(&Encoding::ALL[..]), block in prop::sample::select(&[2usize, 4, 8, 32][..]),
        ) {
            for ((became, scale), value) in decoded(&values, encoding, Some(block), 7).into_iter().zip(&values) {
                let (low, high) = encoding.range();
                let beyond = if value * scale >= 0.0 { (value / scale).abs() > high + 0.5 } else { (value / scale).abs() > -low + 0.5 };
                let step = scale.abs();
                if beyond {
                    prop_assert!(became == low * scale || became == high * scale, "{value} became {became} of {scale}");
                } else {
                    prop_assert!((became - value).abs() <= step * 0.5001 + 1e-7, "{value} became {became} of {scale}");
                }
            }
        }

        /// The search is never worse than the plain scale of the largest number.
        #[test]
        fn the_search_lowers_the_error(values in prop::collection::vec(-1.0f32..1.0, 32)) {
            let error = |found: Vec<f32>| -> f64 {
                values.iter().zip(found).map(|(value, found)| f64::from(value - found).powi(2)).sum()
            };
            let searched = decoded(&values, Encoding::I4, Some(32), 32).into_iter().map(|(became, _)| became).collect();
            let plain = f16::from_f32(values.iter().fold(0.0f32, |largest, value| largest.max(value.abs())) / 7.0).to_f32();
            let naive = values.iter().map(|value| (value / plain).round().clamp(-8.0, 7.0) * plain).collect();
            prop_assert!(error(searched) <= error(naive) * 1.0001 + 1e-9);
        }
    }
}
