//! What an edge's candidates weigh during the search.

use crate::config::Relaxation;
use crate::parameters::host;
use crate::random::Stream;
use burn::tensor::{DType, Tensor, TensorData, activation::softmax};

/// Temperatures of the annealed relaxations, first and last; they fall geometrically over the search.
const ANNEALED: (f64, f64) = (5.0, 0.2);
const GUMBEL: (f64, f64) = (5.0, 0.1);

/// How candidates enter the sum on an edge.
pub(super) enum Weights {
    /// Every candidate by its weight, `[candidates]`.
    All(Tensor<1>),
    /// One candidate, by a weight that is 1 and has a gradient, `[1]`: the others are not evaluated (GDAS, arXiv 1910.04465).
    One(usize, Tensor<1>),
}

/// A draw: where the search stands, and the edge's random numbers.
pub(super) struct Draw {
    /// Share of the search that is over.
    pub(super) progress: f64,
    /// Standard Gumbel numbers, one a candidate.
    pub(super) gumbel: Vec<f32>,
}

impl Draw {
    /// The draw of edge `place` for one batch: a function of these, so that a resumed run draws the same.
    pub(super) fn new(candidates: usize, place: usize, seed: u64, batch: u64, progress: f64) -> Self {
        let mut stream = Stream::new(seed, &format!("encoder.gumbel.{place}"), batch);
        // 1 - u is in (0, 1], where the logarithm is finite; a number of 1 would give an infinite one.
        let number = || -(-(1.0 - f64::from(stream.unit())).ln()).max(1e-30).ln();
        Self {
            progress: progress.clamp(0.0, 1.0),
            gumbel: std::iter::repeat_with(number).take(candidates).map(|g| g as f32).collect(),
        }
    }
}

/// Weights of the candidates with these logits. Without a draw, what the search came to.
pub(super) fn weigh(relaxation: Relaxation, logits: Tensor<1>, draw: Option<&Draw>) -> Weights {
    let Some(draw) = draw else { return Weights::All(softmax(logits / final_temperature(relaxation), 0)) };
    let temperature = temperature(relaxation, draw.progress);
    match relaxation {
        Relaxation::Softmax | Relaxation::Annealed => Weights::All(softmax(logits / temperature, 0)),
        Relaxation::Gumbel => Weights::All(sample(logits, draw, temperature)),
        Relaxation::StraightThrough => {
            let soft = sample(logits, draw, temperature);
            let winner = argmax(&host(soft.clone().detach()));
            let one = soft.narrow(0, winner, 1);
            Weights::One(winner, one.clone() - one.detach() + 1.0)
        }
    }
}

/// The temperature when `progress` of the search is over.
pub(super) fn temperature(relaxation: Relaxation, progress: f64) -> f32 {
    let (first, last): (f64, f64) = match relaxation {
        Relaxation::Softmax => (1.0, 1.0),
        Relaxation::Annealed => ANNEALED,
        Relaxation::Gumbel | Relaxation::StraightThrough => GUMBEL,
    };
    (first * (last / first).powf(progress)) as f32
}

/// The temperature without a draw, when the search is over. Samples have no temperature of their own then: how often each candidate wins
/// is the softmax of the logits.
pub(super) fn final_temperature(relaxation: Relaxation) -> f32 {
    if relaxation == Relaxation::Annealed { temperature(relaxation, 1.0) } else { 1.0 }
}

/// `softmax((logits + gumbel) / temperature)` (Jang et al., arXiv 1611.01144).
fn sample(logits: Tensor<1>, draw: &Draw, temperature: f32) -> Tensor<1> {
    let noise = TensorData::new(draw.gumbel.clone(), [draw.gumbel.len()]);
    let noise = Tensor::<1>::from_data(noise, (&logits.device(), DType::F32));
    softmax((logits + noise) / temperature, 0)
}

