//! The values of two tensors, read side by side.

use crate::inspect::Chunks;
use crate::inspect::model::Weight;
use crate::inspect::number::DataType;
use half::{bf16, f16};
use serde::Serialize;
use std::path::Path;

/// Elements compared at once.
const ELEMENTS: usize = 1 << 15;

/// How far the values of two tensors are apart, both taken as real numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ValueDifference {
    /// Largest absolute difference; absent where one is NaN or infinite and the other is not the same.
    pub max_abs: Option<f64>,
    /// Largest difference relative to the larger of the two values.
    pub max_rel: Option<f64>,
    /// Elements that differ by more than the tolerance.
    pub different: u64,
    /// Elements that differ at all.
    pub unequal: u64,
    /// Elements in all.
    pub elements: u64,
    /// For two float types: whether every value of the smaller type is the larger's rounded once to nearest.
    pub rounded_once: Option<bool>,
}

/// Compares the values of two tensors of one shape; none if they are not numbers and their bytes differ. An error says what cannot be
/// read.
pub(super) fn compare(
    before: (&Weight, &Path),
    after: (&Weight, &Path),
    tolerance: f64,
) -> Result<Option<ValueDifference>, String> {
    let mut chunks = (Chunks::open(before.0, before.1)?, Chunks::open(after.0, after.1)?);
    let types = (before.0.dtype, after.0.dtype);
    if !(types.0.is_number() && types.1.is_number()) {
        return bytes_equal(&mut chunks.0, &mut chunks.1).map(|equal| equal.then(|| ValueDifference::none(0)));
    }
    let piece = |dtype: DataType| ELEMENTS * usize::try_from(dtype.bits().unwrap_or(8)).unwrap_or(8) / 8;
    chunks.0.piece(piece(types.0));
    chunks.1.piece(piece(types.1));
    let mut found = ValueDifference::none(before.0.values().unwrap_or(0));
    let rounding = rounding(types);
    found.rounded_once = rounding.map(|_| true);
    let mut left = found.elements;
    let (mut first, mut second) = (Vec::new(), Vec::new());
    while left > 0 {
        let (bytes_before, bytes_after) = (chunks.0.next()?, chunks.1.next()?);
        let count = usize::try_from(left).unwrap_or(ELEMENTS).min(ELEMENTS);
        left -= count as u64;
        if types.0 == types.1 && bytes_before == bytes_after {
            continue;
        }
        first.clear();
        second.clear();
        types.0.decode(bytes_before, count, &mut first);
        types.1.decode(bytes_after, count, &mut second);
        // The numbers behind u64 and i64 may coincide as f64 while their bytes differ.
        let width = piece(types.0) / ELEMENTS;
        let same_bytes = |place: usize| {
            types.0.is_float() || types.0 != types.1 || width == 0 || {
                let range = place * width..(place + 1) * width;
                bytes_before.get(range.clone()) == bytes_after.get(range)
            }
        };
        for (place, (one, other)) in first.iter().zip(&second).enumerate() {
            found.add(*one, *other, same_bytes(place), tolerance);
            if let Some(round) = rounding {
                let exact = round(*one, *other);
                found.rounded_once = found.rounded_once.map(|all| all && exact);
            }
        }
    }
    Ok(Some(found))
}

impl ValueDifference {
    fn none(elements: u64) -> Self {
        Self { max_abs: Some(0.0), max_rel: Some(0.0), different: 0, unequal: 0, elements, rounded_once: None }
    }

    fn add(&mut self, one: f64, other: f64, same_bytes: bool, tolerance: f64) {
        if (one == other && same_bytes) || (one.is_nan() && other.is_nan()) {
            return;
        }
        self.unequal += 1;
        let distance = (one - other).abs();
        // NaN is beyond every tolerance. Whole numbers too large for f64 are at least one apart.
        let distance = if one == other { 1.0 } else { distance };
        self.different += u64::from(!(distance <= tolerance && distance.is_finite()));
        let larger =
            |largest: Option<f64>, value: f64| largest.filter(|_| value.is_finite()).map(|largest| largest.max(value));
        self.max_abs = larger(self.max_abs, distance);
        self.max_rel = larger(self.max_rel, distance / one.abs().max(other.abs()).max(f64::MIN_POSITIVE));
    }
}

/// Whether one value is the other, rounded to the smaller type of the two.
fn rounding(types: (DataType, DataType)) -> Option<fn(f64, f64) -> bool> {
    fn same(one: f64, other: f64) -> bool {
        one == other || (one.is_nan() && other.is_nan())
    }
    Some(match types {
        (DataType::F32, DataType::F16) => |one, other| same(f16::from_f64(one).to_f64(), other),
        (DataType::F16, DataType::F32) => |one, other| same(f16::from_f64(other).to_f64(), one),
        (DataType::F32, DataType::BF16) => |one, other| same(bf16::from_f64(one).to_f64(), other),
        (DataType::BF16, DataType::F32) => |one, other| same(bf16::from_f64(other).to_f64(), one),
        _ => return None,
    })
}

fn bytes_equal(before: &mut Chunks<'_>, after: &mut Chunks<'_>) -> Result<bool, String> {
    before.piece(ELEMENTS);
    after.piece(ELEMENTS);
    loop {
        let (one, other) = (before.next()?, after.next()?);
        if one != other || one.is_empty() {
            return Ok(one == other);
        }
    }
}
