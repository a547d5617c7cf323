//! Metrics of pairs of numbers.

/// Pearson's correlation; 0 where one side is constant.
pub(super) fn pearson(pairs: &[(f64, f64)]) -> f64 {
    let count = pairs.len() as f64;
    let (sum_x, sum_y) = pairs.iter().fold((0.0, 0.0), |(sum_x, sum_y), (x, y)| (sum_x + x, sum_y + y));
    let (mean_x, mean_y) = (sum_x / count, sum_y / count);
    let (mut covariance, mut spread_x, mut spread_y) = (0.0, 0.0, 0.0);
    for (x, y) in pairs {
        let (dx, dy) = (x - mean_x, y - mean_y);
        covariance += dx * dy;
        spread_x += dx * dx;
        spread_y += dy * dy;
    }
    if spread_x == 0.0 || spread_y == 0.0 || pairs.is_empty() {
        return 0.0;
    }
    covariance / (spread_x * spread_y).sqrt()
}
