//! Scores of a task's predictions, each with a standard error.

mod bootstrap;
mod classification;
mod correlation;

use crate::config::Metric;
use crate::prediction::Prediction;
use crate::task::Task;
use serde::{Deserialize, Serialize};

/// A metric's value over some examples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// The value: a share (0 to 1), or a correlation (-1 to 1).
    pub value: f64,
    /// Standard error over the choice of examples: of a mean for accuracy and exact match, else the bootstrap's (1,000
    /// resamples, always the same ones). 0 for fewer than two examples.
    pub standard_error: f64,
    /// Examples.
    pub n: usize,
}

/// The task's metric over predictions. Where the metric is undefined (no example; one class alone for Matthews; a constant for
/// Pearson; no positive at all for F1) the value is 0.
pub fn evaluate_metric(task: &Task, predictions: &[Prediction]) -> Score {
    evaluate(task.metric, predictions)
}

fn evaluate(metric: Metric, predictions: &[Prediction]) -> Score {
    let n = predictions.len();
    let labels: Vec<(usize, usize)> =
        predictions.iter().map(|prediction| (prediction.predicted, prediction.gold)).collect();
    let (value, standard_error) = match metric {
        Metric::Accuracy | Metric::ExactMatch => {
            let accuracy = classification::accuracy(&labels);
            (accuracy, mean_error(accuracy, n))
        }
        Metric::F1 => (classification::f1(&labels), bootstrap::standard_error(&labels, classification::f1)),
        Metric::Matthews => {
            (classification::matthews(&labels), bootstrap::standard_error(&labels, classification::matthews))
        }
        Metric::Pearson => {
            let pairs: Vec<(f64, f64)> =
                predictions.iter().filter_map(|prediction| Some((prediction.value?, prediction.target?))).collect();
            (correlation::pearson(&pairs), bootstrap::standard_error(&pairs, correlation::pearson))
        }
    };
    Score { value, standard_error, n }
}

/// Standard error of the mean of `n` zeros and ones whose mean is `share`: sample deviation over the root of n.
fn mean_error(share: f64, n: usize) -> f64 {
    if n < 2 { 0.0 } else { (share * (1.0 - share) / (n - 1) as f64).sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn predictions(predicted: &[usize], gold: &[usize]) -> Vec<Prediction> {
        let prediction = |(&predicted, &gold)| Prediction {
            id: "test/test.jsonl:1".to_owned(),
            scores: Vec::new(),
            predicted,
            gold,
            value: None,
            target: None,
        };
        predicted.iter().zip(gold).map(prediction).collect()
    }

    fn numbers(values: &[f64], targets: &[f64]) -> Vec<Prediction> {
        let mut predictions = predictions(&vec![0; values.len()], &vec![0; values.len()]);
        for ((prediction, &value), &target) in predictions.iter_mut().zip(values).zip(targets) {
            (prediction.value, prediction.target) = (Some(value), Some(target));
        }
        predictions
    }

    #[track_caller]
    fn close(left: f64, right: f64) {
        assert!((left - right).abs() < 1e-12, "{left} is not {right}");
    }

    /// Values of scikit-learn 1.9.1 (`accuracy_score`, `f1_score`, `matthews_corrcoef`) and SciPy (`pearsonr`).
    #[test]
    fn values_are_those_of_scikit_learn() {
        let two = predictions(&[1, 0, 1, 1, 0, 0, 1, 0, 1, 1], &[1, 0, 0, 1, 0, 1, 1, 0, 1, 0]);
        close(evaluate(Metric::Accuracy, &two).value, 0.7);
        close(evaluate(Metric::ExactMatch, &two).value, 0.7);
        close(evaluate(Metric::F1, &two).value, 0.7272727272727273);
        close(evaluate(Metric::Matthews, &two).value, 0.408248290463863);
        let three = predictions(&[0, 1, 2, 2, 1, 0, 0, 2, 1, 2], &[0, 1, 2, 1, 1, 0, 2, 2, 0, 2]);
        close(evaluate(Metric::Matthews, &three).value, 0.5454545454545454);
        let pairs = numbers(&[2.1, 0.3, 4.4, 3.0, 1.2, 4.9], &[2.0, 0.5, 4.0, 3.8, 0.0, 5.0]);
        close(evaluate(Metric::Pearson, &pairs).value, 0.9462953365569887);
    }

    #[test]
    fn accuracy_has_the_standard_error_of_a_mean() {
        let score = evaluate(Metric::Accuracy, &predictions(&[1, 1, 1, 0], &[1, 1, 1, 1]));
        close(score.value, 0.75);
        close(score.standard_error, (0.75 * 0.25 / 3.0_f64).sqrt());
        assert_eq!(score.n, 4);
    }

    /// 400 examples, 80 % right, balanced: theory gives F1's error (delta method) as 0.021 and Matthews' as sqrt(1 - 0.6^2) / 20 = 0.04.
    #[test]
    fn bootstrap_errors_agree_with_theory() {
        let gold: Vec<usize> = (0..400).map(|index| index % 2).collect();
        let predicted: Vec<usize> =
            (0..400).map(|index| if index % 10 < 8 { index % 2 } else { 1 - index % 2 }).collect();
        let examples = predictions(&predicted, &gold);
        let f1 = evaluate(Metric::F1, &examples);
        close(f1.value, 0.8);
        assert!((0.018..0.024).contains(&f1.standard_error), "{f1:?}");
        let matthews = evaluate(Metric::Matthews, &examples);
        close(matthews.value, 0.6);
        assert!((0.036..0.044).contains(&matthews.standard_error), "{matthews:?}");
        assert_eq!(f1, evaluate(Metric::F1, &examples), "the same examples, the same error");
    }

    #[test]
    fn undefined_metrics_are_zero() {
        for metric in [Metric::Accuracy, Metric::F1, Metric::Matthews, Metric::Pearson, Metric::ExactMatch] {
            assert_eq!(evaluate(metric, &[]), Score { value: 0.0, standard_error: 0.0, n: 0 }, "{metric}");
        }
        assert_eq!(evaluate(Metric::F1, &predictions(&[0, 0], &[0, 0])).value, 0.0);
        assert_eq!(evaluate(Metric::Matthews, &predictions(&[1, 1], &[0, 1])).value, 0.0);
        assert_eq!(evaluate(Metric::Pearson, &numbers(&[1.0, 1.0], &[0.0, 1.0])).value, 0.0);
    }
}
