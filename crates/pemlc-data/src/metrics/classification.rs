//! Metrics of pairs (predicted label, true label).

use std::collections::BTreeMap;

/// Share of equal pairs.
pub(super) fn accuracy(pairs: &[(usize, usize)]) -> f64 {
    let right = pairs.iter().filter(|(predicted, gold)| predicted == gold).count();
    ratio(right as f64, pairs.len() as f64)
}

/// `2 TP / (2 TP + FP + FN)`, positive class 1.
pub(super) fn f1(pairs: &[(usize, usize)]) -> f64 {
    let count = |wanted: (bool, bool)| pairs.iter().filter(|&&(p, g)| (p == 1, g == 1) == wanted).count() as f64;
    let both = 2.0 * count((true, true));
    ratio(both, both + count((true, false)) + count((false, true)))
}

/// The correlation of two label sequences (for two classes the phi coefficient; for more, Gorodkin's R_K):
/// `(s c - sum_k p_k t_k) / sqrt((s^2 - sum_k p_k^2) (s^2 - sum_k t_k^2))`, with s examples, c right ones, and p_k and t_k times that
/// class k is predicted and true.
pub(super) fn matthews(pairs: &[(usize, usize)]) -> f64 {
    // A class: times predicted, times true. A map, because a class index read from a file may be any number.
    let mut classes: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
    let mut right = 0.0;
    for &(predicted, gold) in pairs {
        classes.entry(predicted).or_default().0 += 1.0;
        classes.entry(gold).or_default().1 += 1.0;
        right += f64::from(u8::from(predicted == gold));
    }
    let total = pairs.len() as f64;
    let sum = |product: fn(&(f64, f64)) -> f64| classes.values().map(product).sum::<f64>();
    let covariance = right * total - sum(|(p, t)| p * t);
    let spread_predicted = total * total - sum(|(p, _)| p * p);
    let spread_true = total * total - sum(|(_, t)| t * t);
    ratio(covariance, (spread_predicted * spread_true).sqrt())
}

/// 0 where the metric is undefined.
fn ratio(numerator: f64, denominator: f64) -> f64 {
    if denominator == 0.0 { 0.0 } else { numerator / denominator }
}
