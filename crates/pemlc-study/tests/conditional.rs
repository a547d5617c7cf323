//! Parameters that exist only under a choice.

use pemlc_study::{Condition, Distribution, Parameter, Space, TpeSampler, Trial, TrialState};
use proptest::prelude::*;
use serde_json::json;
use std::collections::BTreeMap;

fn space() -> Space {
    let under = |choice| Some(Condition { parent: "search".to_owned(), choice });
    let parameter = |name: &str, distribution, condition| Parameter { name: name.to_owned(), distribution, condition };
    Space::new(vec![
        parameter("search", Distribution::Categorical { choices: vec![json!(false), json!(true)] }, None),
        parameter("rank", Distribution::Int { low: 4, high: 64, step: 1, log: true }, None),
        parameter("rate", Distribution::Float { low: 1e-3, high: 1e-1, log: true }, under(1)),
        parameter("nodes", Distribution::Int { low: 1, high: 4, step: 1, log: false }, under(1)),
    ])
    .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn every_trial_lies_in_the_space(seed in any::<u64>()) {
        let (space, sampler) = (space(), TpeSampler::new(seed));
        let mut trials: Vec<Trial> = Vec::new();
        for number in 0..30 {
            let params = sampler.sample(&space, &trials, number);
            prop_assert!((4.0..=64.0).contains(&params["rank"]) && params["rank"].fract() == 0.0);
            prop_assert_eq!(params.contains_key("rate"), params["search"] == 1.0);
            prop_assert_eq!(params.contains_key("nodes"), params["search"] == 1.0);
            if let (Some(rate), Some(nodes)) = (params.get("rate"), params.get("nodes")) {
                prop_assert!((1e-3..=1e-1).contains(rate) && [1.0, 2.0, 3.0, 4.0].contains(nodes));
            }
            let value = Some(params["rank"] + params.get("nodes").copied().unwrap_or(0.0));
            trials.push(Trial { number, state: TrialState::Complete, params, value, intermediate: BTreeMap::new() });
        }
    }
}
