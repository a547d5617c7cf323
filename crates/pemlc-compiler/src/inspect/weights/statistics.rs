//! Statistics of a stream of numbers in constant memory.

use serde::Serialize;

/// How the values of a tensor are spread. The first four are of its finite values, and absent when there are none.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Statistics {
    /// Smallest.
    pub min: Option<f64>,
    /// Largest.
    pub max: Option<f64>,
    /// Mean of the absolute values.
    pub mean_abs: Option<f64>,
    /// Standard deviation, of the whole and not of a sample.
    pub standard_deviation: Option<f64>,
    /// How many are NaN.
    pub nan: u64,
    /// How many are infinite.
    pub infinite: u64,
    /// How many are zero.
    pub zeros: u64,
}

/// Takes values piece by piece. The variance of a piece is taken about its own mean and joined by Chan's formula, so that large means
/// cost no precision.
#[derive(Debug, Default)]
pub(super) struct Collector {
    count: f64,
    mean: f64,
    /// Sum of squared distances from the mean.
    squares: f64,
    absolute: f64,
    range: Option<(f64, f64)>,
    nan: u64,
    infinite: u64,
    zeros: u64,
}

impl Collector {
    pub(super) fn add(&mut self, values: &[f64]) {
        let (mut count, mut sum) = (0.0, 0.0);
        for value in values {
            if value.is_finite() {
                count += 1.0;
                sum += value;
                self.absolute += value.abs();
                self.zeros += u64::from(*value == 0.0);
                let (low, high) = self.range.unwrap_or((*value, *value));
                self.range = Some((low.min(*value), high.max(*value)));
            } else if value.is_nan() {
                self.nan += 1;
            } else {
                self.infinite += 1;
            }
        }
        if count == 0.0 {
            return;
        }
        let mean = sum / count;
        let squares: f64 =
            values.iter().filter(|value| value.is_finite()).map(|value| (value - mean) * (value - mean)).sum();
        let (total, distance) = (self.count + count, mean - self.mean);
        self.squares += squares + distance * distance * self.count * count / total;
        self.mean += distance * count / total;
        self.count = total;
    }

    pub(super) fn finish(self) -> Statistics {
        // f64 weights near its largest value overflow the sums: better no figure than a wrong one.
        let finite = |value: f64| (self.count > 0.0 && value.is_finite()).then_some(value);
        Statistics {
            min: self.range.map(|(low, _)| low),
            max: self.range.map(|(_, high)| high),
            mean_abs: finite(self.absolute / self.count),
            standard_deviation: finite((self.squares / self.count).sqrt()),
            nan: self.nan,
            infinite: self.infinite,
            zeros: self.zeros,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_join_to_the_whole() {
        let mut collector = Collector::default();
        collector.add(&[1e9 + 2.0, 1e9 + 4.0]);
        collector.add(&[]);
        collector.add(&[f64::NAN, 1e9 + 4.0, f64::NEG_INFINITY]);
        collector.add(&[1e9 + 4.0, 1e9 + 5.0, 1e9 + 5.0, 1e9 + 7.0, 1e9 + 9.0]);
        let found = collector.finish();
        // The textbook example, whose deviation is 2, so far from zero that sums of squares would lose all digits.
        assert!(found.standard_deviation.is_some_and(|deviation| (deviation - 2.0).abs() < 1e-7), "{found:?}");
        assert_eq!((found.min, found.max), (Some(1e9 + 2.0), Some(1e9 + 9.0)));
        assert_eq!(found.mean_abs, Some(1e9 + 5.0));
        assert_eq!((found.nan, found.infinite, found.zeros), (1, 1, 0));
    }

    #[test]
    fn nothing_finite_has_no_range() {
        let mut collector = Collector::default();
        collector.add(&[f64::INFINITY, f64::NAN]);
        let found = collector.finish();
        assert_eq!((found.min, found.mean_abs, found.standard_deviation), (None, None, None));
    }
}
