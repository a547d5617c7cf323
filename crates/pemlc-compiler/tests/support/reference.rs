//! The adapted decoder in plain Rust, in f64, one row at a time: the equations of `normal_form` written out.

use super::fixture::Fixture;
use super::weights::floats;
use pemlc_artifact::Projection;
use pemlc_artifact::peft::{LoraAdapter, LoraWeights};

/// Logits `[tokens][vocabulary]` of `tokens` for `task`, or of the untouched base model. A soft prompt stands in front of the tokens, which
/// then have the positions behind it: nothing is folded here.
pub fn logits(fixture: &Fixture, task: Option<usize>, tokens: &[i64]) -> Vec<Vec<f64>> {
    let config = &fixture.config;
    let table = floats(&fixture.weights, "model.embed_tokens.weight");
    let hidden = config.hidden_size;
    let mut x = task.map_or_else(Vec::new, |task| fixture.soft_prompt(task));
    let prompt = x.len();
    let embedded = |token: &i64| table[*token as usize * hidden..][..hidden].iter().map(|x| f64::from(*x)).collect();
    x.extend(tokens.iter().map(embedded));
    let x = layers(fixture, task, x, &mut |_, _| {});
    let x = rms_norm(fixture, "model.norm.weight", &x);
    let head = if config.tie_word_embeddings { table } else { floats(&fixture.weights, "lm_head.weight") };
    x[prompt..].iter().map(|row| head.chunks_exact(hidden).map(|w| dot(w, row)).collect()).collect()
}

/// Hidden states after all layers; `see` is shown what each layer's attention reads, after its norm.
pub fn layers(
    fixture: &Fixture,
    task: Option<usize>,
    mut x: Vec<Vec<f64>>,
    see: &mut dyn FnMut(usize, &[Vec<f64>]),
) -> Vec<Vec<f64>> {
    for layer in 0..fixture.config.num_hidden_layers {
        let normed = rms_norm(fixture, &format!("model.layers.{layer}.input_layernorm.weight"), &x);
        see(layer, &normed);
        let attended = attention(fixture, task, layer, &normed);
        let attended = project(fixture, task, (layer, Projection::OProj), &attended);
        add(&mut x, &attended);
        let normed = rms_norm(fixture, &format!("model.layers.{layer}.post_attention_layernorm.weight"), &x);
        let mut gated = project(fixture, task, (layer, Projection::GateProj), &normed);
        let up = project(fixture, task, (layer, Projection::UpProj), &normed);
        for (gate, up) in gated.iter_mut().flatten().zip(up.iter().flatten()) {
            *gate = *gate / (1.0 + (-*gate).exp()) * up;
        }
        add(&mut x, &project(fixture, task, (layer, Projection::DownProj), &gated));
    }
    x
}

fn add(x: &mut [Vec<f64>], y: &[Vec<f64>]) {
    x.iter_mut().flatten().zip(y.iter().flatten()).for_each(|(x, y)| *x += y);
}

fn dot(weights: &[f32], x: &[f64]) -> f64 {
    weights.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum()
}

fn rms_norm(fixture: &Fixture, weight: &str, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let weight = floats(&fixture.weights, weight);
    x.iter()
        .map(|row| {
            let mean = row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64;
            let root = (mean + fixture.config.rms_norm_eps).sqrt();
            row.iter().zip(weight).map(|(x, w)| x / root * f64::from(*w)).collect()
        })
        .collect()
}

/// `x W^T + b + s x A^T B^T` for the shared delta and the task's own; magnitudes scale the base with its shared delta.
pub fn project(fixture: &Fixture, task: Option<usize>, site: (usize, Projection), x: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let module = site.1.module(site.0);
    let weight = floats(&fixture.weights, &format!("{module}.weight"));
    let bias = fixture.weights.contains_key(&format!("{module}.bias"));
    let adapters = |task: usize| (fixture.shared.as_ref(), fixture.private.get(task));
    let (shared, private) = task.map_or((None, None), adapters);
    let add = |adapter: &LoraAdapter, row: &[f64], y: &mut [f64]| {
        let Some(weights) = adapter.weights.get(&site) else { return };
        let (rank, scale) = (adapter.rank_of(site), adapter.factor_of(site));
        let inner: Vec<f64> = weights.a.chunks_exact(row.len()).map(|a| dot(a, row)).collect();
        let outer = weights.b.chunks_exact(rank).map(|b| scale * dot(b, &inner));
        y.iter_mut().zip(outer).for_each(|(y, change)| *y += change);
    };
    let give_norms = |adapter: &LoraAdapter, row: &[f64], y: &mut [f64]| {
        if let Some(magnitude) = magnitude(adapter, site) {
            let norms = row_norms(adapter, site, weight, row.len());
            y.iter_mut().zip(magnitude).zip(norms).for_each(|((y, m), n)| *y *= f64::from(*m) / n);
        }
    };
    x.iter()
        .map(|row| {
            let mut y: Vec<f64> = weight.chunks_exact(row.len()).map(|w| dot(w, row)).collect();
            if let Some(adapter) = shared {
                add(adapter, row, &mut y);
                give_norms(adapter, row, &mut y);
            }
            let scaled = private.filter(|adapter| magnitude(adapter, site).is_some());
            if let Some(adapter) = scaled {
                add(adapter, row, &mut y);
                give_norms(adapter, row, &mut y);
            }
            if bias {
                let bias = floats(&fixture.weights, &format!("{module}.bias"));
                y.iter_mut().zip(bias).for_each(|(y, b)| *y += f64::from(*b));
            }
            if let (Some(adapter), None) = (private, scaled) {
                add(adapter, row, &mut y);
            }
            y
        })
        .collect()
}

