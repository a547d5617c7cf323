//! A graph of any inputs and outputs, by name: for graphs that are not decoders.

use crate::ort_profile::FirstRun;
use crate::ort_session::build;
use crate::tract::guarded;
use crate::{OpenOptions, RuntimeError, RuntimeKind, ort_cpu, ort_cuda};
use half::f16;
use ndarray::ArrayD;
use ort::ep::{CPU, CUDA, ExecutionProvider};
use ort::session::{Session as OnnxSession, SessionInputValue};
use ort::value::Tensor as OrtTensor;
use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use tract_onnx::prelude::*;

/// A tensor that goes in.
#[derive(Debug, Clone, PartialEq)]
pub enum RawTensor {
    /// 32-bit floats.
    F32(ArrayD<f32>),
    /// 64-bit integers.
    I64(ArrayD<i64>),
    /// 16-bit floats, given in 32.
    F16(ArrayD<f32>),
}

/// A loaded graph.
pub struct RawSession {
    kind: RuntimeKind,
    inputs: Vec<String>,
    overridable: Vec<String>,
    outputs: Vec<String>,
    engine: Engine,
}

enum Engine {
    Ort(Box<OnnxSession>, FirstRun),
    Tract(Arc<TypedRunnableModel>),
}

impl RawSession {
    /// Loads `model` with one runtime. ONNX Runtime's execution provider is the one asked for, or this fails.
    ///
    /// # Errors
    /// When the runtime or its execution provider is not available or refuses the graph.
    pub fn open(kind: RuntimeKind, model: &Path, options: &OpenOptions) -> Result<Self, RuntimeError> {
        let load = |message: String| RuntimeError::Load { runtime: kind, path: model.to_owned(), message };
        if kind == RuntimeKind::Tract {
            let graph = guarded(|| tract_onnx::onnx().model_for_path(model)?.into_typed()?.into_decluttered());
            let graph = graph.map_err(load)?;
            let name = |node: usize| graph.nodes().get(node).map_or_else(String::new, |node| node.name.clone());
            let inputs = graph.inputs.iter().map(|outlet| name(outlet.node)).collect();
            let label = |outlet| graph.outlet_label(outlet).map_or_else(String::new, str::to_owned);
            let outputs = graph.outputs.iter().map(|outlet| label(*outlet)).collect();
            let plan = guarded(|| graph.into_optimized()?.into_runnable()).map_err(load)?;
            // tract takes a default for a constant.
            return Ok(Self { kind, inputs, overridable: Vec::new(), outputs, engine: Engine::Tract(plan) });
        }
        let (provider, name) = match kind {
            RuntimeKind::OrtCuda => (ort_cuda::provider(options)?, CUDA::NAME),
            _ => (ort_cpu::provider(), CPU::NAME),
        };
        let builder = build(kind, provider, model, options)?;
        let (first_run, mut builder) = FirstRun::of(builder, name).map_err(load)?;
        let session = builder.commit_from_file(model);
        let session = session.map_err(|error| load(error.to_string()))?;
        let inputs = session.inputs().iter().map(|input| input.name().to_owned()).collect();
        let overridable = session.overridable_initializers();
        let overridable = overridable.iter().map(|initialiser| initialiser.name().to_owned()).collect();
        let outputs = session.outputs().iter().map(|output| output.name().to_owned()).collect();
        Ok(Self { kind, inputs, overridable, outputs, engine: Engine::Ort(Box::new(session), first_run) })
    }

    /// The runtime.
    pub fn kind(&self) -> RuntimeKind {
        self.kind
    }

    /// Names of the graph's inputs, in its order.
    pub fn inputs(&self) -> &[String] {
        &self.inputs
    }

    /// Names of the graph's outputs, in its order.
    pub fn outputs(&self) -> &[String] {
        &self.outputs
    }

    /// Runs the graph once and returns the f32 output `output`.
    ///
    /// # Errors
    /// When an input is missing or unknown, when the runtime fails, and when the output is not there or not f32.
    pub fn run(&mut self, feed: &[(&str, RawTensor)], output: &str) -> Result<ArrayD<f32>, RuntimeError> {
        let described: Vec<String> = feed.iter().map(|(name, tensor)| format!("{name} {:?}", shape(tensor))).collect();
        let failed = |message| RuntimeError::Run { runtime: self.kind, inputs: described.join(", "), message };
        if let Some(missing) = self.inputs.iter().find(|name| !feed.iter().any(|(given, _)| given == name)) {
            return Err(RuntimeError::Inputs(format!("input {missing} is missing")));
        }
        let known = || self.inputs.iter().chain(&self.overridable);
        if let Some((unknown, _)) = feed.iter().find(|(given, _)| !known().any(|name| name == given)) {
            return Err(RuntimeError::Inputs(format!("input {unknown} is not one of {}", self.inputs.join(", "))));
        }
        let position = self.outputs.iter().position(|name| name == output);
        let position = position.ok_or_else(|| failed(format!("no output {output}")))?;
        match &mut self.engine {
            Engine::Ort(session, first_run) => {
                let answer = run_ort(session, feed, output).map_err(failed)?;
                let provider = first_run.verify(session);
                provider.map_err(|message| RuntimeError::Provider { runtime: self.kind, message })?;
                Ok(answer)
            }
            Engine::Tract(plan) => run_tract(plan, &self.inputs, feed, position).map_err(failed),
        }
    }
}

