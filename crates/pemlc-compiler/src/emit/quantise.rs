//! Rows of f32 as the integers, scales and offsets of a quantised matrix.
//!
//! A block is fitted by a line: first one through its smallest and largest number, for ranges that leave a little out at the ends or do not
//! use all integers, then the line of least squares through the integers that it gives. The one with the smallest squared error is taken.
//! Weights that were quantised before, in blocks as these, lie on such a line and are found again.

use crate::evaluate::EvaluateError;
use crate::ir::{Encoding, Part, Quantisation};
use half::f16;

/// Share of the range that the integers span.
const SPANS: [f32; 5] = [1.0, 0.95, 0.9, 0.85, 0.8];
/// Steps between the smallest and the largest number of a block that was quantised before, to four bits, and need not have used all of its levels.
const STEPS: [f32; 4] = [15.0, 14.0, 13.0, 12.0];
/// Adding and taking away rounds to the next integer, ties to even, whatever the instruction set, below 2^22.
const ROUNDING: f32 = 12_582_912.0;

/// The bytes of `part` of rows of `columns` numbers, whose blocks have `lines`. Only the integers need `values`.
pub(super) fn bytes(values: &[f32], lines: &[Line], part: Part, quantisation: Quantisation, columns: usize) -> Vec<u8> {
    let Quantisation { encoding, block } = quantisation;
    match (part, encoding) {
        (Part::Values, _) => {
            let mut bytes = Vec::new();
            blocks(values, block, columns, |filled, at| integers(filled, lines[at], encoding, &mut bytes));
            bytes
        }
        (Part::Scales, Encoding::Nibbles) => lines.iter().flat_map(|line| line.scale.to_le_bytes()).collect(),
        (Part::Offsets, Encoding::Nibbles) => {
            lines.iter().flat_map(|line| (line.offset + 8.0 * line.scale).to_le_bytes()).collect()
        }
        (Part::Scales, _) => lines.iter().flat_map(|line| f16::from_f32(line.scale).to_le_bytes()).collect(),
        (Part::Offsets, _) => lines.iter().flat_map(|line| f16::from_f32(line.offset).to_le_bytes()).collect(),
    }
}

/// Hands out the blocks of rows of `columns` numbers, filled up, and their places.
fn blocks(values: &[f32], block: usize, columns: usize, mut take: impl FnMut(&[f32], usize)) {
    let mut filled = vec![0.0; block];
    let chunks = values.chunks_exact(columns.max(1)).flat_map(|row| row.chunks(block));
    for (at, chunk) in chunks.enumerate() {
        filled[..chunk.len()].copy_from_slice(chunk);
        filled[chunk.len()..].fill(chunk[chunk.len() - 1]);
        take(&filled, at);
    }
}

/// A number is `scale` times its integer, plus `offset`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line {
    scale: f32,
    offset: f32,
}

