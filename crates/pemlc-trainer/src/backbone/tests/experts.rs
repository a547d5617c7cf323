//! Experts chosen by token (MixLoRA): the published function, finite differences, and the loss of unbalanced choices.

use super::*;
use crate::adaptation::Routing;
use crate::backbone::experts;
use crate::backbone::layer::{Place, Weights};
use crate::backbone::linear::Linear;
use crate::backbone::magnitude::Ready;

const FEED_FORWARD: [Projection; 3] = [Projection::GateProj, Projection::UpProj, Projection::DownProj];

impl Case {
    /// With three experts, of which each token has two.
    fn with_experts(mut self) -> Self {
        self.values.insert("router".to_owned(), Stream::new(6, "router", 0).normal(2 * 3 * 8, 1.0));
        for expert in 0..3 {
            for (layer, projection) in (0..2).flat_map(|layer| FEED_FORWARD.map(|projection| (layer, projection))) {
                let (inputs, outputs) = projection.features(self.backbone.config());
                for (factor, size) in [("a", inputs), ("b", outputs)] {
                    let name = format!("expert {expert}.{layer}.{}.{factor}", projection.name());
                    let values = Stream::new(6, &name, 0).normal(2 * size, 0.4);
                    self.values.insert(name, values);
                }
            }
        }
        self
    }

    pub(super) fn routing(&self, values: &BTreeMap<String, Vec<f32>>) -> Option<Routing> {
        let routers = tensor(values.get("router")?.clone(), [2, 3, 8]);
        let expert = |index: usize| {
            let mut deltas = BTreeMap::new();
            for (layer, projection) in (0..2).flat_map(|layer| FEED_FORWARD.map(|projection| (layer, projection))) {
                let (inputs, outputs) = projection.features(self.backbone.config());
                let factor = |name: &str, shape: [usize; 3]| {
                    tensor(values[&format!("expert {index}.{layer}.{}.{name}", projection.name())].clone(), shape)
                };
                let (a, b) = (factor("a", [1, 2, inputs]), factor("b", [1, outputs, 2]));
                deltas.insert((layer, projection), vec![LowRank { a, b, scale: 0.7, dropout: None }]);
            }
            Adaptation { deltas, ..Adaptation::default() }
        };
        Some(Routing { routers, top: 2, balance: 0.0, experts: (0..3).map(expert).collect() })
    }
}

#[test]
fn gradients_of_experts_are_those_of_finite_differences() {
    check_gradients(&Case::new(Family::Qwen2, 2, 0.0).with_experts());
    check_gradients(&Case::new(Family::Llama, 1, 0.0).with_experts());
}

fn geometry(rows: usize, length: usize, mask: &[i64]) -> input::Geometry {
    let backbone = Backbone::random(&config(Family::Llama), 1, &device(), BaseDtype::F32);
    let (ids, tasks) = (vec![0; rows * length], vec![0; rows]);
    let input = Input { rows, length, input_ids: &ids, attention_mask: mask, task_ids: &tasks };
    input::Geometry::new(&backbone, &shard::Shard::whole(&input), DType::F32, 0)
}

