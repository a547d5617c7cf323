//! AdaLoRA's pruning against PEFT's.

use super::rank_allocation::{Allocation, KEPT};
use super::*;
use crate::config::AdaLoraConfig;
use crate::golden::{Golden, close};
use crate::parameters::vector;
use burn::tensor::Device;

fn config() -> AdaLoraConfig {
    let fractions = (0.1, 0.2);
    AdaLoraConfig {
        initial_rank: 4,
        target_rank: 2,
        initial_fraction: fractions.0,
        final_fraction: fractions.1,
        interval: 1,
        ..AdaLoraConfig::default()
    }
}

fn site(layer: usize) -> Site {
    Site { layer, projection: Projection::QProj, inputs: 8, outputs: 6 }
}

#[test]
fn the_budget_falls_as_pefts() {
    let allocation = Allocation::new(&config(), 100);
    let budgets = [1, 10, 11, 30, 50, 79, 80, 81, 100].map(|done| allocation.budget(done, 1));
    let expected =
        [(4, false), (4, false), (3, true), (2, true), (2, true), (2, true), (2, true), (2, true), (2, true)];
    assert_eq!(budgets, expected);
}

#[test]
fn pefts_triplets_are_kept() {
    let golden = Golden::read("adalora.json");
    let mut set = ParameterSet::new(&Device::flex());
    let mut gradients = GradientMap::new();
    for (name, shape, theirs, gradient) in
        [("a", [4, 8], "A", "A"), ("e", [4, 1], "E_before_masking", "E"), ("b", [6, 4], "B", "B")]
    {
        set.insert(site(0).name(name), Group::Lora, &shape, golden.f32(&["params", theirs]));
        gradients.insert(site(0).name(name), vector(golden.f32(&["grads", gradient]), set.device()));
    }
    // One step that is seen, one of those after the ranks have settled.
    let allocation = Allocation::new(&AdaLoraConfig { initial_fraction: 0.0, final_fraction: 0.0, ..config() }, 2);
    allocation.observe(&[site(0)], 1, &gradients, &mut set);
    allocation.observe(&[site(0)], 2, &gradients, &mut set);
    assert_eq!(set.values(&site(0).name(KEPT)), [0.0, 1.0, 1.0, 0.0]);
    assert_eq!(set.values(&site(0).name("e")), golden.f32(&["expected", "E_after_masking"]));
    // What the optimiser does to them afterwards is undone.
    set.insert(site(0).name("e"), Group::Lora, &[4, 1], vec![5.0; 4]);
    allocation.observe(&[site(0)], 3, &gradients, &mut set);
    assert_eq!(set.values(&site(0).name("e")), [0.0, 5.0, 5.0, 0.0]);
}

#[test]
fn rank_moves_to_the_projection_that_matters() {
    let method = AdaLora { config: config(), alpha: 8.0, steps: 10 };
    let sites = [site(0), site(1)];
    let mut set = ParameterSet::new(&Device::flex());
    sites.iter().for_each(|site| method.initialize(site, 1, &mut set));
    let gradient = |site: &Site, part: &str, size: f32| {
        let name = site.name(part);
        let count = set.values(&name).len();
        (name, vector(vec![size; count], set.device()))
    };
    // The second projection's gradients are a hundred times those of the first.
    let gradients: GradientMap = sites
        .iter()
        .zip([0.01, 1.0])
        .flat_map(|(site, size)| ["a", "e", "b"].map(|part| gradient(site, part, size)))
        .collect();
    (1..=10).for_each(|done| method.observe(&sites, done, &gradients, &mut set));
    let kept = sites.each_ref().map(|site| set.values(&site.name(KEPT)).into_iter().sum::<f32>());
    assert_eq!(kept, [0.0, 4.0]);
}

#[test]
fn orthonormal_vectors_cost_nothing_and_others_their_distance() {
    let method = AdaLora { config: AdaLoraConfig { initial_rank: 2, ..config() }, alpha: 8.0, steps: 10 };
    let penalty = |size: f32| {
        let mut set = ParameterSet::new(&Device::flex());
        let place = |columns: usize, first: bool| -> Vec<f32> {
            let one = |index: usize| if first { index / columns == index % columns } else { index / 2 == index % 2 };
            (0..2 * columns).map(|index| if one(index) { size } else { 0.0 }).collect()
        };
        set.insert(site(0).name("a"), Group::Lora, &[2, 8], place(8, true));
        set.insert(site(0).name("b"), Group::Lora, &[6, 2], place(6, false));
        host(method.penalty(&[site(0)], &set.constants()).expect("a weight above 0"))
    };
    close(&penalty(1.0), &[0.0], 1e-6);
    // Both Gram matrices are 4 I: ||3 I|| = 3 sqrt(2), the mean times 0.5.
    close(&penalty(2.0), &[1.5 * 2f32.sqrt()], 1e-6);
}