impl Line {
    /// The lines of all blocks of `values`, rows `first_row..` of `columns` numbers each.
    pub(super) fn of_rows(
        values: &[f32],
        quantisation: Quantisation,
        first_row: usize,
        columns: usize,
    ) -> Result<Vec<Self>, EvaluateError> {
        let Quantisation { encoding, block } = quantisation;
        let width = columns.max(1);
        let place = |index: usize| (values[index], first_row + index / width, index % width);
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            let (value, row, column) = place(index);
            return Err(EvaluateError::NotFinite { value, row, column });
        }
        let mut lines = Vec::new();
        blocks(values, block, columns, |filled, _| lines.push(Self::fit(filled, encoding.largest())));
        let unfit = |line: &Self| !line.scale.is_finite() || !line.offset.is_finite();
        if let Some(at) = lines.iter().position(unfit) {
            let a_row = quantisation.blocks(columns).max(1);
            let start = at / a_row * width + at % a_row * block;
            let end = (start + block).min((at / a_row + 1) * width);
            let largest =
                |best: usize, other: usize| if values[other].abs() > values[best].abs() { other } else { best };
            let (value, row, column) = place((start..end).fold(start, largest));
            let (dtype, largest) = ("an integer with scale and offset in f16", f16::MAX.to_f32());
            return Err(EvaluateError::Overflow { value, row, column, dtype, largest });
        }
        Ok(lines)
    }

    /// The nearest line that f16 holds.
    fn rounded(scale: f32, offset: f32) -> Self {
        Self { scale: f16::from_f32(scale).to_f32(), offset: f16::from_f32(offset).to_f32() }
    }

    /// The integer that stands for `value`, as a float.
    fn integer(self, value: f32, inverse: f32, largest: f32) -> f32 {
        (((value - self.offset) * inverse).clamp(0.0, largest) + ROUNDING) - ROUNDING
    }

    /// One over the scale, or 0 where all numbers are the offset.
    fn inverse(self) -> f32 {
        if self.scale == 0.0 { 0.0 } else { 1.0 / self.scale }
    }

    fn fit(block: &[f32], largest: f32) -> Self {
        let (low, high) = block
            .iter()
            .fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), value| (low.min(*value), high.max(*value)));
        let range = high - low;
        let spans = SPANS.map(|span| (range * span / largest, low + range * (1.0 - span) / 2.0));
        // Eight bits make sixteen steps of one, and so keep to a scale that f16 holds.
        let before = STEPS.map(|steps| (range / (steps * (largest + 1.0) / 16.0), low));
        let mut best = (f32::INFINITY, Self::rounded(range / largest, low));
        for (scale, offset) in spans.into_iter().chain(before) {
            let first = Self::rounded(scale, offset);
            for line in [first, first.least_squares(block, largest)] {
                let error = line.error(block, largest);
                if error < best.0 {
                    best = (error, line);
                }
            }
        }
        best.1
    }

    /// The line through the integers that this one gives.
    fn least_squares(self, block: &[f32], largest: f32) -> Self {
        let (inverse, count) = (self.inverse(), block.len() as f32);
        // Taken from the offset, so that sums stay small beside what they differ by.
        let [q, qq, w, qw] = sums(block, |value| {
            let (integer, value) = (self.integer(value, inverse, largest), value - self.offset);
            [integer, integer * integer, value, integer * value]
        });
        let spread = count * qq - q * q;
        if spread <= 0.0 {
            return self;
        }
        let scale = (count * qw - q * w) / spread;
        Self::rounded(scale, self.offset + (w - scale * q) / count)
    }

    /// The sum of squared differences.
    fn error(self, block: &[f32], largest: f32) -> f32 {
        let inverse = self.inverse();
        let [error] = sums(block, |value| {
            let difference = value - (self.integer(value, inverse, largest) * self.scale + self.offset);
            [difference * difference]
        });
        error
    }
}

/// Sums of several terms over all numbers, in eight lanes each, which are a register.
fn sums<const N: usize>(block: &[f32], terms: impl Fn(f32) -> [f32; N]) -> [f32; N] {
    let mut lanes = [[0.0f32; 8]; N];
    let (eights, rest) = block.as_chunks::<8>();
    for eight in eights {
        for (lane, value) in eight.iter().enumerate() {
            for (sum, term) in lanes.iter_mut().zip(terms(*value)) {
                sum[lane] += term;
            }
        }
    }
    for (lane, value) in rest.iter().enumerate() {
        for (sum, term) in lanes.iter_mut().zip(terms(*value)) {
            sum[lane] += term;
        }
    }
    lanes.map(|sums| sums.iter().sum())
}

