mod experts;
mod magnitude;
mod prompt;

use super::*;
use crate::adaptation::{Adaptation, AdaptationGradient, Dropout, LowRank, PrefixRows};
use crate::config::BaseDtype;
use crate::golden::{Golden, close};
use crate::parameters::host;
use crate::random::Stream;
use burn::tensor::{DType, TensorData};
use pemlc_artifact::{Family, Projection};
use std::collections::BTreeMap;

fn device() -> Device {
    Device::flex()
}

fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), (&device(), DType::F32))
}

fn config(family: Family) -> ModelConfig {
    ModelConfig {
        family,
        hidden_size: 8,
        intermediate_size: 12,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        head_dim: 4,
        vocab_size: 16,
        max_position_embeddings: 32,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: None,
        tie_word_embeddings: true,
        bos_token_id: None,
        eos_token_ids: vec![],
        pad_token_id: None,
    }
}

/// Rotates keys `[heads, length, head_dim]` by `-shift` positions.
fn rotated_back(keys: &[f32], head_dim: usize, shift: f64) -> Vec<f32> {
    let mut out = keys.to_vec();
    let half = head_dim / 2;
    for row in out.chunks_mut(head_dim) {
        for i in 0..half {
            let angle = -shift * 10_000f64.powf(-2.0 * i as f64 / head_dim as f64);
            let (a, b) = (f64::from(row[i]), f64::from(row[i + half]));
            row[i] = (a * angle.cos() - b * angle.sin()) as f32;
            row[i + half] = (b * angle.cos() + a * angle.sin()) as f32;
        }
    }
    out
}

/// A Llama with a PEFT prefix, run by transformers. There tokens stand at `length + index`, pads counted; here at the number of
/// tokens before them, so each row's keys are turned back by its own difference.
#[test]
fn logits_and_prefix_gradient_of_a_llama_are_those_of_transformers() {
    let golden = Golden::read("prefix_llama_model.json");
    let config = ModelConfig {
        num_key_value_heads: 2,
        vocab_size: 13,
        rms_norm_eps: 1e-6,
        tie_word_embeddings: false,
        ..config(Family::Llama)
    };
    let backbone =
        Backbone::build(&config, &device(), BaseDtype::F32, |name, _| Ok::<_, ()>(golden.f32(&["params", name])))
            .unwrap();
    let (ids, mask) = (golden.i64(&["inputs", "input_ids"]), golden.i64(&["inputs", "attention_mask"]));
    let labels = golden.i64(&["inputs", "labels"]);
    let input = Input { rows: 2, length: 4, input_ids: &ids, attention_mask: &mask, task_ids: &[0, 1] };
    let visible: Vec<usize> = (0..8).filter(|&position| mask[position] == 1).collect();

    let all = golden.f32(&["expected", "logits_without_prefix"]);
    let expected = |all: &[f32]| visible.iter().flat_map(|p| all[p * 13..(p + 1) * 13].to_vec()).collect::<Vec<_>>();
    close(&backbone.logits(&input, &visible, &Adaptation::default()), &expected(&all), 2e-5);

    // [row, layer, key or value, head, dimension] to [layer, head, row, dimension].
    let (length, table) = (3, golden.f32(&["params", "prefix.embedding"]));
    let index = |layer: usize, half: usize, head: usize, row: usize| row * 32 + layer * 16 + half * 8 + head * 4;
    let places = || (0..2).flat_map(|layer| (0..2).flat_map(move |head| (0..3).map(move |row| (layer, head, row))));
    let rows = |half: usize| -> Vec<f32> {
        places().flat_map(|(layer, head, row)| table[index(layer, half, head, row)..][..4].to_vec()).collect()
    };
    let shifts = [0, 1].map(|row: usize| 3.0 + mask[row * 4..][..4].iter().filter(|&&m| m == 0).count() as f64);
    let keys: Vec<f32> = shifts.iter().flat_map(|&shift| rotated_back(&rows(0), 4, shift)).collect();
    let values = [rows(1), rows(1)].concat();
    let adaptation = Adaptation {
        prefix: Some(PrefixRows {
            key: tensor(keys, [2, 2, 2, length, 4]),
            value: tensor(values, [2, 2, 2, length, 4]),
            log_gate: tensor(vec![0.0; 12], [2, 2, length]),
        }),
        ..Adaptation::default()
    };
    let all = golden.f32(&["expected", "logits"]);
    close(&backbone.logits(&input, &visible, &adaptation), &expected(&all), 2e-5);

    // Token i predicts label i + 1.
    let queries: Vec<Query> = (0..8)
        .filter(|position| position % 4 < 3 && labels[position + 1] >= 0)
        .map(|position| Query { position, token: labels[position + 1] as u32 })
        .collect();
    let count = queries.len() as f64;
    let (loss, gradient) = backbone.gradient(&input, &queries, &adaptation, 1.0 / count as f32);
    assert!((loss / count - golden.number(&["expected", "loss_token_mean_ce"])).abs() < 1e-5, "{}", loss / count);
    let (key, value, _) = gradient.prefix.unwrap();
    let (key, value) = (host(key), host(value));
    let half = key.len() / 2;
    let mut found = vec![0.0; table.len()];
    for (set, shift) in shifts.into_iter().enumerate() {
        let keys = rotated_back(&key[set * half..][..half], 4, -shift);
        for (at, (layer, head, row)) in places().enumerate() {
            for dimension in 0..4 {
                found[index(layer, 0, head, row) + dimension] += keys[at * 4 + dimension];
                found[index(layer, 1, head, row) + dimension] += value[set * half + at * 4 + dimension];
            }
        }
    }
    close(&found, &golden.f32(&["grads", "prefix.embedding"]), 2e-5);
}

