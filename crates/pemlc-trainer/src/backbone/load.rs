//! Weights from a checkpoint, or at random.

use super::Backbone;
use super::layer::Weights;
use super::linear::Linear;
use crate::adaptation::cast;
use crate::config::BaseDtype;
use crate::random::Stream;
use burn::tensor::{DType, Device, Tensor, TensorData};
use pemlc_artifact::{Checkpoint, CheckpointError, ModelConfig, Projection};

impl Backbone {
    /// Loads a checkpoint, one tensor at a time: memory stays near the loaded weights plus the largest tensor.
    pub fn load(checkpoint: &Checkpoint, device: &Device, dtype: BaseDtype) -> Result<Self, CheckpointError> {
        let values = |name: &str, _: usize| Ok(checkpoint.tensor(name)?.to_f32());
        Self::build(checkpoint.config(), device, dtype, values)
    }

    /// Random weights of deviation `1 / sqrt(in)`, norms of 1: for benchmarks and tests.
    pub fn random(config: &ModelConfig, seed: u64, device: &Device, dtype: BaseDtype) -> Self {
        let built = Self::build(config, device, dtype, |name, count| {
            Ok::<_, std::convert::Infallible>(if name.contains("norm") {
                vec![1.0; count]
            } else {
                let inputs = if name.contains("down_proj") { config.intermediate_size } else { config.hidden_size };
                Stream::new(seed, name, 0).normal(count, (inputs as f32).sqrt().recip())
            })
        });
        match built {
            Ok(backbone) => backbone,
            Err(never) => match never {},
        }
    }

    /// `values` gives the numbers of a tensor by name and count, row-major.
    pub(super) fn build<E>(
        config: &ModelConfig,
        device: &Device,
        dtype: BaseDtype,
        values: impl Fn(&str, usize) -> Result<Vec<f32>, E>,
    ) -> Result<Self, E> {
        let dtype = match dtype {
            BaseDtype::F32 => DType::F32,
            BaseDtype::Bf16 => DType::BF16,
        };
        let matrix = |name: &str, rows: usize, columns: usize| -> Result<Tensor<2>, E> {
            let data = TensorData::new(values(name, rows * columns)?, [rows, columns]);
            Ok(cast(Tensor::from_data(data, (device, DType::F32)), dtype))
        };
        let vector = |name: &str, count: usize, dtype: DType| -> Result<Tensor<1>, E> {
            let data = TensorData::new(values(name, count)?, [count]);
            Ok(cast(Tensor::from_data(data, (device, DType::F32)), dtype))
        };
        let linear = |layer: usize, projection: Projection| -> Result<Linear, E> {
            let module = projection.module(layer);
            let (inputs, outputs) = projection.features(config);
            let biased = matches!(projection, Projection::QProj | Projection::KProj | Projection::VProj);
            let bias = (config.has_qkv_bias() && biased)
                .then(|| vector(&format!("{module}.bias"), outputs, dtype))
                .transpose()?;
            Ok(Linear { weight: matrix(&format!("{module}.weight"), outputs, inputs)?, bias })
        };
        let (hidden, vocabulary) = (config.hidden_size, config.vocab_size);
        let layer = |index: usize| -> Result<Weights, E> {
            let norm = |name: &str| vector(&format!("model.layers.{index}.{name}.weight"), hidden, DType::F32);
            Ok(Weights {
                input_norm: norm("input_layernorm")?,
                post_attention_norm: norm("post_attention_layernorm")?,
                query: linear(index, Projection::QProj)?,
                key: linear(index, Projection::KProj)?,
                value: linear(index, Projection::VProj)?,
                output: linear(index, Projection::OProj)?,
                gate: linear(index, Projection::GateProj)?,
                up: linear(index, Projection::UpProj)?,
                down: linear(index, Projection::DownProj)?,
            })
        };
        let head = (!config.tie_word_embeddings).then(|| matrix("lm_head.weight", vocabulary, hidden)).transpose()?;
        Ok(Self {
            config: config.clone(),
            device: device.clone(),
            dtype,
            embedding: matrix("model.embed_tokens.weight", vocabulary, hidden)?,
            layers: (0..config.num_hidden_layers).map(layer).collect::<Result<_, E>>()?,
            norm: vector("model.norm.weight", hidden, DType::F32)?,
            head,
        })
    }
}
