//! Magnitudes (DoRA): the function and gradients of others' code, finite differences, and the merged weight that export makes.

use super::*;
use crate::adaptation::Magnitude;
use crate::backbone::magnitude::Scale;
use crate::method::{Destination, Methods, Moment};
use crate::parameters::{Group, ParameterSet};
use pemlc_artifact::peft::LoraAdapter;
use pemlc_artifact::run::RunPaths;
use proptest::prelude::{ProptestConfig, any, proptest};

impl Case {
    /// With magnitudes on every projection, through whose norms the gradient flows.
    fn with_magnitudes(mut self) -> Self {
        for layer in 0..2 {
            for projection in Projection::ALL {
                let name = format!("{layer}.{}.m", projection.name());
                let outputs = projection.features(self.backbone.config()).1;
                let values = Stream::new(4, &name, 0).normal(outputs, 0.3).into_iter().map(|value| 1.0 + value);
                self.values.insert(name, values.collect());
            }
        }
        self
    }

    pub(super) fn magnitudes(&self, values: &BTreeMap<String, Vec<f32>>) -> BTreeMap<(usize, Projection), Magnitude> {
        let places = (0..2).flat_map(|layer| Projection::ALL.map(|projection| (layer, projection)));
        let magnitude = |(layer, projection): (usize, Projection)| {
            let value = values.get(&format!("{layer}.{}.m", projection.name()))?.clone();
            let value = tensor(value.clone(), [value.len()]);
            Some(((layer, projection), Magnitude { value, full_gradient: true }))
        };
        places.filter_map(magnitude).collect()
    }
}

/// One projection of 8 inputs and 6 outputs against a golden file: names of weight, bias, A, B and m there.
fn compare(file: &str, names: [&str; 5], full_gradient: bool) {
    let golden = Golden::read(file);
    let parameter = |index: usize| golden.f32(&["params", names[index]]);
    let linear = linear::Linear { weight: tensor(parameter(0), [6, 8]), bias: Some(tensor(parameter(1), [6])) };
    let (a, b) = (tensor(parameter(2), [1, 4, 8]), tensor(parameter(3), [1, 6, 4]));
    let deltas = [LowRank { a, b, scale: 2.0, dropout: None }];
    let magnitude = Magnitude { value: tensor(parameter(4), [6]), full_gradient };
    let backbone = Backbone::random(&config(Family::Llama), 1, &device(), BaseDtype::F32);
    let input = Input { rows: 4, length: 3, input_ids: &[0; 12], attention_mask: &[1; 12], task_ids: &[2, 0, 1, 2] };
    let geometry = input::Geometry::new(&backbone, &shard::Shard::whole(&input), DType::F32, 0);
    let x = tensor(golden.f32(&["inputs", "x"]), [12, 8]);

    let scale = Scale::new(&linear.weight, &deltas, &magnitude);
    let (y, saved) = linear.forward(x.clone(), &deltas, Some(&scale), &geometry);
    close(&host(y.clone()), &golden.f32(&["expected", "output"]), 2e-5);
    let (into_x, into) = linear.backward(x, &deltas, Some(&scale), saved, y, &geometry);
    close(&host(into_x), &golden.f32(&["grads", "x"]), 2e-4);
    let mut into_deltas = into.deltas;
    let into_m = scale.backward(&linear.weight, &deltas, &magnitude, into.scale.unwrap(), &mut into_deltas);
    let (into_a, into_b) = into_deltas.remove(0);
    for (index, found) in [(2, host(into_a)), (3, host(into_b)), (4, host(into_m))] {
        close(&found, &golden.f32(&["grads", names[index]]), 2e-4);
    }
}

#[test]
fn dora_is_that_of_peft() {
    compare("dora.json", ["base.weight", "base.bias", "A", "B", "magnitude"], false);
}

#[test]
fn dora_is_that_of_the_mtl_lora_repository() {
    let names = ["weight", "bias", "lora_A.weight", "lora_B.weight", "lora_weight_m_wdecomp.weight"];
    compare("dora_mtlrepo_simple.json", names, false);
    compare("dora_mtlrepo_fullgrad.json", names, true);
}

#[test]
fn fresh_magnitudes_are_pefts() {
    let golden = Golden::read("dora.json");
    let weight = tensor(golden.f32(&["params", "base.weight"]), [6, 8]);
    let one = Magnitude { value: Tensor::ones([6], &device()), full_gradient: false };
    let found = host(Scale::new(&weight, &[], &one).value).into_iter().map(f32::recip).collect::<Vec<_>>();
    close(&found, &golden.f32(&["expected", "magnitude_at_init"]), 2e-5);
}