/// Dimensions.
pub(crate) fn shape(tensor: &RawTensor) -> &[usize] {
    match tensor {
        RawTensor::F32(array) | RawTensor::F16(array) => array.shape(),
        RawTensor::I64(array) => array.shape(),
    }
}

/// Tensors for ONNX Runtime.
pub(crate) fn ort_inputs<'t>(
    feed: impl Iterator<Item = (&'t str, &'t RawTensor)>,
) -> Result<Vec<(Cow<'t, str>, SessionInputValue<'static>)>, String> {
    let text = |error: ort::Error| error.to_string();
    let value = |tensor: &RawTensor| -> Result<SessionInputValue<'static>, String> {
        let shape = shape(tensor).to_vec();
        Ok(match tensor {
            RawTensor::F32(array) => {
                OrtTensor::from_array((shape, array.iter().copied().collect::<Vec<_>>())).map_err(text)?.into()
            }
            RawTensor::F16(array) => {
                let values: Vec<f16> = array.iter().map(|value| f16::from_f32(*value)).collect();
                OrtTensor::from_array((shape, values)).map_err(text)?.into()
            }
            RawTensor::I64(array) => {
                OrtTensor::from_array((shape, array.iter().copied().collect::<Vec<_>>())).map_err(text)?.into()
            }
        })
    };
    feed.map(|(name, tensor)| Ok((Cow::Borrowed(name), value(tensor)?))).collect()
}

/// A tensor for tract.
pub(crate) fn tract_tensor(tensor: &RawTensor) -> Result<Tensor, String> {
    let tensor = match tensor {
        RawTensor::F32(array) => Tensor::from_shape(array.shape(), &array.iter().copied().collect::<Vec<f32>>()),
        RawTensor::F16(array) => {
            let tensor = Tensor::from_shape(array.shape(), &array.iter().copied().collect::<Vec<f32>>());
            tensor.and_then(|tensor| Ok(tensor.cast_to::<f16>()?.into_owned()))
        }
        RawTensor::I64(array) => Tensor::from_shape(array.shape(), &array.iter().copied().collect::<Vec<i64>>()),
    };
    tensor.map_err(|error| format!("{error:#}"))
}

fn run_ort(session: &mut OnnxSession, feed: &[(&str, RawTensor)], output: &str) -> Result<ArrayD<f32>, String> {
    let text = |error: ort::Error| error.to_string();
    let values = ort_inputs(feed.iter().map(|(name, tensor)| (*name, tensor)))?;
    let outputs = session.run(values).map_err(text)?;
    let value = outputs.get(output).ok_or_else(|| format!("no output {output}"))?;
    let (shape, data) = value.try_extract_tensor::<f32>().map_err(text)?;
    let shape: Vec<usize> = shape.iter().map(|size| usize::try_from(*size).unwrap_or(0)).collect();
    ArrayD::from_shape_vec(shape, data.to_vec()).map_err(|error| error.to_string())
}

fn run_tract(
    plan: &Arc<TypedRunnableModel>,
    inputs: &[String],
    feed: &[(&str, RawTensor)],
    output: usize,
) -> Result<ArrayD<f32>, String> {
    let mut values: TVec<TValue> = tvec!();
    for name in inputs {
        let tensor = feed.iter().find(|(given, _)| given == name).map(|(_, tensor)| tensor);
        let tensor = tract_tensor(tensor.ok_or_else(|| format!("input {name} is missing"))?);
        values.push(tensor.map_err(|error| format!("{name}: {error}"))?.into_tvalue());
    }
    let outputs = guarded(|| plan.run(values))?;
    let value = outputs.get(output).ok_or("the output is missing")?;
    let view = value.to_plain_array_view::<f32>().map_err(|error| format!("{error:#}"))?;
    ArrayD::from_shape_vec(view.shape().to_vec(), view.iter().copied().collect()).map_err(|error| error.to_string())
}