/// The first of equals.
fn argmax(values: &[f32]) -> usize {
    let mut best = 0;
    for (index, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = index;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::{Golden, close};
    use burn::tensor::Device;

    fn tensor(values: &[f32]) -> Tensor<1> {
        Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), (&Device::flex(), DType::F32))
    }

    #[test]
    fn samples_and_their_gradients_are_those_of_pytorch() {
        let golden = Golden::read("gumbel_softmax.json");
        let logits = golden.f32(&["inputs", "logits"]);
        for (key, temperature) in [("tau=1.0,hard=False", 1.0), ("tau=0.1,hard=False", 0.1)] {
            let gumbel = golden.f32(&["expected", key, "gumbel_noise"]);
            let expected = golden.f32(&["expected", key, "sample"]);
            let gradients = golden.f32(&["expected", key, "grad_logits_of_sum(sample*[0..4])"]);
            for row in 0..4 {
                let part = |values: &[f32]| values[5 * row..][..5].to_vec();
                let draw = Draw { progress: 0.0, gumbel: part(&gumbel) };
                let leaf = tensor(&part(&logits)).autodiff().require_grad();
                let found = sample(leaf.clone(), &draw, temperature);
                close(&host(found.clone().inner()), &part(&expected), 2e-5);
                let mut all = (found * tensor(&[0.0, 1.0, 2.0, 3.0, 4.0]).autodiff()).sum().backward();
                let gradient = leaf.grad_remove(&mut all).expect("a gradient");
                close(&host(gradient), &part(&gradients), 2e-4);
            }
        }
    }

    /// The hard sample of PyTorch is one-hot with the gradient of the soft one; ours is the one entry that is not zero.
    #[test]
    fn straight_through_takes_pytorchs_winner_with_the_soft_gradient() {
        let golden = Golden::read("gumbel_softmax.json");
        let part = |values: Vec<f32>, row: usize| values[5 * row..][..5].to_vec();
        for row in 0..4 {
            let gumbel = part(golden.f32(&["expected", "tau=0.1,hard=True", "gumbel_noise"]), row);
            let logits = part(golden.f32(&["inputs", "logits"]), row);
            let draw = Draw { progress: 1.0, gumbel };
            let leaf = tensor(&logits).autodiff().require_grad();
            let Weights::One(winner, weight) = weigh(Relaxation::StraightThrough, leaf.clone(), Some(&draw)) else {
                panic!("straight-through evaluates one candidate")
            };
            let hard = part(golden.f32(&["expected", "tau=0.1,hard=True", "sample"]), row);
            assert_eq!(hard[winner], 1.0);
            assert_eq!(host(weight.clone().inner()), [1.0]);
            let gradient = leaf.grad_remove(&mut weight.sum().backward()).expect("a gradient");
            let soft = tensor(&logits).autodiff().require_grad();
            let mut all = sample(soft.clone(), &draw, 0.1).narrow(0, winner, 1).sum().backward();
            close(&host(gradient), &host(soft.grad_remove(&mut all).expect("a gradient")), 1e-6);
        }
    }

    #[test]
    fn the_softmax_is_that_of_pytorch() {
        let golden = Golden::read("gumbel_softmax.json");
        let (logits, expected) = (golden.f32(&["inputs", "logits"]), golden.f32(&["expected", "softmax_relaxation"]));
        let Weights::All(found) = weigh(Relaxation::Softmax, tensor(&logits[..5]), None) else { panic!("a mixture") };
        close(&host(found), &expected[..5], 2e-5);
    }

    #[test]
    fn temperatures_fall_geometrically() {
        assert_eq!(temperature(Relaxation::Annealed, 0.0), 5.0);
        assert_eq!(temperature(Relaxation::Annealed, 0.5), 1.0);
        assert!((temperature(Relaxation::Annealed, 1.0) - 0.2).abs() < 1e-6);
        assert_eq!(temperature(Relaxation::Softmax, 0.3), 1.0);
        assert_eq!(final_temperature(Relaxation::StraightThrough), 1.0);
    }

    #[test]
    fn gumbel_numbers_have_their_mean_and_are_a_function_of_edge_and_batch() {
        let draw = |place, batch| Draw::new(4000, place, 3, batch, 0.0).gumbel;
        let numbers = draw(0, 0);
        let mean = numbers.iter().sum::<f32>() / 4000.0;
        // Euler's constant.
        assert!((mean - 0.5772).abs() < 0.06 && numbers.iter().all(|number| number.is_finite()), "{mean}");
        assert_eq!(draw(0, 0), numbers);
        assert_ne!(draw(1, 0), numbers);
        assert_ne!(draw(0, 1), numbers);
    }
}
