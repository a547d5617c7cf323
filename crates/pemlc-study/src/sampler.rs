//! Samplers: random, and the tree-structured Parzen estimator (Bergstra 2011) with Optuna 5's defaults and its `group` option.

use crate::parzen::Parzen;
use crate::space::{Distribution, Parameter, Space};
use crate::trial::{Trial, TrialState};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// How many of `count` finished trials are the good ones.
pub fn tpe_gamma(count: usize) -> usize {
    count.div_ceil(10).min(25)
}

/// Weights of `count` observations, oldest first: 1 each while there are fewer than 25, else the oldest rise from 1 / count.
pub fn tpe_weights(count: usize) -> Vec<f64> {
    let ramp = count.saturating_sub(25);
    let first = 1.0 / count.max(1) as f64;
    let rising = |index: usize| if ramp < 2 { first } else { first + (1.0 - first) * index as f64 / (ramp - 1) as f64 };
    (0..count).map(|index| if index < ramp { rising(index) } else { 1.0 }).collect()
}

/// The `good` best of the finished trials, and the rest with the running ones, both by number. A pruned trial is worse than every complete
/// one; of two pruned ones the better got further.
pub fn split(trials: &[Trial], good: usize) -> (Vec<&Trial>, Vec<&Trial>) {
    let mut ranked: Vec<&Trial> =
        trials.iter().filter(|trial| matches!(trial.state, TrialState::Complete | TrialState::Pruned)).collect();
    ranked.sort_by(|a, b| better(a, b));
    let mut worse = ranked.split_off(good.min(ranked.len()));
    worse.extend(trials.iter().filter(|trial| trial.state == TrialState::Running));
    ranked.sort_by_key(|trial| trial.number);
    worse.sort_by_key(|trial| trial.number);
    (ranked, worse)
}

fn better(a: &Trial, b: &Trial) -> Ordering {
    let key = |trial: &Trial| match (trial.value, trial.intermediate.last_key_value()) {
        (Some(value), _) => (2, 0, value),
        (None, Some((step, value))) => (1, *step, if value.is_nan() { f64::NEG_INFINITY } else { *value }),
        (None, None) => (0, 0, 0.0),
    };
    let (a, b) = (key(a), key(b));
    (b.0, b.1).cmp(&(a.0, a.1)).then(b.2.total_cmp(&a.2))
}

/// Draws every parameter on its own.
#[derive(Debug, Clone, Copy)]
pub struct RandomSampler {
    /// With the number of the trial, decides every draw.
    pub seed: u64,
}

impl RandomSampler {
    /// Parameters of trial `number`.
    pub fn sample(&self, space: &Space, number: u64) -> BTreeMap<String, f64> {
        self.complete(space, number, BTreeMap::new())
    }

    /// As [`Self::sample`], where the parameters in `given` are decided.
    pub fn complete(&self, space: &Space, number: u64, given: BTreeMap<String, f64>) -> BTreeMap<String, f64> {
        let mut random = generator(self.seed, number);
        let mut params = given;
        for parameter in space.parameters() {
            if !params.contains_key(&parameter.name) && Space::holds(parameter.condition.as_ref(), &params) {
                params.insert(parameter.name.clone(), uniform(&parameter.distribution, &mut random));
            }
        }
        params
    }
}

/// Samples where good trials are dense and others are not.
#[derive(Debug, Clone, Copy)]
pub struct TpeSampler {
    /// With the number of the trial and the trials before it, decides every draw.
    pub seed: u64,
    /// So many finished trials are random.
    pub startup: usize,
    /// Draws of which the most promising is taken.
    pub candidates: usize,
}

impl TpeSampler {
    /// 10 random trials, 24 candidates.
    pub fn new(seed: u64) -> Self {
        Self { seed, startup: 10, candidates: 24 }
    }

    /// Parameters of trial `number` after `trials`, group by group.
    pub fn sample(&self, space: &Space, trials: &[Trial], number: u64) -> BTreeMap<String, f64> {
        let finished =
            trials.iter().filter(|trial| matches!(trial.state, TrialState::Complete | TrialState::Pruned)).count();
        if finished < self.startup {
            return RandomSampler { seed: self.seed }.sample(space, number);
        }
        let mut random = generator(self.seed, number);
        let (good, rest) = split(trials, tpe_gamma(finished));
        let mut params = BTreeMap::new();
        for group in space.groups() {
            if Space::holds(group[0].condition.as_ref(), &params) {
                let values = self.draw(&group, &good, &rest, &mut random);
                params.extend(group.iter().map(|parameter| parameter.name.clone()).zip(values));
            }
        }
        params
    }

    fn draw(&self, group: &[&Parameter], good: &[&Trial], rest: &[&Trial], random: &mut ChaCha8Rng) -> Vec<f64> {
        let observed = |trials: &[&Trial]| -> Vec<Vec<f64>> {
            let row =
                |trial: &&Trial| group.iter().map(|parameter| trial.params.get(&parameter.name).copied()).collect();
            trials.iter().filter_map(row).collect()
        };
        let (below, above) = (Parzen::new(group, &observed(good)), Parzen::new(group, &observed(rest)));
        let mut best = below.sample(random);
        let gain = |values: &[f64]| below.log_density(values) - above.log_density(values);
        let mut best_gain = gain(&best);
        for _ in 1..self.candidates {
            let values = below.sample(random);
            let found = gain(&values);
            if found > best_gain {
                (best, best_gain) = (values, found);
            }
        }
        best
    }
}

fn generator(seed: u64, number: u64) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(number);
    random
}

fn uniform(distribution: &Distribution, random: &mut impl Rng) -> f64 {
    match distribution {
        Distribution::Categorical { choices } => random.random_range(0..choices.len()) as f64,
        Distribution::Float { .. } | Distribution::Int { .. } => {
            let (low, high) = distribution.bounds();
            distribution.outer(low + (high - low) * random.random::<f64>())
        }
    }
}
