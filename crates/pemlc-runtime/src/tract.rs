//! tract on the CPU. One plan serves every shape: its dimensions stay symbols, which tract resolves at each run.

use crate::session::{self, Decoder, Session};
use crate::{CacheShape, CacheType, Inputs, KeyValue, Outputs, RuntimeError, RuntimeKind};
use half::f16;
use ndarray::{Array3, Array4};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::TDim;

const RUNTIME: RuntimeKind = RuntimeKind::Tract;

pub(crate) struct TractSession {
    plan: Arc<TypedRunnableModel>,
    inputs: Vec<String>,
    outputs: Vec<String>,
    cache: CacheShape,
    takes_task_id: bool,
}

pub(crate) fn open(path: &Path, decoder: &Decoder) -> Result<TractSession, RuntimeError> {
    let load = |message: String| RuntimeError::Load { runtime: RUNTIME, path: path.to_owned(), message };
    let interface = |message: String| RuntimeError::Interface { runtime: RUNTIME, path: path.to_owned(), message };
    let model = guarded(|| tract_onnx::onnx().model_for_path(path)?.into_typed()?.into_decluttered()).map_err(load)?;
    let inputs: Vec<String> =
        model.inputs.iter().filter_map(|outlet| model.nodes().get(outlet.node)).map(|node| node.name.clone()).collect();
    let outputs: Vec<String> = (model.outputs.iter())
        .map(|outlet| model.outlet_label(*outlet).map_or_else(String::new, str::to_owned))
        .collect();
    let names = |names: &[String]| names.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
    let layers = session::layers(
        &inputs.iter().map(String::as_str).collect::<Vec<_>>(),
        &outputs.iter().map(String::as_str).collect::<Vec<_>>(),
        decoder,
    )
    .map_err(|message| interface(format!("{message} (inputs: {}; outputs: {})", names(&inputs), names(&outputs))))?;
    let cache = cache_shape(&model, &inputs, layers).map_err(interface)?;
    // The graph is given up for the plan, which packs its weights anew.
    let plan = guarded(|| model.into_optimized()?.into_runnable()).map_err(load)?;
    Ok(TractSession { plan, inputs, outputs, cache, takes_task_id: decoder.takes_task_id() })
}

impl TractSession {
    /// A dimension that the graph fixes and the inputs change is an error here, not a wrong answer.
    fn expect_dimensions(&self, inputs: &Inputs) -> Result<(), String> {
        for (index, name) in self.inputs.iter().enumerate() {
            let fact = self.plan.model().input_fact(index).map_err(|error| format!("{error:#}"))?;
            let wanted = dimensions(name, inputs, self.cache);
            let found = fact.shape.dims();
            if found.len() != wanted.len() {
                return Err(format!("input {name} has rank {}, expected {}", found.len(), wanted.len()));
            }
            for (dimension, value) in found.iter().zip(wanted) {
                if let TDim::Val(fixed) = dimension
                    && usize::try_from(*fixed) != Ok(value)
                {
                    return Err(format!("the graph fixes a dimension of {name} at {fixed}: cannot run {value}"));
                }
            }
        }
        Ok(())
    }

    fn tensors(&self, inputs: &Inputs) -> Result<TVec<TValue>, String> {
        let integers = |shape: &[usize], values: Vec<i64>| Tensor::from_shape(shape, &values);
        let empty = [inputs.batch_size(), self.cache.kv_heads, 0, self.cache.head_dim];
        let mut tensors = tvec!();
        for name in &self.inputs {
            let tensor = match name.as_str() {
                "input_ids" => integers(inputs.input_ids.shape(), inputs.input_ids.iter().copied().collect()),
                "attention_mask" => {
                    integers(inputs.attention_mask.shape(), inputs.attention_mask.iter().copied().collect())
                }
                "position_ids" => integers(inputs.position_ids.shape(), inputs.position_ids.iter().copied().collect()),
                "task_id" => integers(inputs.task_id.shape(), inputs.task_id.to_vec()),
                cached => {
                    let (layer, key) = cache_name(cached).ok_or_else(|| format!("unknown input {cached}"))?;
                    let past = inputs.past.as_ref().and_then(|layers| layers.get(layer));
                    let array = past.map(|past| if key { &past.key } else { &past.value });
                    let shape = array.map_or(&empty[..], |array| array.shape());
                    let values: Vec<f32> = array.map(|array| array.iter().copied().collect()).unwrap_or_default();
                    let tensor = Tensor::from_shape(shape, &values);
                    match self.cache.dtype {
                        CacheType::F32 => tensor,
                        CacheType::F16 => tensor.and_then(|tensor| Ok(tensor.cast_to::<f16>()?.into_owned())),
                    }
                }
            };
            tensors.push(tensor.map_err(|error| format!("{name}: {error:#}"))?.into_tvalue());
        }
        Ok(tensors)
    }

