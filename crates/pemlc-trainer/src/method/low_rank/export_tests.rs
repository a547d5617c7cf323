//! What a run directory holds is what training ran.

use super::*;
use crate::config::RunConfig;
use burn::tensor::Device;
use pemlc_artifact::Family;
use pemlc_artifact::run::RunPaths;
use proptest::prelude::{ProptestConfig, any, proptest};
use std::path::Path;

pub(super) fn model() -> ModelConfig {
    ModelConfig {
        family: Family::Llama,
        hidden_size: 8,
        intermediate_size: 12,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        num_key_value_heads: 1,
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

fn config(settings: &str) -> RunConfig {
    let task = |name: &str| {
        format!(
            "[[tasks]]\nname = \"{name}\"\ntrain = \"t.jsonl\"\nvalidation = \"v.jsonl\"\ntemplate = \"{{x}}\"\nanswer = \"y\"\n"
        )
    };
    let text = format!("model = \"m\"\n{settings}\n{}{}{}", task("a"), task("b"), task("c"));
    RunConfig::from_toml(&text, Path::new("run.toml")).expect("a valid run file")
}

/// `scale B A` of one set, `[out, in]`.
fn product([a, b]: &[Tensor<3>; 2], set: usize, scale: f64) -> Tensor<2> {
    let of_set =
        |factor: &Tensor<3>| -> Tensor<2> { factor.clone().narrow(0, set.min(factor.dims()[0] - 1), 1).squeeze_dim(0) };
    of_set(b).matmul(of_set(a)) * scale as f32
}

const METHODS: [&str; 8] = [
    "method = \"adalora\"\n[adalora]\ninitial_rank = 4\ntarget_rank = 2",
    "method = \"mtl-lora\"\n[lora]\nrank = 3",
    "method = \"mtl-lora\"\n[mtl_lora]\ndiagonal = true",
    "method = \"multilora\"\n[multi_lora]\nparallel = 2",
    "method = \"moelora\"\n[moe_lora]\nexperts = 4",
    "method = \"poly\"",
    "method = \"poly\"\n[poly]\nsplits = 2",
    "method = \"c-poly\"\n[c_poly]\nown = 2",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn adapters_are_the_deltas_of_training(which in 0..METHODS.len(), seed in any::<u32>()) {
        let (config, model) = (config(METHODS[which]), model());
        let methods = crate::method::Methods::new(&config, &model, None);
        let mut set = ParameterSet::new(&Device::flex());
        methods.initialize_cold(u64::from(seed), &mut set);
        for (name, tensor) in set.to_map() {
            let count = tensor.shape.iter().product();
            let values = Stream::new(u64::from(seed), &name, 1).normal(count, 0.5);
            set.insert(name, Group::Lora, &tensor.shape, values);
        }
        let folder = tempfile::tempdir().expect("a folder");
        let (paths, tasks) = (RunPaths::new(folder.path()), ["a", "b", "c"].map(str::to_owned));
        let to = Destination { paths: &paths, model: &model, base_model: "m", tasks: &tasks };
        let record = methods.export(&set, &to).expect("export").lora.expect("deltas");
        let trained = methods.adaptation(&set.constants(), &Moment::Evaluation);
        for (index, task) in tasks.iter().enumerate() {
            let path = if record.shared { paths.shared_lora() } else { paths.task_lora(task) };
            let written = LoraAdapter::read(&path, &model).expect("a PEFT folder");
            assert_eq!((written.rank, written.alpha), (record.rank, record.alpha));
            for ((layer, projection), deltas) in &trained.deltas {
                let (inputs, outputs) = projection.features(&model);
                let weights = &written.weights[&(*layer, *projection)];
                let factor = |values: &[f32], shape: [usize; 3]| -> Tensor<3> {
                    Tensor::from_data(burn::tensor::TensorData::new(values.to_vec(), shape), &Device::flex())
                };
                let pair = [
                    factor(&weights.a, [1, record.rank, inputs]),
                    factor(&weights.b, [1, outputs, record.rank]),
                ];
                let found = host(product(&pair, 0, record.alpha / record.rank as f64));
                let expected = deltas
                    .iter()
                    .map(|delta| product(&[delta.a.clone(), delta.b.clone()], index, f64::from(delta.scale)))
                    .reduce(|sum, delta| sum + delta);
                crate::golden::close(&found, &host(expected.expect("a delta")), 1e-5);
            }
        }
    }
}
