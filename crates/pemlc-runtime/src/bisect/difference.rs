//! How far two runtimes' values are apart.

use super::value::{Value, indices};

/// Masks hide with numbers like the lowest of f32, beside which nothing else would count.
const HIDING: f64 = 1e30;

/// The difference between two tensors of one shape.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// Largest absolute difference; infinite where one has a number and the other none, or where shapes differ.
    pub largest: f64,
    /// Place of the largest, in row-major order.
    pub(super) worst: usize,
    /// Place of the first element that differs at all.
    pub(super) first: Option<usize>,
    /// Root of the mean square of differences over that of the values, but for those that hide others; infinite as above.
    pub relative: f64,
    /// Largest absolute value on either side.
    pub scale: f64,
}

impl Difference {
    pub(super) fn between(one: &Value, other: &Value) -> Self {
        let apart = Self { largest: f64::INFINITY, worst: 0, first: Some(0), relative: f64::INFINITY, scale: 0.0 };
        if one.len() != other.len() || one.shape != other.shape {
            return apart;
        }
        let mut found = Self { largest: 0.0, worst: 0, first: None, relative: 0.0, scale: 0.0 };
        let (mut squares, mut differences) = (0.0_f64, 0.0_f64);
        for place in 0..one.len() {
            let (a, b) = (one.at(place), other.at(place));
            if a == b || (a.is_nan() && b.is_nan()) {
                if a.abs() < HIDING {
                    squares += a * a;
                    found.scale = found.scale.max(a.abs());
                }
                continue;
            }
            found.first.get_or_insert(place);
            let difference = (a - b).abs();
            let difference = if difference.is_finite() { difference } else { f64::INFINITY };
            if difference > found.largest {
                (found.largest, found.worst) = (difference, place);
            }
            differences += difference * difference;
            for number in [a, b].into_iter().filter(|number| number.abs() < HIDING) {
                squares += number * number / 2.0;
                found.scale = found.scale.max(number.abs());
            }
        }
        found.relative = match (differences, squares) {
            (0.0, _) => 0.0,
            (differences, squares) if differences.is_finite() && squares > 0.0 => (differences / squares).sqrt(),
            _ => f64::INFINITY,
        };
        found
    }

    /// No element differs.
    pub fn is_none(&self) -> bool {
        self.first.is_none()
    }
}

/// `[0, 3, 17]` of a place in `shape`.
pub(super) fn show_indices(shape: &[usize], place: usize) -> String {
    format!("{:?}", indices(shape, place))
}

#[cfg(test)]
mod tests {
    use super::super::value::{NumberType, Numbers};
    use super::*;

    fn value(numbers: &[f32]) -> Value {
        Value::new(NumberType::F32, vec![numbers.len()], Numbers::Float(numbers.to_vec()))
    }

    #[test]
    fn equal_values_and_two_nans_do_not_differ() {
        let one = value(&[1.0, f32::NAN, f32::INFINITY]);
        assert!(Difference::between(&one, &one).is_none());
    }

    #[test]
    fn the_largest_and_the_first_difference_are_told() {
        let found = Difference::between(&value(&[3.0, 4.0, 1.0]), &value(&[3.0, 4.5, 3.0]));
        assert_eq!((found.largest, found.worst, found.first, found.scale), (2.0, 2, Some(1), 4.5));
        let squares: f64 = 9.0 + (16.0 + 20.25) / 2.0 + (1.0 + 9.0) / 2.0;
        assert!((found.relative - (4.25 / squares).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn numbers_that_hide_do_not_hide_a_difference() {
        let found = Difference::between(&value(&[2.0, f32::MIN]), &value(&[2.5, f32::MIN]));
        assert!((found.relative - 0.5 / (10.25f64 / 2.0).sqrt()).abs() < 1e-12 && found.scale == 2.5, "{found:?}");
    }

    #[test]
    fn a_number_beside_nan_and_another_shape_are_infinitely_far() {
        assert_eq!(Difference::between(&value(&[1.0, 2.0]), &value(&[1.0, f32::NAN])).largest, f64::INFINITY);
        assert_eq!(Difference::between(&value(&[1.0, 2.0]), &value(&[1.0])).relative, f64::INFINITY);
    }
}