    fn run_plan(&self, inputs: &Inputs) -> Result<Outputs, String> {
        self.expect_dimensions(inputs)?;
        let tensors = self.tensors(inputs)?;
        let outputs = guarded(|| self.plan.run(tensors))?;
        let find = |name: &str| -> Result<(Vec<usize>, Vec<f32>), String> {
            let position = self.outputs.iter().position(|output| output == name);
            let value = position.and_then(|index| outputs.get(index)).ok_or_else(|| format!("no output {name}"))?;
            let value = value.cast_to::<f32>().map_err(|error| format!("{name}: {error:#}"))?;
            let view = value.to_plain_array_view::<f32>().map_err(|error| format!("{name}: {error:#}"))?;
            Ok((view.shape().to_vec(), view.iter().copied().collect()))
        };
        let cached = |name: String| -> Result<Array4<f32>, String> {
            let (shape, values) = find(&name)?;
            let shape: [usize; 4] =
                shape.try_into().map_err(|shape| format!("{name} has shape {shape:?}, expected rank 4"))?;
            Array4::from_shape_vec(shape, values).map_err(|error| error.to_string())
        };
        let (shape, values) = find("logits")?;
        let shape: [usize; 3] =
            shape.try_into().map_err(|shape| format!("logits has shape {shape:?}, expected rank 3"))?;
        let logits = Array3::from_shape_vec(shape, values).map_err(|error| error.to_string())?;
        let present = (0..self.cache.layers)
            .map(|layer| {
                let key = cached(format!("present.{layer}.key"))?;
                let value = cached(format!("present.{layer}.value"))?;
                Ok(KeyValue { key, value })
            })
            .collect::<Result<_, String>>()?;
        Ok(Outputs { logits, present })
    }
}

impl Session for TractSession {
    fn run(&mut self, inputs: &Inputs) -> Result<Outputs, RuntimeError> {
        inputs.validate(self.cache)?;
        let outputs = self.run_plan(inputs).map_err(|message| RuntimeError::Run {
            runtime: RUNTIME,
            inputs: inputs.describe(),
            message,
        })?;
        outputs.validate(RUNTIME, inputs, self.cache)?;
        Ok(outputs)
    }

    fn kind(&self) -> RuntimeKind {
        RUNTIME
    }

    fn version(&self) -> String {
        TRACT_VERSION.to_owned()
    }

    fn execution_provider(&self) -> Option<String> {
        None
    }

    fn cache_shape(&self) -> CacheShape {
        self.cache
    }

    fn takes_task_id(&self) -> bool {
        self.takes_task_id
    }
}

/// The version that `Cargo.toml` of the workspace pins.
const TRACT_VERSION: &str = "0.23.9";

/// Runs `work` and turns both errors and panics into text: tract panics, for instance, on an index out of range.
pub(crate) fn guarded<T>(work: impl FnOnce() -> TractResult<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| format!("{error:#}")),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Err(format!("tract panicked: {text}"))
        }
    }
}

fn dimensions(name: &str, inputs: &Inputs, cache: CacheShape) -> Vec<usize> {
    let (batch, sequence, past) = (inputs.batch_size(), inputs.sequence_length(), inputs.past_length());
    match name {
        "input_ids" | "position_ids" => vec![batch, sequence],
        "attention_mask" => vec![batch, past + sequence],
        "task_id" => vec![batch],
        _ => vec![batch, cache.kv_heads, past, cache.head_dim],
    }
}

/// Layer, and whether it is the key, of `past_key_values.N.key` or `.value`.
fn cache_name(name: &str) -> Option<(usize, bool)> {
    let (layer, part) = name.strip_prefix("past_key_values.")?.split_once('.')?;
    Some((layer.parse().ok()?, part == "key"))
}

fn cache_shape(model: &TypedModel, inputs: &[String], layers: usize) -> Result<CacheShape, String> {
    let name = "past_key_values.0.key";
    let wrong = || format!("input {name} must be a float32 or float16 tensor [batch_size, kv_heads, past, head_dim]");
    let index = inputs.iter().position(|input| input == name).ok_or_else(wrong)?;
    let fact = model.input_fact(index).map_err(|error| format!("{error:#}"))?;
    match fact.shape.dims() {
        [_, TDim::Val(heads), _, TDim::Val(width)] => {
            let dtype = match fact.datum_type {
                DatumType::F32 => CacheType::F32,
                DatumType::F16 => CacheType::F16,
                _ => return Err(wrong()),
            };
            let size = |value: &i64| usize::try_from(*value).map_err(|_| wrong());
            Ok(CacheShape { layers, kv_heads: size(heads)?, head_dim: size(width)?, dtype })
        }
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_version_is_the_locked_one() {
        let locked = format!("name = \"tract-onnx\"\nversion = \"{}\"", super::TRACT_VERSION);
        assert!(include_str!("../../../Cargo.lock").contains(&locked), "{locked}");
    }
}