/// Appends the integers of a block.
fn integers(block: &[f32], line: Line, encoding: Encoding, bytes: &mut Vec<u8>) {
    let inverse = line.inverse();
    let number = |value: &f32| line.integer(*value, inverse, encoding.largest()) as u8;
    match encoding {
        Encoding::U8 => bytes.extend(block.iter().map(number)),
        // Blocks have an even number of columns.
        Encoding::U4 | Encoding::Nibbles => {
            bytes.extend(block.as_chunks::<2>().0.iter().map(|[low, high]| number(low) | number(high) << 4));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn quantise(
        values: &[f32],
        part: Part,
        quantisation: Quantisation,
        first_row: usize,
        columns: usize,
    ) -> Result<Vec<u8>, EvaluateError> {
        let lines = Line::of_rows(values, quantisation, first_row, columns)?;
        Ok(bytes(values, &lines, part, quantisation, columns))
    }

    /// Of every number, what it became and its scale.
    fn decoded(values: &[f32], encoding: Encoding, block: usize, columns: usize) -> Vec<(f32, f32)> {
        let quantisation = Quantisation { encoding, block };
        let part = |part| quantise(values, part, quantisation, 0, columns).unwrap();
        let floats = |bytes: Vec<u8>| -> Vec<f32> {
            match encoding {
                Encoding::Nibbles => {
                    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
                }
                _ => bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            }
        };
        let (scales, offsets) = (floats(part(Part::Scales)), floats(part(Part::Offsets)));
        let integers: Vec<f32> = match encoding {
            Encoding::U8 => part(Part::Values).into_iter().map(f32::from).collect(),
            Encoding::U4 => {
                part(Part::Values).into_iter().flat_map(|byte| [byte & 0xf, byte >> 4]).map(f32::from).collect()
            }
            Encoding::Nibbles => part(Part::Values)
                .into_iter()
                .flat_map(|byte| [byte & 0xf, byte >> 4])
                .map(|n| f32::from(n) - 8.0)
                .collect(),
        };
        let blocks = quantisation.blocks(columns);
        (0..values.len())
            .map(|place| {
                let (row, column) = (place / columns, place % columns);
                let at = row * blocks + column / block;
                (integers[at * block + column % block] * scales[at] + offsets[at], scales[at])
            })
            .collect()
    }

    #[test]
    fn packing_of_a_row() {
        let row = [-1.0, 6.5, 0.5, 0.0];
        let bytes = |part, encoding| quantise(&row, part, Quantisation { encoding, block: 4 }, 0, 4).unwrap();
        assert_eq!(bytes(Part::Scales, Encoding::U4), f16::from_f32(0.5).to_le_bytes());
        assert_eq!(bytes(Part::Offsets, Encoding::U4), f16::from_f32(-1.0).to_le_bytes());
        // 0, 15 and 3, 2: the first number in the low half.
        assert_eq!(bytes(Part::Values, Encoding::U4), [0xf0, 0x23]);
        assert_eq!(bytes(Part::Values, Encoding::Nibbles), [0xf0, 0x23]);
        assert_eq!(bytes(Part::Scales, Encoding::Nibbles), 0.5f32.to_le_bytes());
        assert_eq!(bytes(Part::Offsets, Encoding::Nibbles), 3.0f32.to_le_bytes());
        let whole = quantise(&[254.0, -1.0], Part::Values, Quantisation { encoding: Encoding::U8, block: 2 }, 0, 2);
        assert_eq!(whole.unwrap(), [255, 0]);
    }

    #[test]
    fn weights_quantised_before_are_found_again() {
        // Sixteen levels of which the lowest and the two highest are not used.
        let levels: Vec<f32> = (0..32).map(|place| (1 + place * 5 % 13) as f32 * 0.0625 - 0.25).collect();
        for encoding in Encoding::ALL {
            let found: Vec<f32> = decoded(&levels, encoding, 32, 32).into_iter().map(|(became, _)| became).collect();
            assert_eq!(found, levels, "{encoding:?}");
        }
    }

    #[test]
    fn broken_numbers_are_named() {
        let quantisation = Quantisation { encoding: Encoding::U4, block: 2 };
        let fails = |values: &[f32]| quantise(values, Part::Values, quantisation, 3, 4).unwrap_err().to_string();
        assert_eq!(
            fails(&[0.0, 1.0, 2.0, f32::NAN]),
            "the value at row 3, column 3 is NaN: the base model's file or the training is broken"
        );
        assert!(fails(&[0.0, 1.0, 2.0, 1e9]).starts_with("the value 1000000000 at row 3, column 3 is beyond"));
    }

    proptest! {
        /// A number is at most half a step from what it became, unless it lies beyond the range, and became its end then.
        #[test]
        fn numbers_are_within_half_a_step(
            values in prop::collection::vec(prop_oneof![-1.0f32..1.0, -1e-3f32..1e-3, Just(0.0), -100.0f32..100.0], 4 * 7),
            encoding in prop::sample::select(&Encoding::ALL[..]), block in prop::sample::select(&[2usize, 4, 8, 32][..]),
        ) {
            let found = decoded(&values, encoding, block, 7);
            for (row, (numbers, found)) in values.chunks(7).zip(found.chunks(7)).enumerate() {
                for (numbers, found) in numbers.chunks(block).zip(found.chunks(block)) {
                    let ends = found.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), (x, _)| (low.min(*x), high.max(*x)));
                    for (value, (became, scale)) in numbers.iter().zip(found) {
                        let half = (became - value).abs() <= scale * 0.501 + value.abs() * 1e-3 + 1e-6;
                        let beyond = *became == ends.0 && *value < ends.0 || *became == ends.1 && *value > ends.1;
                        prop_assert!(half || beyond, "row {row}: {value} became {became} of {scale}");
                    }
                }
            }
        }

        /// The search is never worse than the plain line from the smallest to the largest number.
        #[test]
        fn the_search_lowers_the_error(values in prop::collection::vec(-1.0f32..1.0, 32)) {
            let error = |found: &[f32]| -> f64 { values.iter().zip(found).map(|(a, b)| f64::from(a - b).powi(2)).sum() };
            let searched: Vec<f32> = decoded(&values, Encoding::U4, 32, 32).into_iter().map(|(became, _)| became).collect();
            let (low, high) = (values.iter().copied().fold(f32::MAX, f32::min), values.iter().copied().fold(f32::MIN, f32::max));
            let line = Line::rounded((high - low) / 15.0, low);
            let plain = |value: &f32| ((value - line.offset) / line.scale).clamp(0.0, 15.0).round() * line.scale + line.offset;
            let plain: Vec<f32> = values.iter().map(plain).collect();
            prop_assert!(error(&searched) <= error(&plain) * 1.0001 + 1e-9);
        }
    }
}
