//! Each method against the numbers of its authors' or PEFT's code, on one projection of 8 inputs and 6 outputs: output, and gradients of
//! half its square.

use super::poly::relaxed_bernoulli;
use super::*;
use crate::config::{AdaLoraConfig, CPolyConfig, MoeLoraConfig, MtlLoraConfig, MultiLoraConfig};
use crate::golden::{Golden, close};
use burn::tensor::{Device, TensorData};
use std::collections::BTreeMap;

const FORWARD: f32 = 2e-5;
const GRADIENT: f32 = 2e-4;

fn site() -> Site {
    Site { layer: 0, projection: Projection::QProj, inputs: 8, outputs: 6 }
}

/// Our parameter, its shape, and its name among the golden parameters and among the golden gradients.
type Part<'a> = (&'a str, &'a [usize], &'a str, &'a str);

fn parameters(golden: &Golden, parts: &[Part<'_>]) -> ParameterSet {
    let mut set = ParameterSet::new(&Device::flex());
    for (name, shape, theirs, _) in parts {
        set.insert(site().name(name), Group::Lora, shape, golden.f32(&["params", theirs]));
    }
    set
}

fn constant<const D: usize>(golden: &Golden, path: &[&str], shape: [usize; D]) -> Tensor<D> {
    let data = TensorData::new(golden.f32(path), shape);
    Tensor::from_data(data, (&Device::flex(), burn::tensor::DType::F32))
}

/// `x W^T + b` plus the products, each row by its own set, or all by the only one.
fn output(golden: &Golden, base: [&str; 2], pairs: Vec<[Tensor<3>; 2]>, scale: f64) -> Tensor<3> {
    let x: Tensor<3> = constant(golden, &["inputs", "x"], [4, 3, 8]).autodiff();
    let weight: Tensor<2> = constant(golden, &["params", base[0]], [6, 8]).autodiff();
    let bias: Tensor<1> = constant(golden, &["params", base[1]], [6]).autodiff();
    let mut y = x.clone().matmul(weight.transpose().unsqueeze()) + bias.unsqueeze();
    for [a, b] in pairs {
        let by_row = |factor: Tensor<3>| {
            let [sets, rows, columns] = factor.dims();
            match sets {
                1 => factor.expand([4, rows, columns]),
                _ => {
                    let tasks = golden.i64(&["inputs", "task_ids"]);
                    let row = |task: i64| factor.clone().narrow(0, task as usize, 1);
                    Tensor::cat(tasks.into_iter().map(row).collect(), 0)
                }
            }
        };
        y = y + x.clone().matmul(by_row(a).swap_dims(1, 2)).matmul(by_row(b).swap_dims(1, 2)) * scale as f32;
    }
    y
}

/// Compares with `expected.output` and `grads`. Returns the gradients of other parameters.
fn check(golden: &Golden, parts: &[Part<'_>], leaves: &Leaves, output: Tensor<3>) -> BTreeMap<String, Tensor<1>> {
    close(&host(output.clone().inner()), &golden.f32(&["expected", "output"]), FORWARD);
    let mut gradients = (output.square().sum() * 0.5).backward();
    let mut gradients = leaves.gradients(&mut gradients);
    for (name, _, _, theirs) in parts {
        let ours = gradients.remove(&site().name(name)).expect("every parameter has a gradient");
        close(&host(ours), &golden.f32(&["grads", theirs]), GRADIENT);
    }
    gradients
}

/// Evaluates `factors` with the golden parameters and compares.
fn compare(golden: &Golden, factors: &impl Factors, base: [&str; 2], parts: &[Part<'_>]) {
    let leaves = parameters(golden, parts).leaves();
    let pairs = factors.factors(&site(), &leaves, &Moment::Evaluation);
    check(golden, parts, &leaves, output(golden, base, pairs, factors.scale()));
}

const BASE: [&str; 2] = ["base.weight", "base.bias"];

#[test]
fn rslora_is_that_of_peft() {
    let golden = Golden::read("rslora.json");
    let model =
        ModelConfig { num_hidden_layers: 1, num_attention_heads: 3, head_dim: 2, ..super::export_tests::model() };
    let targets = vec![Projection::QProj];
    let config = LoraConfig { rank: 4, alpha: 16.0, targets, ..LoraConfig::default() };
    let method = lora::Lora::rank_stabilized(config, model, 1);
    let mut set = ParameterSet::new(&Device::flex());
    let names = ["a", "b"].map(|factor| format!("lora.shared.0.q_proj.{factor}"));
    set.insert(names[0].clone(), Group::Lora, &[1, 4, 8], golden.f32(&["params", "A"]));
    set.insert(names[1].clone(), Group::Lora, &[1, 6, 4], golden.f32(&["params", "B"]));
    let leaves = set.leaves();
    let adaptation = method.adaptation(&leaves, &Moment::Evaluation);
    let delta = &adaptation.deltas[&(0, Projection::QProj)][0];
    let pairs = vec![[delta.a.clone(), delta.b.clone()]];
    let gradients = check(&golden, &[], &leaves, output(&golden, BASE, pairs, f64::from(delta.scale)));
    for (name, theirs) in names.iter().zip(["A", "B"]) {
        close(&host(gradients[name].clone()), &golden.f32(&["grads", theirs]), GRADIENT);
    }
}

#[test]
fn adalora_is_that_of_peft() {
    let config = AdaLoraConfig { initial_rank: 4, ..AdaLoraConfig::default() };
    let parts: [Part<'_>; 3] =
        [("a", &[4, 8], "A", "A"), ("e", &[4, 1], "E_before_masking", "E"), ("b", &[6, 4], "B", "B")];
    compare(&Golden::read("adalora.json"), &AdaLora { config, alpha: 8.0, steps: 100 }, BASE, &parts);
}

#[test]
fn mtl_lora_is_that_of_its_authors() {
    for (file, diagonal, temperature, lambda) in
        [("mtl_lora_full.json", false, 0.1, &[3, 4, 4][..]), ("mtl_lora_diag.json", true, 0.5, &[3, 4])]
    {
        let config = MtlLoraConfig { experts: 2, temperature, diagonal };
        let method = MtlLora { config, rank: 4, alpha: 8.0, tasks: 3 };
        let parts: [Part<'_>; 4] = [
            ("a", &[4, 8], "lora_A", "lora_A"),
            ("lambda", lambda, "lora_lambdas", "lora_lambdas"),
            ("b", &[2, 6, 4], "lora_B", "lora_B"),
            ("mix", &[3, 2], "lora_B_w", "lora_B_w"),
        ];
        compare(&Golden::read(file), &method, BASE, &parts);
    }
}

#[test]
fn multilora_is_that_of_the_mtl_lora_repository() {
    let method = MultiLora { config: MultiLoraConfig { parallel: 3 }, rank: 2, alpha: 4.0 };
    let parts: [Part<'_>; 3] = [
        ("a", &[3, 2, 8], "lora_A", "lora_A"),
        ("b", &[3, 6, 2], "lora_B", "lora_B"),
        ("scales", &[3, 6], "lora_scaling", "lora_scaling"),
    ];
    compare(&Golden::read("multilora.json"), &method, BASE, &parts);
}

#[test]
fn moelora_is_that_of_its_authors() {
    let golden = Golden::read("moe_lora.json");
    let method = MoeLora { config: MoeLoraConfig { experts: 2, embedding: 5 }, rank: 4, alpha: 8.0, tasks: 4 };
    // The published embedding has a row more than there are tasks.
    let parts: [Part<'_>; 2] = [
        ("task_embedding", &[4, 5], "lora_task_embedding.weight", "lora_task_embedding.weight"),
        ("gate", &[2, 5], "lora_gate.GateL.weight", "lora_gate.GateL.weight"),
    ];
    let mut set = parameters(&golden, &parts);
    let expert = |kind: &str, factor: &str, index: usize| {
        golden.f32(&[kind, &format!("lora_{factor}.lora{factor}.{index}.weight")])
    };
    let both = |kind: &str, factor: &str| [expert(kind, factor, 0), expert(kind, factor, 1)].concat();
    set.insert(site().name("a"), Group::Lora, &[2, 2, 8], both("params", "A"));
    set.insert(site().name("b"), Group::Lora, &[2, 6, 2], both("params", "B"));
    let leaves = set.leaves();
    let gates = host(method.gates(&site(), &leaves).inner());
    let tasks = golden.i64(&["inputs", "task_ids"]);
    let of_rows: Vec<f32> = tasks.iter().flat_map(|task| gates[2 * *task as usize..][..2].to_vec()).collect();
    close(&of_rows, &golden.f32(&["expected", "gate[b,expert]"]), FORWARD);
    let pairs = method.factors(&site(), &leaves, &Moment::Evaluation);
    let output = output(&golden, ["weight", "bias"], pairs, method.scale());
    let gradients = check(&golden, &parts, &leaves, output);
    for (name, factor) in [("a", "A"), ("b", "B")] {
        close(&host(gradients[&site().name(name)].clone()), &both("grads", factor), GRADIENT);
    }
}

fn poly(splits: usize) -> Poly {
    Poly { config: PolyConfig { skills: 3, splits, noise: true }, rank: 2, alpha: 1.0, tasks: 3 }
}

#[test]
fn poly_and_multi_head_routing_are_those_of_peft() {
    for (file, splits, a, b, logits) in [
        ("poly_eval.json", 1, &[1, 3, 8, 2][..], &[1, 3, 2, 6][..], &[3, 3][..]),
        ("poly_mhr_eval.json", 2, &[2, 3, 4, 2], &[2, 3, 2, 3], &[3, 6]),
    ] {
        let parts: [Part<'_>; 3] = [
            ("skills.a", a, "A[split,skill,in/split,r]", "A"),
            ("skills.b", b, "B[split,skill,r,out/split]", "B"),
            ("skills.logits", logits, "logits[task,split*skill]", "logits"),
        ];
        compare(&Golden::read(file), &poly(splits), BASE, &parts);
    }
}

/// PEFT draws a gate for each row, we for each task: the same function of the draw.
#[test]
fn a_noisy_gate_is_a_relaxed_bernoulli() {
    let golden = Golden::read("poly_train_noise.json");
    let parts: [Part<'_>; 3] = [
        ("skills.a", &[1, 3, 8, 2], "A[split,skill,in/split,r]", "A"),
        ("skills.b", &[1, 3, 2, 6], "B[split,skill,r,out/split]", "B"),
        ("skills.logits", &[3, 3], "logits[task,split*skill]", "logits"),
    ];
    let leaves = parameters(&golden, &parts).leaves();
    let logits = leaves.get::<2>(&site().name("skills.logits"));
    let rows = golden.i64(&["inputs", "task_ids"]).into_iter().map(|task| logits.clone().narrow(0, task as usize, 1));
    let rows = Tensor::cat(rows.collect(), 0).reshape([4, 1, 3]);
    let u = golden.f32(&["inputs", "uniform_noise_u"]);
    let noise: Vec<f32> = u.into_iter().map(|u| u.ln() - (1.0 - u).ln()).collect();
    let noise = Tensor::<3>::from_data(TensorData::new(noise, [4, 1, 3]), (&Device::flex(), burn::tensor::DType::F32));
    let weights = super::poly::weights(relaxed_bernoulli(rows, noise.autodiff(), 1.0));
    close(&host(weights.clone().inner()), &golden.f32(&["expected", "mixing_weights[b,split,skill]"]), FORWARD);
    let [a, b] = poly(1).mix(&site(), &leaves, weights);
    // One set a row.
    let x: Tensor<3> = constant(&golden, &["inputs", "x"], [4, 3, 8]).autodiff();
    let base = output(&golden, BASE, vec![], 1.0);
    let y = base + x.matmul(a.swap_dims(1, 2)).matmul(b.swap_dims(1, 2)) * 0.5;
    check(&golden, &parts, &leaves, y);
}

/// The file has the gate at temperature 0.5; at 1 it is in the test above.
#[test]
fn a_gate_of_another_temperature_is_torchs() {
    let golden = Golden::read("relaxed_bernoulli.json");
    let mut set = ParameterSet::new(&Device::flex());
    set.insert("logits", Group::Lora, &[6], golden.f32(&["inputs", "logits"]));
    let leaves = set.leaves();
    let noise: Vec<f32> = golden.f32(&["inputs", "u"]).into_iter().map(|u| u.ln() - (1.0 - u).ln()).collect();
    let noise = crate::parameters::vector(noise, set.device()).autodiff();
    let temperature = golden.number(&["config", "temperature"]) as f32;
    let sample = relaxed_bernoulli(leaves.get::<1>("logits"), noise, temperature);
    close(&host(sample.clone().inner()), &golden.f32(&["expected", "sample"]), FORWARD);
    let factors = crate::parameters::vector((0..6).map(|index| index as f32).collect(), set.device()).autodiff();
    let gradient = leaves.gradients(&mut (sample * factors).sum().backward()).remove("logits");
    let expected = golden.f32(&["expected", "grad_logits_of_sum(sample*[0..5])"]);
    close(&host(gradient.expect("logits have a gradient")), &expected, GRADIENT);
}

#[test]
fn noise_is_a_function_of_seed_and_batch() {
    let golden = Golden::read("poly_eval.json");
    let parts: [Part<'_>; 3] = [
        ("skills.a", &[1, 3, 8, 2], "A[split,skill,in/split,r]", "A"),
        ("skills.b", &[1, 3, 2, 6], "B[split,skill,r,out/split]", "B"),
        ("skills.logits", &[3, 3], "logits[task,split*skill]", "logits"),
    ];
    let leaves = parameters(&golden, &parts).constants();
    let draw = |seed, batch| host(poly(1).factors(&site(), &leaves, &Moment::Training { seed, batch })[0][0].clone());
    assert_eq!(draw(1, 2), draw(1, 2));
    assert_ne!(draw(1, 2), draw(1, 3));
    assert_ne!(draw(1, 2), draw(2, 2));
}

#[test]
fn c_poly_is_a_composition_of_pefts_modules() {
    let common = Poly { config: PolyConfig { skills: 2, splits: 1, noise: true }, rank: 2, alpha: 1.0, tasks: 3 };
    let method = CPoly { config: CPolyConfig { common: 2, own: 1, noise: true }, common };
    let parts: [Part<'_>; 6] = [
        ("skills.a", &[1, 2, 8, 2], "common.A[1,skill,in,r]", "common.A"),
        ("skills.b", &[1, 2, 2, 6], "common.B[1,skill,r,out]", "common.B"),
        ("skills.logits", &[3, 2], "common.logits", "common.logits"),
        ("own.a", &[3, 2, 8], "specific.A[task,r,in]", "specific.A"),
        ("own.b", &[3, 6, 2], "specific.B[task,out,r]", "specific.B"),
        ("own.weights", &[3, 3], "W_B[task,task]", "W_B"),
    ];
    compare(&Golden::read("cpoly_composed.json"), &method, BASE, &parts);
}