#[test]
fn a_low_rank_delta_is_that_of_peft() {
    let golden = Golden::read("lora.json");
    let f32 = |kind, name| golden.f32(&[kind, name]);
    let linear = linear::Linear {
        weight: tensor(f32("params", "base.weight"), [6, 8]),
        bias: Some(tensor(f32("params", "base.bias"), [6])),
    };
    let delta = LowRank {
        a: tensor(f32("params", "A"), [1, 4, 8]),
        b: tensor(f32("params", "B"), [1, 6, 4]),
        scale: golden.number(&["expected", "scaling"]) as f32,
        dropout: None,
    };
    let backbone = Backbone::random(&config(Family::Llama), 1, &device(), BaseDtype::F32);
    let input = Input { rows: 4, length: 3, input_ids: &[0; 12], attention_mask: &[1; 12], task_ids: &[2, 0, 1, 2] };
    let geometry = input::Geometry::new(&backbone, &shard::Shard::whole(&input), DType::F32, 0);
    let x = tensor(f32("inputs", "x"), [12, 8]);
    // The same factors as the private ones of three tasks must give the same, and gradients that add up to the shared one's.
    let private = LowRank { a: delta.a.clone().repeat_dim(0, 3), b: delta.b.clone().repeat_dim(0, 3), ..delta.clone() };
    for delta in [delta, private] {
        let deltas = [delta];
        let (y, saved) = linear.forward(x.clone(), &deltas, None, &geometry);
        close(&host(y.clone()), &f32("expected", "output"), 2e-5);
        let (into_x, into) = linear.backward(x.clone(), &deltas, None, saved, y, &geometry);
        close(&host(into_x), &f32("grads", "x"), 2e-4);
        let (a, b) = into.deltas.into_iter().next().unwrap();
        close(&host(a.sum_dim(0)), &f32("grads", "A"), 2e-4);
        close(&host(b.sum_dim(0)), &f32("grads", "B"), 2e-4);
    }
}

struct Case {
    backbone: Backbone,
    ids: Vec<i64>,
    mask: Vec<i64>,
    queries: Vec<Query>,
    /// Flat values by (name, shape).
    values: BTreeMap<String, Vec<f32>>,
    sets: usize,
    dropout: f32,
}

impl Case {
    fn new(family: Family, sets: usize, dropout: f32) -> Self {
        let backbone = Backbone::random(&config(family), 5, &device(), BaseDtype::F32);
        let mut stream = Stream::new(3, "case", 0);
        let ids = (0..15).map(|_| (stream.unit() * 16.0) as i64).collect();
        // The second row is padded on the right, the third on the left.
        let mask = vec![1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 1, 1, 1, 1];
        let queries = [(2, 3), (4, 7), (6, 1), (7, 15), (12, 2), (14, 9)];
        let queries = queries.map(|(position, token)| Query { position, token }).to_vec();
        let mut values = BTreeMap::new();
        for layer in 0..2 {
            for projection in Projection::ALL {
                let (inputs, outputs) = projection.features(backbone.config());
                values.insert(format!("{layer}.{}.a", projection.name()), stream.normal(sets * 2 * inputs, 0.4));
                values.insert(format!("{layer}.{}.b", projection.name()), stream.normal(sets * 2 * outputs, 0.4));
            }
        }
        values.insert("key".to_owned(), stream.normal(sets * 2 * 3 * 4, 1.0));
        values.insert("value".to_owned(), stream.normal(sets * 2 * 3 * 4, 1.0));
        values.insert("gate".to_owned(), stream.normal(sets * 2 * 3, 1.0));
        Self { backbone, ids, mask, queries, values, sets, dropout }
    }

