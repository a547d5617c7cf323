//! The Parzen estimator of TPE: a mixture of product kernels, one an observation, and a prior (Bergstra 2011; Optuna 5.0.0).

use crate::sampler::tpe_weights;
use crate::space::{Distribution, Parameter};
use rand::Rng;
use std::f64::consts::{PI, SQRT_2};

/// Kernels of one parameter.
enum Kernels {
    /// Mean and standard deviation of normals truncated to the bounds.
    Normal { kernels: Vec<(f64, f64)>, bounds: (f64, f64) },
    /// Probability of each choice.
    Choice(Vec<Vec<f64>>),
}

/// A density over some parameters that occur together.
pub struct Parzen<'a> {
    parameters: Vec<&'a Parameter>,
    kernels: Vec<Kernels>,
    weights: Vec<f64>,
}

impl<'a> Parzen<'a> {
    /// The density of `observations`, oldest first, each with one value a parameter.
    pub fn new(parameters: &[&'a Parameter], observations: &[Vec<f64>]) -> Self {
        let mut weights = tpe_weights(observations.len());
        weights.push(1.0);
        let total: f64 = weights.iter().sum();
        weights.iter_mut().for_each(|weight| *weight /= total);
        let kernels = parameters.iter().enumerate().map(|(index, parameter)| {
            let distribution = &parameter.distribution;
            let values = observations.iter().map(|row| row[index]);
            match distribution {
                Distribution::Categorical { choices } => Kernels::Choice(choice_kernels(values, choices.len())),
                Distribution::Float { .. } | Distribution::Int { .. } => {
                    let bounds = distribution.bounds();
                    let kernels =
                        normal_kernels(&values.map(|value| distribution.inner(value)).collect::<Vec<_>>(), bounds);
                    Kernels::Normal { kernels, bounds }
                }
            }
        });
        Self { parameters: parameters.to_vec(), kernels: kernels.collect(), weights }
    }

    /// One value a parameter. As all means lie between the bounds, at least a third of the draws is accepted.
    pub fn sample(&self, random: &mut impl Rng) -> Vec<f64> {
        let kernel = pick(&self.weights, random);
        let one = |(parameter, kernels): (&&Parameter, &Kernels)| match kernels {
            Kernels::Choice(rows) => pick(&rows[kernel], random) as f64,
            Kernels::Normal { kernels, bounds: (low, high) } => {
                let (mean, deviation) = kernels[kernel];
                loop {
                    let value = mean + deviation * standard_normal(random);
                    if (*low..=*high).contains(&value) {
                        return parameter.distribution.outer(value);
                    }
                }
            }
        };
        self.parameters.iter().zip(&self.kernels).map(one).collect()
    }

    /// Logarithm of the density at one value a parameter; of a logarithmic parameter it is the density of the logarithm.
    pub fn log_density(&self, values: &[f64]) -> f64 {
        let terms: Vec<f64> = (0..self.weights.len())
            .map(|kernel| {
                let parts = self.parameters.iter().zip(&self.kernels).zip(values);
                let logs = parts.map(|((parameter, kernels), value)| match kernels {
                    Kernels::Choice(rows) => rows[kernel][*value as usize].ln(),
                    Kernels::Normal { kernels, bounds } => {
                        log_kernel(&parameter.distribution, kernels[kernel], *bounds, *value)
                    }
                });
                self.weights[kernel].ln() + logs.sum::<f64>()
            })
            .collect();
        let largest = terms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        largest + terms.iter().map(|term| (term - largest).exp()).sum::<f64>().ln()
    }
}

/// One-hot rows smoothed by the prior, and the prior.
fn choice_kernels(values: impl ExactSizeIterator<Item = f64>, choices: usize) -> Vec<Vec<f64>> {
    let smooth = 1.0 / (values.len() + 1) as f64;
    let total = 1.0 + smooth * choices as f64;
    let row = |value: f64| {
        (0..choices).map(|choice| (smooth + f64::from(u8::from(choice == value as usize))) / total).collect()
    };
    values.map(row).chain([vec![1.0 / choices as f64; choices]]).collect()
}

/// The deviation of a kernel is the larger gap to its neighbours; the ends look inwards only. Magic clipping keeps it within a share of the range.
fn normal_kernels(means: &[f64], (low, high): (f64, f64)) -> Vec<(f64, f64)> {
    let range = high - low;
    let mut order: Vec<usize> = (0..means.len()).collect();
    order.sort_by(|a, b| means[*a].total_cmp(&means[*b]));
    let count = means.len();
    let smallest = range / (count as f64 + 2.0).min(100.0);
    let mut kernels = vec![(0.5 * (low + high), range); count + 1];
    for (place, index) in order.iter().enumerate() {
        let mean = means[*index];
        let left = if place == 0 { mean - low } else { mean - means[order[place - 1]] };
        let right = if place + 1 == count { high - mean } else { means[order[place + 1]] - mean };
        let gap = match (count, place) {
            (0 | 1, _) => left.max(right),
            (_, 0) => right,
            (_, last) if last + 1 == count => left,
            _ => left.max(right),
        };
        kernels[*index] = (mean, gap.clamp(smallest, range));
    }
    kernels
}

fn log_kernel(distribution: &Distribution, (mean, deviation): (f64, f64), (low, high): (f64, f64), value: f64) -> f64 {
    let standard = |inner: f64| (inner - mean) / deviation;
    let within = mass(standard(low), standard(high)).ln();
    match *distribution {
        Distribution::Int { step, .. } => {
            let half = step as f64 / 2.0;
            let cell = (distribution.inner(value - half).max(low), distribution.inner(value + half).min(high));
            mass(standard(cell.0), standard(cell.1)).ln() - within
        }
        _ => {
            let z = standard(distribution.inner(value));
            -0.5 * z * z - deviation.ln() - 0.5 * (2.0 * PI).ln() - within
        }
    }
}

/// Probability of a standard normal between `a` and `b`, taken on the side where the tails are small.
fn mass(a: f64, b: f64) -> f64 {
    let (a, b) = if a + b < 0.0 { (-b, -a) } else { (a, b) };
    0.5 * (libm::erfc(a / SQRT_2) - libm::erfc(b / SQRT_2))
}

/// By Box and Muller.
fn standard_normal(random: &mut impl Rng) -> f64 {
    let radius = (-2.0 * (1.0 - random.random::<f64>()).ln()).sqrt();
    radius * (2.0 * PI * random.random::<f64>()).cos()
}

/// An index, with probability proportional to its weight.
fn pick(weights: &[f64], random: &mut impl Rng) -> usize {
    let mut left = random.random::<f64>() * weights.iter().sum::<f64>();
    weights
        .iter()
        .position(|weight| {
            left -= weight;
            left < 0.0
        })
        .unwrap_or(weights.len() - 1)
}
