//! The first parity check: the compiler's rows against those that the trainer computed and stored.

use crate::ir::Tensor;
use crate::normal_form::Prefix;

/// Largest difference of a number whose layer holds none above 1, and in proportion beyond: both sides compute in f32 or better, and rounding
/// grows with the numbers. A scale that is applied twice, a matrix that is transposed, or adapters of another training change rows by
/// hundredths of themselves.
pub const RELATIVE_TOLERANCE: f64 = 1e-4;

/// The compiler and the trainer evaluate a prompt differently.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error(
    "the {what} of layer {layer} that the {source_name} of {whose} comes to differ from the trainer's evaluation by {difference:e}, more than \
     {tolerance:e}: the files in prompt/ and adapters/ are not of one training, or this is a defect of pemlc"
)]
pub struct PromptDiffers {
    /// What the rows come from.
    pub source_name: &'static str,
    /// The task, or all of them.
    pub whose: String,
    /// The layer.
    pub layer: usize,
    /// Keys, values or log-gates.
    pub what: &'static str,
    /// Largest absolute difference there; NaN when either side holds NaN.
    pub difference: f64,
    /// What is allowed.
    pub tolerance: f64,
}

/// The largest absolute difference of the rows of `sets`, which are named by whose they are.
pub(super) fn compare(
    compiled: &Prefix,
    trained: &Prefix,
    sets: &[(usize, String)],
    source_name: &'static str,
) -> Result<f64, PromptDiffers> {
    let mut largest = 0.0f64;
    for (layer, (own, other)) in compiled.layers.iter().zip(&trained.layers).enumerate() {
        for (set, whose) in sets {
            let parts = [
                ("keys", &own.key, &other.key),
                ("values", &own.value, &other.value),
                ("log-gates", &own.log_gate, &other.log_gate),
            ];
            for (what, own, other) in parts {
                let (difference, size) = distance(&own.part(*set), &other.part(*set));
                let tolerance = RELATIVE_TOLERANCE * size.max(1.0);
                // Written so that NaN is refused.
                if difference <= tolerance {
                    largest = largest.max(difference);
                } else {
                    let whose = whose.clone();
                    return Err(PromptDiffers { source_name, whose, layer, what, difference, tolerance });
                }
            }
        }
    }
    Ok(largest)
}

/// The largest absolute difference, NaN when either side holds NaN, and the largest absolute value of `right`.
fn distance(left: &Tensor, right: &Tensor) -> (f64, f64) {
    let (left, right) = (left.as_f32().unwrap_or_default(), right.as_f32().unwrap_or_default());
    let differences = left.iter().zip(right).map(|(left, right)| (f64::from(*left) - f64::from(*right)).abs());
    // f64::max would drop a NaN.
    let larger = |largest: f64, difference: f64| {
        if largest.is_nan() || difference <= largest { largest } else { difference }
    };
    (differences.fold(0.0, larger), right.iter().fold(0.0, |size, value| f64::from(value.abs()).max(size)))
}
