//! Standard errors of metrics that are not means.

use crate::random::{Purpose, below, generator};

const RESAMPLES: u64 = 1000;

/// The standard deviation of `statistic` over resamples of `items` with replacement. The resamples depend on nothing but
/// the number of items, so a score is always printed with the same error.
pub(super) fn standard_error<T: Copy>(items: &[T], statistic: impl Fn(&[T]) -> f64) -> f64 {
    if items.len() < 2 {
        return 0.0;
    }
    let mut resample = Vec::with_capacity(items.len());
    let values: Vec<f64> = (0..RESAMPLES)
        .map(|index| {
            let mut random = generator(0, Purpose::Bootstrap, index, 0);
            resample.clear();
            resample.extend(items.iter().map(|_| items[below(&mut random, items.len())]));
            statistic(&resample)
        })
        .collect();
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (squares / (values.len() - 1) as f64).sqrt()
}
