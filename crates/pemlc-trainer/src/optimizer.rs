//! AdamW over a parameter set.
//!
//! Not burn's own optimiser: that one clips gradients per parameter rather than by their global norm, and restores its state to the
//! default device, which panics where that is a CUDA device that is not there.

use crate::parameters::{Group, ParameterSet, host, vector};
use burn::tensor::Tensor;
use pemlc_artifact::tensors::{NamedTensor, TensorMap, Values};
use std::collections::BTreeMap;

/// Gradients by parameter name, flat.
pub(crate) type GradientMap = BTreeMap<String, Tensor<1>>;

/// How one group is stepped.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rule {
    pub(crate) learning_rate: f64,
    pub(crate) betas: (f64, f64),
    pub(crate) weight_decay: f64,
}

const EPSILON: f32 = 1e-8;

/// Moments of one parameter, and how often it was stepped: parameters may join or leave a set during a run.
#[derive(Debug, Clone)]
struct Moments {
    first: Tensor<1>,
    second: Tensor<1>,
    steps: u64,
}

/// AdamW with decoupled weight decay.
#[derive(Debug, Clone, Default)]
pub(crate) struct AdamW {
    moments: BTreeMap<String, Moments>,
}

impl AdamW {
    /// One step. Parameters without a gradient stay as they are.
    pub(crate) fn step(&mut self, set: &mut ParameterSet, gradients: GradientMap, rule: impl Fn(Group) -> Rule) {
        for (name, gradient) in gradients {
            let Some(parameter) = set.parameters.get_mut(&name) else { continue };
            let Rule { learning_rate, betas: (beta1, beta2), weight_decay } = rule(parameter.group);
            let zeros = || gradient.zeros_like();
            let old =
                self.moments.remove(&name).unwrap_or_else(|| Moments { first: zeros(), second: zeros(), steps: 0 });
            let steps = old.steps + 1;
            let first = old.first * beta1 as f32 + gradient.clone() * (1.0 - beta1) as f32;
            let second = old.second * beta2 as f32 + gradient.square() * (1.0 - beta2) as f32;
            let correction = |beta: f64| 1.0 - beta.powf(steps as f64);
            let rate = (learning_rate / correction(beta1)) as f32;
            let root = (second.clone() * (1.0 / correction(beta2)) as f32).sqrt() + EPSILON;
            let update = first.clone() / root * rate;
            let kept = parameter.value.clone() * (1.0 - learning_rate * weight_decay) as f32;
            parameter.value = kept - update;
            self.moments.insert(name, Moments { first, second, steps });
        }
    }

    /// Forgets parameters that have left the set.
    pub(crate) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.moments.retain(|name, _| keep(name));
    }

    /// The state as named tensors: `first.NAME`, `second.NAME`, `steps.NAME`.
    pub(crate) fn to_map(&self) -> TensorMap {
        let mut map = TensorMap::new();
        for (name, moments) in &self.moments {
            for (kind, values) in [("first", &moments.first), ("second", &moments.second)] {
                let values = host(values.clone());
                map.insert(format!("{kind}.{name}"), NamedTensor::f32([values.len()], values));
            }
            map.insert(format!("steps.{name}"), NamedTensor::i64([1], vec![moments.steps as i64]));
        }
        map
    }

    /// Restores what [`to_map`](Self::to_map) gave, onto the set's device. The error names the tensor that is missing or wrong.
    pub(crate) fn from_map(mut map: TensorMap, set: &ParameterSet) -> Result<Self, String> {
        let mut moments = BTreeMap::new();
        for (name, parameter) in &set.parameters {
            let Some(steps) = map.remove(&format!("steps.{name}")) else { continue };
            let count: usize = parameter.shape.iter().product();
            let mut take = |kind: &str| match map.remove(&format!("{kind}.{name}")).map(|tensor| tensor.values) {
                Some(Values::F32(values)) if values.len() == count => Ok(vector(values, set.device())),
                _ => Err(format!("`{kind}.{name}` is missing or does not have {count} f32 values")),
            };
            let (first, second) = (take("first")?, take("second")?);
            let steps = match steps.values {
                Values::I64(values) if values.len() == 1 && values[0] >= 0 => values[0] as u64,
                _ => return Err(format!("`steps.{name}` is not one count")),
            };
            moments.insert(name.clone(), Moments { first, second, steps });
        }
        match map.keys().next() {
            None => Ok(Self { moments }),
            Some(name) => Err(format!("`{name}` belongs to no parameter")),
        }
    }
}