#[test]
fn experts_are_those_of_the_mixlora_repository() {
    let golden = Golden::read("mixlora_moe.json");
    let parameter = |name: &str| golden.f32(&["params", name]);
    let sizes = ModelConfig { hidden_size: 6, intermediate_size: 10, num_hidden_layers: 1, ..config(Family::Llama) };
    let linear = |projection: Projection| {
        let (inputs, outputs) = projection.features(&sizes);
        let values = match FEED_FORWARD.contains(&projection) {
            true => parameter(&format!("{}.weight", projection.name())),
            false => vec![0.0; inputs * outputs],
        };
        Linear { weight: tensor(values, [outputs, inputs]), bias: None }
    };
    let [query, key, value, output, gate, up, down] = Projection::ALL.map(linear);
    let norm = || Tensor::ones([6], &device());
    let (input_norm, post_attention_norm) = (norm(), norm());
    let weights = Weights { input_norm, post_attention_norm, query, key, value, output, gate, up, down };
    let expert = |index: usize| {
        let delta = |projection: Projection| {
            let (inputs, outputs) = projection.features(&sizes);
            let factor = |name: &str, shape: [usize; 3]| {
                tensor(parameter(&format!("{}.{index}.{name}", projection.name())), shape)
            };
            let (a, b) = (factor("A", [1, 2, inputs]), factor("B", [1, outputs, 2]));
            ((0, projection), vec![LowRank { a, b, scale: 2.0, dropout: None }])
        };
        Adaptation { deltas: FEED_FORWARD.into_iter().map(delta).collect(), ..Adaptation::default() }
    };
    let routers = tensor(parameter("moe_gate"), [1, 4, 6]);
    let routing = Routing { routers, top: 2, balance: 0.0, experts: (0..4).map(expert).collect() };
    let ready = Ready { adaptation: Adaptation::default(), scales: BTreeMap::new() };
    let geometry = geometry(2, 3, &[1; 6]);
    let place = Place::new(0, &sizes, &geometry, &ready);
    let x = tensor(golden.f32(&["inputs", "x"]), [6, 6]);
    let (y, _) = experts::forward(&weights, x, &routing, &place);
    close(&host(y), &golden.f32(&["expected", "output"]), 2e-5);
}

/// The loss itself, of all tokens that are not padding, for choices that stay.
fn unbalance(x: &[f32], router: &[f32], chosen: &[Vec<bool>], visible: &[i64]) -> f64 {
    let tokens = visible.iter().filter(|visible| **visible == 1).count() as f64;
    let (mut having, mut probability) = ([0.0; 3], [0.0; 3]);
    for ((x, chosen), _) in x.chunks(8).zip(chosen).zip(visible).filter(|(_, visible)| **visible == 1) {
        let dot = |g: &[f32]| g.iter().zip(x).map(|(g, x)| f64::from(g * x)).sum::<f64>();
        let logits: Vec<f64> = router.chunks(8).map(|g| dot(g).exp()).collect();
        for expert in 0..3 {
            having[expert] += f64::from(u8::from(chosen[expert])) / tokens;
            probability[expert] += logits[expert] / logits.iter().sum::<f64>() / tokens;
        }
    }
    0.5 * 3.0 * having.iter().zip(probability).map(|(f, p)| f * p).sum::<f64>()
}

#[test]
fn unbalanced_choices_push_the_router() {
    let case = Case::new(Family::Llama, 1, 0.0).with_experts();
    let routing = Routing { balance: 0.5, ..case.routing(&case.values).unwrap() };
    let visible = [1, 1, 1, 1, 0, 1];
    let geometry = geometry(2, 3, &visible);
    let ready = case.backbone.ready(&Adaptation::default(), DType::F32);
    let place = Place::new(0, case.backbone.config(), &geometry, &ready);
    let weights = &case.backbone.layers[0];
    let values = Stream::new(2, "x", 0).normal(6 * 8, 1.0);
    let x: Tensor<2> = tensor(values.clone(), [6, 8]);
    let (y, saved) = experts::forward(weights, x.clone(), &routing, &place);
    // No other loss: what is left is the gradient of this one.
    let (_, into) = experts::backward(weights, x, saved, y.zeros_like(), &routing, &place);
    let found = host(experts::gradient(vec![into]).unwrap().routers);

    let router = case.values["router"][..24].to_vec();
    let choice = |x: &[f32]| -> Vec<bool> {
        let logit = |g: &[f32]| g.iter().zip(x).map(|(g, x)| g * x).sum::<f32>();
        let logits: Vec<f32> = router.chunks(8).map(logit).collect();
        logits.iter().map(|logit| logits.iter().filter(|other| *other > logit).count() < 2).collect()
    };
    let chosen: Vec<Vec<bool>> = values.chunks(8).map(choice).collect();
    let moved = |index: usize, step: f32| {
        let mut router = router.clone();
        router[index] += step;
        unbalance(&values, &router, &chosen, &visible)
    };
    let numeric: Vec<f32> = (0..24).map(|index| ((moved(index, 1e-2) - moved(index, -1e-2)) / 2e-2) as f32).collect();
    close(&found, &numeric, 1e-4);
}