    fn input(&self) -> Input<'_> {
        Input { rows: 3, length: 5, input_ids: &self.ids, attention_mask: &self.mask, task_ids: &[1, 0, 1] }
    }

    fn adaptation(&self, values: &BTreeMap<String, Vec<f32>>) -> Adaptation {
        let sets = self.sets;
        let mut deltas = BTreeMap::new();
        for layer in 0..2 {
            for projection in Projection::ALL {
                let (inputs, outputs) = projection.features(self.backbone.config());
                let name = format!("{layer}.{}", projection.name());
                let dropout =
                    (self.dropout > 0.0).then(|| Dropout { rate: self.dropout, seed: 1, step: 2, name: name.clone() });
                let delta = LowRank {
                    a: tensor(values[&format!("{name}.a")].clone(), [sets, 2, inputs]),
                    b: tensor(values[&format!("{name}.b")].clone(), [sets, outputs, 2]),
                    scale: 0.7,
                    dropout,
                };
                deltas.insert((layer, projection), vec![delta]);
            }
        }
        let prefix = PrefixRows {
            key: tensor(values["key"].clone(), [sets, 2, 1, 3, 4]),
            value: tensor(values["value"].clone(), [sets, 2, 1, 3, 4]),
            log_gate: tensor(values["gate"].clone(), [sets, 2, 3]),
        };
        let adaptation = Adaptation {
            deltas,
            magnitudes: self.magnitudes(values),
            routing: self.routing(values),
            ..Adaptation::default()
        };
        match values.get("prompt") {
            Some(prompt) => Adaptation { prompt: Some(tensor(prompt.clone(), [sets, 3, 8])), ..adaptation },
            None => Adaptation { prefix: Some(prefix), ..adaptation },
        }
    }

    fn loss(&self, values: &BTreeMap<String, Vec<f32>>) -> (f64, AdaptationGradient) {
        self.backbone.gradient(&self.input(), &self.queries, &self.adaptation(values), 1.0)
    }
}

/// Gradients by the names of [`Case::values`].
fn by_name(gradient: AdaptationGradient) -> BTreeMap<String, Vec<f32>> {
    let mut found = BTreeMap::new();
    for ((layer, projection), mut factors) in gradient.deltas {
        let (a, b) = factors.remove(0);
        found.insert(format!("{layer}.{}.a", projection.name()), host(a));
        found.insert(format!("{layer}.{}.b", projection.name()), host(b));
    }
    if let Some((key, value, gate)) = gradient.prefix {
        found.extend([("key", key), ("value", value)].map(|(name, rows)| (name.to_owned(), host(rows))));
        found.insert("gate".to_owned(), host(gate));
    }
    for ((layer, projection), magnitude) in gradient.magnitudes {
        found.insert(format!("{layer}.{}.m", projection.name()), host(magnitude));
    }
    if let Some(routing) = gradient.routing {
        found.insert("router".to_owned(), host(routing.routers));
        for (index, expert) in routing.experts.into_iter().enumerate() {
            found.extend(by_name(expert).into_iter().map(|(name, values)| (format!("expert {index}.{name}"), values)));
        }
    }
    found.extend(gradient.prompt.map(|prompt| ("prompt".to_owned(), host(prompt))));
    found
}

