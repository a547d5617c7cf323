//! Numbers that Optuna 5.0.0 gave.

use pemlc_study::{
    Asha, Distribution, Parameter, Parzen, Space, TpeSampler, Trial, TrialState, tpe_gamma, tpe_weights,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn golden() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/golden/tpe_asha.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value["data"].as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn parameter(name: &str, distribution: Distribution) -> Parameter {
    Parameter { name: name.to_owned(), distribution, condition: None }
}

fn space() -> Space {
    Space::new(vec![
        parameter("lr", Distribution::Float { low: 1e-5, high: 1e-2, log: true }),
        parameter("len", Distribution::Int { low: 4, high: 64, step: 4, log: false }),
        parameter("drop", Distribution::Float { low: 0.0, high: 0.5, log: false }),
        parameter("op", Distribution::Categorical { choices: vec![json!("a"), json!("b"), json!("c")] }),
    ])
    .unwrap()
}

fn columns(value: &Value, names: &[&Parameter]) -> Vec<Vec<f64>> {
    let columns: Vec<Vec<f64>> = names.iter().map(|parameter| numbers(&value[&parameter.name])).collect();
    (0..columns[0].len()).map(|row| columns.iter().map(|column| column[row]).collect()).collect()
}

#[track_caller]
fn close(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= 1e-10, "{found} is not {expected}");
    }
}

#[test]
fn densities() {
    let (golden, space) = (golden(), space());
    let densities = |parameters: &[&Parameter], observed: &[Vec<f64>]| -> Vec<f64> {
        let density = Parzen::new(parameters, observed);
        let at = columns(&golden["inputs"]["candidates"], parameters);
        at.iter().map(|values| density.log_density(values)).collect()
    };
    let expected = &golden["expected"];
    let all: Vec<&Parameter> = space.parameters().iter().collect();
    let observations = &golden["inputs"]["observations"];
    close(&densities(&all, &columns(observations, &all)), &numbers(&expected["joint_log_pdf"]));
    for one in &all {
        let observed = columns(observations, &[one]);
        close(&densities(&[one], &observed), &numbers(&expected["marginal_log_pdf"][&one.name]));
        close(&densities(&[one], &[]), &numbers(&expected["prior_only_log_pdf"][&one.name]));
    }
}

#[test]
fn gamma_and_weights() {
    let expected = &golden()["expected"];
    for pair in expected["default_gamma"].as_array().unwrap() {
        assert_eq!(tpe_gamma(pair[0].as_u64().unwrap() as usize) as u64, pair[1].as_u64().unwrap());
    }
    close(&tpe_weights(40), &numbers(&expected["default_weights_n=40"]));
}

#[test]
fn asha_prunes_the_same_trials() {
    let asha = Asha::new(3, vec![1, 3, 9, 27, 81]).unwrap();
    let mut rungs: BTreeMap<u64, BTreeMap<u32, f64>> = BTreeMap::new();
    for line in golden()["expected"]["asha_trial_step_value_pruned"].as_array().unwrap() {
        let (trial, step, value) = (line[0].as_u64().unwrap(), line[1].as_u64().unwrap(), line[2].as_f64().unwrap());
        let mut others: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
        for (_, reached) in rungs.iter().filter(|(other, _)| **other != trial) {
            reached.iter().for_each(|(rung, value)| others.entry(*rung).or_default().push(*value));
        }
        let pruned = asha.prune(step, value, rungs.entry(trial).or_default(), &others);
        assert_eq!(pruned, line[3].as_bool().unwrap(), "trial {trial} at step {step}");
    }
}

/// The recorded sampler trace depends on numpy's generator: what can be compared is that the search helps.
#[test]
fn finds_a_better_point_than_random_search() {
    let space = Space::new(vec![
        parameter("x", Distribution::Float { low: -2.0, high: 2.0, log: false }),
        parameter("y", Distribution::Float { low: 1e-3, high: 1.0, log: true }),
    ])
    .unwrap();
    let best = |startup: usize, seed: u64| {
        let sampler = TpeSampler { startup, ..TpeSampler::new(seed) };
        let mut trials: Vec<Trial> = Vec::new();
        for number in 0..40 {
            let params = sampler.sample(&space, &trials, number);
            let value = -((params["x"] - 0.4).powi(2) + (params["y"].ln() - 0.1_f64.ln()).powi(2) / 10.0);
            let (state, intermediate) = (TrialState::Complete, BTreeMap::new());
            trials.push(Trial { number, state, params, value: Some(value), intermediate });
        }
        trials.iter().filter_map(|trial| trial.value).fold(f64::NEG_INFINITY, f64::max)
    };
    let mean = |startup: usize| (0..8).map(|seed| best(startup, seed)).sum::<f64>() / 8.0;
    let (tpe, random) = (mean(10), mean(40));
    assert!(tpe > random, "{tpe} against {random}");
}