#[test]
fn gradients_through_norms_are_those_of_finite_differences() {
    check_gradients(&Case::new(Family::Qwen2, 1, 0.0).with_magnitudes());
    check_gradients(&Case::new(Family::Llama, 1, 0.3).with_magnitudes());
}

#[test]
fn shards_add_up_with_magnitudes_too() {
    let case = Case::new(Family::Llama, 1, 0.0).with_magnitudes();
    let (input, adaptation) = (case.input(), case.adaptation(&case.values));
    let ready = case.backbone.ready(&adaptation, DType::F32);
    let shards: Vec<_> = (0..3).map(|row| shard::Shard::new(&input, row..row + 1, &case.queries)).collect();
    let parts = shard::each(&shards, |shard| case.backbone.shard_gradient(shard, &ready, 1.0));
    let found = by_name(parts.into_iter().reduce(|x, y| (x.0 + y.0, x.1.add(y.1))).unwrap().1);
    for (name, values) in by_name(case.loss(&case.values).1) {
        close(&found[&name], &values, 1e-5);
    }
}

/// `W' = m / ||W + s B A|| (W + s B A)` in f64.
fn merged(weight: &[f32], adapter: &LoraAdapter, place: (usize, Projection)) -> Vec<f32> {
    let weights = &adapter.weights[&place];
    let (rank, scale) = (adapter.rank, adapter.alpha / adapter.rank as f64);
    let inputs = weights.a.len() / rank;
    let magnitude = weights.magnitude.as_ref().expect("a DoRA folder");
    let rows = weight.chunks(inputs).zip(weights.b.chunks(rank)).zip(magnitude);
    rows.flat_map(|((row, b), m)| {
        let product = |input: usize| -> f64 {
            b.iter().enumerate().map(|(r, b)| f64::from(*b) * f64::from(weights.a[r * inputs + input])).sum()
        };
        let row: Vec<f64> = row.iter().enumerate().map(|(input, w)| f64::from(*w) + scale * product(input)).collect();
        let norm = row.iter().map(|value| value * value).sum::<f64>().sqrt();
        row.into_iter().map(move |value| (value * f64::from(*m) / norm) as f32).collect::<Vec<_>>()
    })
    .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// What the PEFT folder says, merged into the weights, answers as the adapted model that was trained.
    #[test]
    fn a_model_with_merged_weights_answers_as_training(seed in any::<u32>()) {
        let seed = u64::from(seed);
        let text = "model = \"m\"\nmethod = \"dora\"\n[lora]\nrank = 3\n[[tasks]]\nname = \"a\"\ntrain = \"t\"\nvalidation = \"v\"\n\
                    template = \"{x}\"\nanswer = \"y\"\n";
        let settings = crate::config::RunConfig::from_toml(text, std::path::Path::new("run.toml")).unwrap();
        let model = config(Family::Qwen2);
        let random = |name: &str, count: usize| Stream::new(seed, name, 0).normal(count, 0.5);
        let build = |adapter: Option<&LoraAdapter>| {
            Backbone::build(&model, &device(), BaseDtype::F32, |name, count| {
                let place = (0..2)
                    .flat_map(|layer| Projection::ALL.map(|projection| (layer, projection)))
                    .find(|(layer, projection)| name == format!("{}.weight", projection.module(*layer)));
                Ok::<_, ()>(match (adapter, place) {
                    (Some(adapter), Some(place)) => merged(&random(name, count), adapter, place),
                    _ => random(name, count),
                })
            })
            .unwrap()
        };
        let (backbone, methods) = (build(None), Methods::new(&settings, &model, None));
        let mut set = ParameterSet::new(&device());
        methods.initialize_cold(seed, &mut set);
        for (name, tensor) in set.to_map() {
            let values = Stream::new(seed, &name, 1).normal(tensor.shape.iter().product(), 0.5);
            set.insert(name, Group::Lora, &tensor.shape, values);
        }
        let adaptation = methods.adaptation(&set.constants(), &Moment::Evaluation);
        let folder = tempfile::tempdir().unwrap();
        let paths = RunPaths::new(folder.path());
        methods.export(&set, &Destination { paths: &paths, model: &model, base_model: "m", tasks: &["a".to_owned()] }).unwrap();
        let adapter = LoraAdapter::read(&paths.shared_lora(), &model).unwrap();

        let ids = [1, 5, 9, 14, 2, 7];
        let input = Input { rows: 1, length: 6, input_ids: &ids, attention_mask: &[1; 6], task_ids: &[0] };
        let positions: Vec<usize> = (0..6).collect();
        let trained = backbone.exact_logits(&input, &positions, &adaptation);
        let exported = build(Some(&adapter)).exact_logits(&input, &positions, &Adaptation::default());
        close(&exported, &trained, 1e-5);
        // In the number type of training.
        close(&backbone.logits(&input, &positions, &adaptation), &trained, 1e-4);
    }
}
