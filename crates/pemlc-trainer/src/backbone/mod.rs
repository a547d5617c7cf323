//! The frozen decoder (llama and qwen2): forward pass, and the gradient of a loss with respect to an [`Adaptation`](crate::adaptation::Adaptation).
//!
//! The backward pass is written out rather than taken from autodiff: the graph is fixed, its weights are frozen, and so it keeps only
//! what it needs and fuses what is slow. Autodiff begins where methods begin, at the adaptation.

mod attention;
mod experts;
mod feed_forward;
mod forward;
mod head;
mod hidden;
mod input;
mod layer;
mod linear;
mod load;
mod magnitude;
mod mlp;
mod norm;
mod prefix;
mod prompt;
mod rotary;
mod self_attention;
mod shard;
mod swiglu;
#[cfg(test)]
mod tests;

pub use head::{Query, TokenScore};
pub use input::Input;

use crate::adaptation::cast;
use burn::tensor::{DType, Device, Tensor};
use layer::Weights;
use pemlc_artifact::ModelConfig;

/// A frozen model on a device, outside autodiff.
#[derive(Debug)]
pub struct Backbone {
    config: ModelConfig,
    device: Device,
    dtype: DType,
    /// `[vocab, hidden]`.
    embedding: Tensor<2>,
    layers: Vec<Weights>,
    /// `[hidden]`, f32.
    norm: Tensor<1>,
    /// `[vocab, hidden]`; `None` when it is the embedding table.
    head: Option<Tensor<2>>,
}

impl Backbone {
    /// The model's shape.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where it is.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Number type of its weights.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// How many numbers it has.
    pub fn parameters(&self) -> u64 {
        let tables = self.embedding.shape().num_elements() * if self.head.is_some() { 2 } else { 1 };
        (tables + self.norm.dims()[0] + self.layers.iter().map(Weights::parameters).sum::<usize>()) as u64
    }

    /// The output head, `[vocab, hidden]`.
    fn output_head(&self) -> Tensor<2> {
        self.head.clone().unwrap_or_else(|| self.embedding.clone())
    }
}

/// `tensor` in the number type of sums and softmax: f32, or f64 in an exact pass.
fn wide<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    let dtype = tensor.dtype();
    cast(tensor, wide_type(dtype))
}

fn wide_type(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}