/// Central differences along a random direction in each tensor.
fn check_gradients(case: &Case) {
    let gradients = by_name(case.loss(&case.values).1);
    for (name, gradient) in &gradients {
        let direction = Stream::new(9, name, 0).normal(gradient.len(), 1.0);
        let moved = |step: f32| {
            let mut values = case.values.clone();
            values.get_mut(name).unwrap().iter_mut().zip(&direction).for_each(|(value, d)| *value += step * d);
            case.loss(&values).0
        };
        let step = 2e-3;
        let numeric = (moved(step) - moved(-step)) / f64::from(2.0 * step);
        let analytic: f64 = gradient.iter().zip(&direction).map(|(g, d)| f64::from(g * d)).sum();
        assert!(
            (numeric - analytic).abs() < 4e-3 * (1.0 + analytic.abs()),
            "{name}: {numeric} by differences, {analytic} by hand"
        );
        assert!(gradient.iter().any(|value| *value != 0.0), "{name} has no gradient");
    }
}

#[test]
fn gradients_of_private_parts_are_those_of_finite_differences() {
    check_gradients(&Case::new(Family::Qwen2, 2, 0.0));
}

#[test]
fn gradients_of_shared_parts_with_dropout_are_those_of_finite_differences() {
    check_gradients(&Case::new(Family::Llama, 1, 0.3));
}

#[test]
fn the_answer_does_not_depend_on_padding_or_on_other_rows() {
    let case = Case::new(Family::Llama, 2, 0.0);
    let together = case.backbone.score(&case.input(), &case.queries, &case.adaptation(&case.values));
    // The third row alone, without its padding.
    let alone = Input { rows: 1, length: 4, input_ids: &case.ids[11..], attention_mask: &[1; 4], task_ids: &[1] };
    let queries = [Query { position: 1, token: 2 }, Query { position: 3, token: 9 }];
    let alone = case.backbone.score(&alone, &queries, &case.adaptation(&case.values));
    for (together, alone) in together[4..].iter().zip(&alone) {
        assert!((together.log_probability - alone.log_probability).abs() < 1e-5, "{together:?} {alone:?}");
        assert_eq!(together.greedy, alone.greedy);
    }
}

#[test]
fn shards_add_up_to_the_whole_batch_with_the_same_dropout() {
    let case = Case::new(Family::Llama, 2, 0.5);
    let (input, adaptation) = (case.input(), case.adaptation(&case.values));
    let shards: Vec<_> = (0..3).map(|row| shard::Shard::new(&input, row..row + 1, &case.queries)).collect();
    let parts = shard::each(&shards, |shard| {
        case.backbone.shard_gradient(shard, &case.backbone.ready(&adaptation, DType::F32), 1.0)
    });
    let (loss, gradient) = parts.into_iter().reduce(|x, y| (x.0 + y.0, x.1.add(y.1))).unwrap();
    let (whole_loss, whole) = case.loss(&case.values);
    assert!((loss - whole_loss).abs() < 1e-5, "{loss} {whole_loss}");
    let (found, whole) = (by_name(gradient), by_name(whole));
    for (name, values) in &whole {
        close(&found[name], values, 1e-5);
    }
}

#[test]
fn an_exact_pass_agrees_to_the_rounding_of_f32() {
    let case = Case::new(Family::Qwen2, 2, 0.0);
    let (input, adaptation) = (case.input(), case.adaptation(&case.values));
    let positions = [0, 2, 3];
    let rounded = case.backbone.logits(&input, &positions, &adaptation);
    let exact = case.backbone.exact_logits(&input, &positions, &adaptation);
    close(&rounded, &exact, 1e-5);
    assert_ne!(rounded, exact, "both are in f32");
}

#[test]
fn bf16_is_near_f32() {
    let case = Case::new(Family::Llama, 2, 0.0);
    let narrow = Backbone::random(&config(Family::Llama), 5, &device(), BaseDtype::Bf16);
    let adaptation = case.adaptation(&case.values);
    let (wide, wide_gradient) = case.backbone.gradient(&case.input(), &case.queries, &adaptation, 1.0);
    let (loss, gradient) = narrow.gradient(&case.input(), &case.queries, &adaptation, 1.0);
    assert!((loss - wide).abs() < 0.05 * wide, "{loss} {wide}");
    let (wide, narrow) = (by_name(wide_gradient), by_name(gradient));
    let norm = |x: &[f32]| x.iter().map(|x| x * x).sum::<f32>().sqrt();
    for (name, wide) in &wide {
        let difference: Vec<f32> = wide.iter().zip(&narrow[name]).map(|(a, b)| a - b).collect();
        assert!(norm(&difference) < 0.2 * norm(wide), "{name}: {} of {}", norm(&difference), norm(wide));
    }
}
