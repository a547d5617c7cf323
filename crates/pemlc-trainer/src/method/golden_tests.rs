//! Prefix and prompt methods against the numbers of PEFT.

use super::*;
use crate::adaptation::PrefixRows;
use crate::config::{FactorInit, PrefixInit, PromptConfig, PromptEncoder};
use crate::golden::{Golden, close};
use crate::parameters::{Group, host};
use burn::tensor::{Device, Int, Tensor, TensorData};
use pemlc_artifact::Family;
use std::collections::BTreeMap;

const FORWARD: f32 = 2e-5;
const GRADIENT: f32 = 2e-4;

/// Two layers of two heads of width 4.
fn model() -> ModelConfig {
    ModelConfig {
        family: Family::Llama,
        hidden_size: 8,
        intermediate_size: 8,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        num_key_value_heads: 2,
        head_dim: 4,
        vocab_size: 8,
        max_position_embeddings: 8,
        rms_norm_eps: 1e-6,
        rope_theta: 10_000.0,
        rope_scaling: None,
        tie_word_embeddings: true,
        bos_token_id: None,
        eos_token_ids: vec![],
        pad_token_id: None,
    }
}

/// A parameter: its name, shape and values in the golden file, and what our parameter is multiplied by in use.
type Part<'a> = (&'a str, &'a [usize], &'a str, f32);