/// Adds `more` to `sum`.
pub(crate) fn accumulate(sum: &mut GradientMap, more: GradientMap) {
    for (name, gradient) in more {
        let total = match sum.remove(&name) {
            Some(old) => old + gradient,
            None => gradient,
        };
        sum.insert(name, total);
    }
}

/// The norm of all gradients together, summed in f64 in name order.
pub(crate) fn global_norm(gradients: &GradientMap) -> f64 {
    if gradients.is_empty() {
        return 0.0;
    }
    let sums: Vec<Tensor<1>> = gradients.values().map(|gradient| gradient.clone().square().sum()).collect();
    // One transfer from the device for all of them.
    host(Tensor::cat(sums, 0)).into_iter().map(f64::from).sum::<f64>().sqrt()
}

/// Scales the gradients down to a global norm of `limit` if theirs, `norm`, is larger.
pub(crate) fn clip(gradients: GradientMap, norm: f64, limit: f64) -> GradientMap {
    if norm <= limit {
        return gradients;
    }
    let scale = (limit / norm) as f32;
    gradients.into_iter().map(|(name, gradient)| (name, gradient * scale)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    const RULE: Rule = Rule { learning_rate: 0.1, betas: (0.9, 0.999), weight_decay: 0.01 };

    fn step(set: &mut ParameterSet, adam: &mut AdamW, gradient: [f32; 2]) {
        let gradient = GradientMap::from([("w".to_owned(), vector(gradient.to_vec(), set.device()))]);
        adam.step(set, gradient, |_| RULE);
    }

    fn set() -> ParameterSet {
        let mut set = ParameterSet::new(&Device::flex());
        set.insert("w", Group::Lora, &[2], vec![1.0, -2.0]);
        set
    }

    #[test]
    fn two_steps_are_those_of_the_update_rule() {
        let (mut set, mut adam) = (set(), AdamW::default());
        step(&mut set, &mut adam, [0.5, -1.0]);
        step(&mut set, &mut adam, [0.1, 2.0]);
        let expected = [expected_value(1.0, [0.5, 0.1]), expected_value(-2.0, [-1.0, 2.0])];
        for (value, expected) in set.values("w").into_iter().zip(expected) {
            assert!((f64::from(value) - expected).abs() < 1e-6, "{value} {expected}");
        }
    }

    /// The update rule in f64, as in the paper.
    fn expected_value(mut weight: f64, gradients: [f64; 2]) -> f64 {
        let (mut first, mut second) = (0.0, 0.0);
        for (index, gradient) in gradients.into_iter().enumerate() {
            let steps = index as i32 + 1;
            first = 0.9 * first + 0.1 * gradient;
            second = 0.999 * second + 0.001 * gradient * gradient;
            let (first, second) = (first / (1.0 - 0.9f64.powi(steps)), second / (1.0 - 0.999f64.powi(steps)));
            weight = weight * (1.0 - 0.1 * 0.01) - 0.1 * first / (second.sqrt() + 1e-8);
        }
        weight
    }

    #[test]
    fn a_restored_state_goes_on_bitwise() {
        let (mut set, mut adam) = (set(), AdamW::default());
        step(&mut set, &mut adam, [0.5, -1.0]);
        let (mut copy, mut restored) = (set.clone(), AdamW::from_map(adam.to_map(), &set).unwrap());
        step(&mut set, &mut adam, [0.1, 2.0]);
        step(&mut copy, &mut restored, [0.1, 2.0]);
        assert_eq!(set.values("w"), copy.values("w"));
        let mut map = adam.to_map();
        map.remove("second.w");
        assert_eq!(AdamW::from_map(map, &set).unwrap_err(), "`second.w` is missing or does not have 2 f32 values");
    }

    #[test]
    fn clipping_is_global() {
        let device = Device::flex();
        let gradients = GradientMap::from(
            [("a", [3.0, 0.0]), ("b", [0.0, 4.0])]
                .map(|(name, values): (&str, [f32; 2])| (name.to_owned(), vector(values.to_vec(), &device))),
        );
        let norm = global_norm(&gradients);
        assert!((norm - 5.0).abs() < 1e-12);
        let clipped = clip(gradients, norm, 1.0);
        assert!((global_norm(&clipped) - 1.0).abs() < 1e-6);
        assert!((host(clipped["a"].clone())[0] - 0.6).abs() < 1e-6);
    }
}