fn magnitude(adapter: &LoraAdapter, site: (usize, Projection)) -> Option<&Vec<f32>> {
    adapter.weights.get(&site)?.magnitude.as_ref()
}

/// Norms of the rows of `W + s B A`.
fn row_norms(adapter: &LoraAdapter, site: (usize, Projection), weight: &[f32], inputs: usize) -> Vec<f64> {
    let LoraWeights { a, b, .. } = &adapter.weights[&site];
    let scale = adapter.factor_of(site);
    let rows = weight.chunks_exact(inputs).zip(b.chunks_exact(adapter.rank_of(site)));
    rows.map(|(row, b)| {
        let entry = |(input, value): (usize, &f32)| {
            let product: f64 =
                b.iter().enumerate().map(|(r, b)| f64::from(*b) * f64::from(a[r * inputs + input])).sum();
            (f64::from(*value) + scale * product).powi(2)
        };
        row.iter().enumerate().map(entry).sum::<f64>().sqrt()
    })
    .collect()
}

/// `head` as it is at `position`.
pub fn rotate(fixture: &Fixture, position: i64, head: &[f64]) -> Vec<f64> {
    let half = head.len() / 2;
    let frequencies = fixture.config.rope_inverse_frequencies();
    let mut rotated = vec![0.0; head.len()];
    for i in 0..half {
        let (sin, cos) = (position as f64 * f64::from(frequencies[i])).sin_cos();
        rotated[i] = head[i] * cos - head[i + half] * sin;
        rotated[i + half] = head[i + half] * cos + head[i] * sin;
    }
    rotated
}

fn attention(fixture: &Fixture, task: Option<usize>, layer: usize, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let config = &fixture.config;
    let size = config.head_dim;
    let q = project(fixture, task, (layer, Projection::QProj), x);
    let k = project(fixture, task, (layer, Projection::KProj), x);
    let v = project(fixture, task, (layer, Projection::VProj), x);
    let mut mixed = vec![vec![0.0; config.num_attention_heads * size]; x.len()];
    for head in 0..config.num_attention_heads {
        let kv_head = head * config.num_key_value_heads / config.num_attention_heads;
        // (key, value, additive) of the prefix, then of the tokens.
        let mut prefix = Vec::new();
        if let (Some(task), Some(table), true) = (task, &fixture.prefix, fixture.soft_prompts.is_none()) {
            let set = if fixture.prefix_per_task { task } else { 0 };
            let rows = |what: &str| floats(table, &format!("tasks.{set}.layers.{layer}.{what}"));
            let gates = rows("log_gate");
            for (row, gate) in gates.iter().enumerate() {
                let start = (kv_head * gates.len() + row) * size;
                let own =
                    |what: &str| rows(what)[start..start + size].iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
                prefix.push((own("key"), own("value"), f64::from(*gate)));
            }
        }
        for position in 0..x.len() {
            let query = rotate(fixture, position as i64, &q[position][head * size..][..size]);
            let mut rows = prefix.clone();
            for earlier in 0..=position {
                let key = rotate(fixture, earlier as i64, &k[earlier][kv_head * size..][..size]);
                rows.push((key, v[earlier][kv_head * size..][..size].to_vec(), 0.0));
            }
            let weights: Vec<f64> = rows
                .iter()
                .map(|(key, _, gate)| {
                    let product: f64 = key.iter().zip(&query).map(|(k, q)| k * q).sum();
                    (product / (size as f64).sqrt() + gate).exp()
                })
                .collect();
            let total: f64 = weights.iter().sum();
            for (weight, (_, value, _)) in weights.iter().zip(&rows) {
                for (i, value) in value.iter().enumerate() {
                    mixed[position][head * size + i] += weight / total * value;
                }
            }
        }
    }
    mixed
}