fn parameters(golden: &Golden, parts: &[Part<'_>]) -> ParameterSet {
    let mut set = ParameterSet::new(&Device::flex());
    for (name, shape, theirs, scale) in parts {
        let values = golden.f32(&["params", theirs]).iter().map(|value| value / scale).collect();
        set.insert(*name, Group::Prefix, shape, values);
    }
    set
}

/// Compares `output` with `expected.output`, and the gradients of half its square with theirs.
fn check<const D: usize>(golden: &Golden, parts: &[Part<'_>], leaves: &Leaves, output: Tensor<D>) {
    close(&host(output.clone().inner()), &golden.f32(&["expected", "output"]), FORWARD);
    let gradients = gradients(leaves, output);
    for (name, _, theirs, scale) in parts {
        let ours: Vec<f32> = gradients[*name].iter().map(|value| value / scale).collect();
        close(&ours, &golden.f32(&["grads", theirs]), GRADIENT);
    }
}

fn gradients<const D: usize>(leaves: &Leaves, output: Tensor<D>) -> BTreeMap<String, Vec<f32>> {
    let mut gradients = (output.square().sum() * 0.5).backward();
    leaves.gradients(&mut gradients).into_iter().map(|(name, gradient)| (name, host(gradient))).collect()
}

/// Rows as PEFT lays them out for a batch of two, `[2, length, layer and (key, value) and head and dimension]`.
fn flat(rows: PrefixRows) -> Tensor<3> {
    let [_, layers, heads, length, width] = rows.key.dims();
    let both: Tensor<6> = Tensor::stack(vec![rows.key, rows.value], 2);
    let one: Tensor<3> = both.permute([0, 4, 1, 2, 3, 5]).reshape([1, length, layers * 2 * heads * width]);
    one.repeat_dim(0, 2)
}

fn prefix(width: usize, hidden: usize) -> PrefixShape {
    let config =
        PrefixConfig { length: 5, log_gate: false, init: PrefixInit::Cold, width, hidden, ..PrefixConfig::default() };
    PrefixShape { config, log_gate: 0.0, sets: 1, model: model() }
}

#[test]
fn a_table_of_rows_is_that_of_peft() {
    let golden = Golden::read("prefix_encoder.json");
    // [length, layer, key or value, head, dimension] to [layer, head, length, dimension].
    let table = golden.f32(&["params", "embedding.weight"]);
    let places = || (0..2).flat_map(|layer| (0..2).flat_map(move |head| (0..5).map(move |row| (layer, head, row))));
    let at = |half: usize, (layer, head, row): (usize, usize, usize)| row * 32 + layer * 16 + half * 8 + head * 4;
    let mut set = ParameterSet::new(&Device::flex());
    for (half, name) in ["prefix.key", "prefix.value"].into_iter().enumerate() {
        let values = places().flat_map(|place| table[at(half, place)..][..4].to_vec()).collect();
        set.insert(name, Group::Prefix, &[1, 2, 2, 5, 4], values);
    }
    set.insert("prefix.log_gate", Group::Constant, &[2], vec![0.0; 2]);
    let leaves = set.leaves();
    let rows = table::Table::new(prefix(1, 1)).adaptation(&leaves, &Moment::Evaluation).prefix.unwrap();
    let layer = |rows: &Tensor<5>, layer: usize| host(rows.clone().inner()).split_at(40 * layer).1[..40].to_vec();
    close(&layer(&rows.key, 0), &golden.f32(&["expected", "layer0_key_batch0[heads,L,head_dim]"]), FORWARD);
    close(&layer(&rows.value, 1), &golden.f32(&["expected", "layer1_value_batch0[heads,L,head_dim]"]), FORWARD);
    let output = flat(rows);
    close(&host(output.clone().inner()), &golden.f32(&["expected", "output"]), FORWARD);
    let gradients = gradients(&leaves, output);
    let expected = golden.f32(&["grads", "embedding.weight"]);
    for (half, name) in ["prefix.key", "prefix.value"].into_iter().enumerate() {
        let expected: Vec<f32> = places().flat_map(|place| expected[at(half, place)..][..4].to_vec()).collect();
        close(&gradients[name], &expected, GRADIENT);
    }
}

#[test]
fn the_mlp_of_prefix_tuning_is_that_of_peft() {
    let golden = Golden::read("prefix_encoder_mlp.json");
    let parts: [Part<'_>; 5] = [
        ("prefix_mlp.embedding", &[1, 5, 8], "embedding.weight", 1.0),
        ("prefix_mlp.w1", &[6, 8], "transform.0.weight", 1.0),
        ("prefix_mlp.b1", &[6], "transform.0.bias", 1.0),
        ("prefix_mlp.w2", &[32, 6], "transform.2.weight", prefix_mlp::output_scale(6)),
        ("prefix_mlp.b2", &[32], "transform.2.bias", 1.0),
    ];
    let mut set = parameters(&golden, &parts);
    set.insert("prefix.log_gate", Group::Constant, &[2], vec![0.0; 2]);
    let leaves = set.leaves();
    let method = prefix_mlp::PrefixMlp::new(prefix(8, 6));
    let rows = method.adaptation(&leaves, &Moment::Evaluation).prefix.unwrap();
    check(&golden, &parts, &leaves, flat(rows));
}

/// For three tasks, with embeddings of width `width`.
fn prompt(width: usize, sharing: PrefixSharing, config: PromptConfig) -> soft_prompt::PromptShape {
    let config = PromptConfig { length: 5, sharing, ..config };
    soft_prompt::PromptShape { config, init: PromptInit::Random, tasks: 3, width }
}

#[test]
fn the_mlp_of_p_tuning_is_that_of_peft() {
    let golden = Golden::read("ptuning_mlp.json");
    let parts: [Part<'_>; 7] = [
        ("p_tuning.embedding", &[1, 5, 6], "embedding.weight", 1.0),
        ("p_tuning.mlp.0.weight", &[4, 6], "mlp_head.0.weight", 1.0),
        ("p_tuning.mlp.0.bias", &[4], "mlp_head.0.bias", 1.0),
        ("p_tuning.mlp.1.weight", &[4, 4], "mlp_head.2.weight", 1.0),
        ("p_tuning.mlp.1.bias", &[4], "mlp_head.2.bias", 1.0),
        ("p_tuning.mlp.2.weight", &[6, 4], "mlp_head.4.weight", prefix_mlp::output_scale(4)),
        ("p_tuning.mlp.2.bias", &[6], "mlp_head.4.bias", 1.0),
    ];
    let config = PromptConfig { hidden: Some(4), ..PromptConfig::default() };
    let leaves = parameters(&golden, &parts).leaves();
    let method = p_tuning::PTuning::new(prompt(6, PrefixSharing::Shared, config));
    check(&golden, &parts, &leaves, method.adaptation(&leaves, &Moment::Evaluation).prompt.unwrap());
}

#[test]
fn the_lstm_of_p_tuning_is_that_of_peft() {
    let golden = Golden::read("ptuning_lstm.json");
    let parts: [Part<'_>; 13] = [
        ("p_tuning.embedding", &[1, 5, 6], "embedding.weight", 1.0),
        ("p_tuning.lstm.0.forward.weight_ih", &[16, 6], "lstm_head.weight_ih_l0", 1.0),
        ("p_tuning.lstm.0.forward.weight_hh", &[16, 4], "lstm_head.weight_hh_l0", 1.0),
        ("p_tuning.lstm.0.forward.bias_ih", &[16], "lstm_head.bias_ih_l0", 1.0),
        ("p_tuning.lstm.0.forward.bias_hh", &[16], "lstm_head.bias_hh_l0", 1.0),
        ("p_tuning.lstm.0.backward.weight_ih", &[16, 6], "lstm_head.weight_ih_l0_reverse", 1.0),
        ("p_tuning.lstm.0.backward.weight_hh", &[16, 4], "lstm_head.weight_hh_l0_reverse", 1.0),
        ("p_tuning.lstm.0.backward.bias_ih", &[16], "lstm_head.bias_ih_l0_reverse", 1.0),
        ("p_tuning.lstm.0.backward.bias_hh", &[16], "lstm_head.bias_hh_l0_reverse", 1.0),
        ("p_tuning.mlp.0.weight", &[8, 8], "mlp_head.0.weight", 1.0),
        ("p_tuning.mlp.0.bias", &[8], "mlp_head.0.bias", 1.0),
        ("p_tuning.mlp.1.weight", &[6, 8], "mlp_head.2.weight", prefix_mlp::output_scale(8)),
        ("p_tuning.mlp.1.bias", &[6], "mlp_head.2.bias", 1.0),
    ];
    let config =
        PromptConfig { encoder: PromptEncoder::Lstm, hidden: Some(4), lstm_layers: 1, ..PromptConfig::default() };
    let leaves = parameters(&golden, &parts).leaves();
    let method = p_tuning::PTuning::new(prompt(6, PrefixSharing::Shared, config));
    check(&golden, &parts, &leaves, method.adaptation(&leaves, &Moment::Evaluation).prompt.unwrap());
}

#[test]
fn multitask_prompts_are_those_of_peft() {
    for (file, rank) in [("mpt_rank1.json", 1), ("mpt_rank2.json", 2)] {
        let golden = Golden::read(file);
        let (u, v) = ([3, 5, rank], [3, rank, 8]);
        let parts: [Part<'_>; 3] = [
            ("mpt.shared", &[1, 5, 8], "embedding.weight", 1.0),
            ("mpt.u", &u, "prefix_task_cols", 1.0),
            ("mpt.v", &v, "prefix_task_rows", 1.0),
        ];
        let leaves = parameters(&golden, &parts).leaves();
        let method = mpt::Mpt::new(prompt(8, PrefixSharing::PerTask, PromptConfig { rank, ..PromptConfig::default() }));
        let prompts = method.adaptation(&leaves, &Moment::Evaluation).prompt.unwrap();
        let tasks = golden.i64(&["inputs", "task_ids"]);
        let tasks: Tensor<1, Int> = Tensor::from_data(TensorData::new(tasks, [4]), &Device::flex());
        check(&golden, &parts, &leaves, prompts.select(0, tasks));
    }
}

/// Fresh factors give every task the shared prompt, or nearly none as in PEFT, whatever their rank.
#[test]
fn fresh_factors_are_near_ones_or_near_zeros() {
    for (factor_init, expected) in [(FactorInit::Ones, 1.0), (FactorInit::Small, 0.0)] {
        for rank in [1, 4] {
            let config = PromptConfig { rank, factor_init, ..PromptConfig::default() };
            let method = mpt::Mpt::new(prompt(8, PrefixSharing::PerTask, config));
            let mut set = ParameterSet::new(&Device::flex());
            method.initialize_cold(1, &mut set);
            let prompts = host(method.adaptation(&set.constants(), &Moment::Evaluation).prompt.unwrap());
            let shared = set.values("mpt.shared").into_iter().cycle();
            for (value, shared) in prompts.into_iter().zip(shared) {
                assert!((value - expected * shared).abs() < 0.2 * shared.abs() + 1e-6, "{value} of {shared}");
            }
        }
    }
}

#[test]
fn trainable_parameters_are_those_of_the_formulas() {
    let count = |method: &dyn Method| {
        let mut set = ParameterSet::new(&Device::flex());
        method.initialize_cold(1, &mut set);
        set.count()
    };
    // L 5, D 6, h 4, T 3, q 2; two layers with keys of width 8.
    let config = |encoder| PromptConfig { encoder, hidden: Some(4), rank: 2, ..PromptConfig::default() };
    let per_task = |encoder| prompt(6, PrefixSharing::PerTask, config(encoder));
    let mlp = || per_task(PromptEncoder::Mlp);
    assert_eq!(count(&prompt_tuning::PromptTuning::new(mlp())), 3 * 5 * 6);
    assert_eq!(count(&mpt::Mpt::new(mlp())), 5 * 6 + 3 * 2 * (5 + 6));
    let head = (4 + 1) * 6;
    assert_eq!(count(&p_tuning::PTuning::new(mlp())), 3 * 5 * 6 + (6 + 1) * 4 + (4 + 1) * 4 + head);
    let lstm = 2 * 4 * 4 * (6 + 4 + 2) + 2 * 4 * 4 * (8 + 4 + 2);
    let head = (8 + 1) * 8 + (8 + 1) * 6;
    assert_eq!(count(&p_tuning::PTuning::new(per_task(PromptEncoder::Lstm))), 3 * 5 * 6 + lstm + head);
    assert_eq!(count(&prefix_mlp::PrefixMlp::new(prefix(6, 4))), 5 * 6 + 6 * 4 + 4 + (4 + 1) * 2 * 2 * 8);
}
