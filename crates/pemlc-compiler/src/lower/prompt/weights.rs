//! The weights of a prompt encoder.

use crate::ir::{Data, IrError, Tensor};
use pemlc_artifact::tensors::{TensorMap, Values};
use std::sync::Arc;

/// Why an encoder cannot be lowered.
#[derive(Debug, thiserror::Error)]
pub enum EncoderError {
    /// A weight that the architecture needs is not in the file, or has another shape.
    #[error("tensor `{name}`: expected f32 {expected:?}, found {found}")]
    Weight {
        /// Name in `encoder.safetensors`.
        name: String,
        /// Shape that the architecture and the model ask for.
        expected: Vec<usize>,
        /// What is there.
        found: String,
    },
    /// The architecture contradicts itself.
    #[error("architecture: {0}")]
    Architecture(String),
    /// The graph does not fit together.
    #[error(transparent)]
    Ir(#[from] IrError),
}

/// The weights of `encoder.safetensors`, looked up with the shape that is expected.
pub struct EncoderWeights<'a> {
    tensors: &'a TensorMap,
}

impl<'a> EncoderWeights<'a> {
    /// Wraps the file's tensors.
    pub fn new(tensors: &'a TensorMap) -> Self {
        Self { tensors }
    }

    pub(super) fn values(&self, name: &str, shape: &[usize]) -> Result<&'a [f32], EncoderError> {
        let wrong = |found: String| EncoderError::Weight { name: name.to_owned(), expected: shape.to_vec(), found };
        let tensor = self.tensors.get(name).ok_or_else(|| wrong("no such tensor".to_owned()))?;
        match &tensor.values {
            Values::F32(values) if tensor.shape == shape && values.len() == shape.iter().product::<usize>() => {
                Ok(values)
            }
            Values::F32(_) => Err(wrong(format!("f32 {:?}", tensor.shape))),
            Values::I64(_) => Err(wrong(format!("i64 {:?}", tensor.shape))),
        }
    }

    /// The tensors `name(0), name(1), ...` of `shape` one after another, as one tensor of shape `stacked`.
    pub(super) fn stack(
        &self,
        names: impl Iterator<Item = String>,
        shape: &[usize],
        stacked: Vec<usize>,
    ) -> Result<Arc<Tensor>, EncoderError> {
        let mut values = Vec::with_capacity(stacked.iter().product());
        for name in names {
            values.extend_from_slice(self.values(&name, shape)?);
        }
        Tensor::new(stacked, Data::F32(values)).map(Arc::new).ok_or_else(|| {
            EncoderError::Architecture("has another number of tensors than of tasks and layers".to_owned())
        })
    }

    /// Sets of seeds: that of all tasks, or `tasks`.
    pub(super) fn sets(&self, tasks: usize) -> usize {
        let second = ["seed.1", "generators.0.seed.1"].iter().any(|name| self.tensors.contains_key(*name));
        if second { tasks } else { 1 }
    }

    /// Whether there is a tensor `name`.
    pub(super) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }
}
