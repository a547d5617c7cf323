//! What the execution providers of ONNX Runtime have in common.

use crate::ort_profile::FirstRun;
use crate::session::{Decoder, Session};
use crate::{
    CacheShape, CacheType, Inputs, KeyValue, OpenOptions, Outputs, RuntimeError, RuntimeKind, ort_environment,
};
use half::f16;
use ndarray::{Array3, Array4};
use ort::ep::ExecutionProviderDispatch;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{Adapter, RunOptions, Session as OnnxSession, SessionInputValue};
use ort::value::{DynValue, Tensor, TensorElementType, TensorRef, ValueType};
use std::borrow::Cow;
use std::path::{Path, PathBuf};

pub(crate) struct OrtSession {
    session: OnnxSession,
    kind: RuntimeKind,
    cache: CacheShape,
    takes_task_id: bool,
    /// Brings the adapter along, where there is one.
    run: RunOptions,
    first_run: FirstRun,
}

impl OrtSession {
    pub(crate) fn open(
        kind: RuntimeKind,
        provider: ExecutionProviderDispatch,
        provider_name: &'static str,
        model: &Path,
        decoder: &Decoder,
        options: &OpenOptions,
    ) -> Result<Self, RuntimeError> {
        let failed = |message: String| RuntimeError::Load { runtime: kind, path: model.to_owned(), message };
        let builder = build(kind, provider, model, options)?;
        let (first_run, mut builder) = FirstRun::of(builder, provider_name).map_err(failed)?;
        let session = builder.commit_from_file(model).map_err(|error| failed(error.to_string()))?;
        let interface = |message: String| RuntimeError::Interface { runtime: kind, path: model.to_owned(), message };
        let cache = cache_shape(&session, decoder).map_err(interface)?;
        let run = run_options(decoder).map_err(|(path, error)| RuntimeError::Load {
            runtime: kind,
            path,
            message: error.to_string(),
        })?;
        Ok(Self { session, kind, cache, takes_task_id: decoder.takes_task_id(), run, first_run })
    }
}

/// A session's builder with the execution provider asked for and no other.
pub(crate) fn build(
    kind: RuntimeKind,
    provider: ExecutionProviderDispatch,
    model: &Path,
    options: &OpenOptions,
) -> Result<SessionBuilder, RuntimeError> {
    let environment = ort_environment::environment(options)?;
    let failed = |message: String| RuntimeError::Load { runtime: kind, path: model.to_owned(), message };
    let level = match kind {
        RuntimeKind::OrtCpuUnoptimized => GraphOptimizationLevel::Disable,
        _ => GraphOptimizationLevel::All,
    };
    let mut builder = OnnxSession::builder(environment)
        .map_err(|error| failed(error.to_string()))?
        .with_optimization_level(level)
        .map_err(|error| failed(error.to_string()))?
        .with_execution_providers([provider])
        .map_err(|error| RuntimeError::Provider { runtime: kind, message: error.to_string() })?;
    if let Some(threads) = options.threads {
        builder = builder.with_intra_threads(threads).map_err(|error| failed(error.to_string()))?;
    }
    Ok(builder)
}

impl Session for OrtSession {
    fn run(&mut self, inputs: &Inputs) -> Result<Outputs, RuntimeError> {
        inputs.validate(self.cache)?;
        let answer = run(&mut self.session, inputs, self.cache, self.takes_task_id, &self.run);
        let outputs =
            answer.map_err(|message| RuntimeError::Run { runtime: self.kind, inputs: inputs.describe(), message })?;
        let provider = self.first_run.verify(&mut self.session);
        provider.map_err(|message| RuntimeError::Provider { runtime: self.kind, message })?;
        outputs.validate(self.kind, inputs, self.cache)?;
        Ok(outputs)
    }

    fn kind(&self) -> RuntimeKind {
        self.kind
    }

    fn version(&self) -> String {
        ort_environment::version()
    }

    fn execution_provider(&self) -> Option<String> {
        self.first_run.provider().map(str::to_owned)
    }

    fn cache_shape(&self) -> CacheShape {
        self.cache
    }

    fn takes_task_id(&self) -> bool {
        self.takes_task_id
    }
}

/// Options of every run of `decoder`; an error names the file.
fn run_options(decoder: &Decoder) -> Result<RunOptions, (PathBuf, ort::Error)> {
    let path = match decoder {
        Decoder::Adapted(Some(path)) => path.clone(),
        _ => PathBuf::new(),
    };
    let mut options = RunOptions::new().map_err(|error| (path.clone(), error))?;
    if let Decoder::Adapted(Some(path)) = decoder {
        let adapter = Adapter::from_file(path, None).map_err(|error| (path.clone(), error))?;
        options.add_adapter(&adapter).map_err(|error| (path.clone(), error))?;
    }
    Ok(options)
}

fn run(
    session: &mut OnnxSession,
    inputs: &Inputs,
    cache: CacheShape,
    takes_task_id: bool,
    options: &RunOptions,
) -> Result<Outputs, String> {
    let text = |error: ort::Error| error.to_string();
    let integers = |values: Vec<i64>, shape: &[usize]| Tensor::from_array((shape.to_vec(), values)).map_err(text);
    let mut values: Vec<(Cow<'static, str>, SessionInputValue<'_>)> = Vec::new();
    let names = [
        ("input_ids", &inputs.input_ids),
        ("attention_mask", &inputs.attention_mask),
        ("position_ids", &inputs.position_ids),
    ];
    for (name, array) in names {
        values.push((name.into(), integers(array.iter().copied().collect(), array.shape())?.into()));
    }
    if takes_task_id {
        values.push(("task_id".into(), integers(inputs.task_id.to_vec(), inputs.task_id.shape())?.into()));
    }
    let empty = [inputs.batch_size(), cache.kv_heads, 0, cache.head_dim];
    for layer in 0..cache.layers {
        let past = inputs.past.as_ref().and_then(|layers| layers.get(layer));
        for (part, array) in [("key", past.map(|past| &past.key)), ("value", past.map(|past| &past.value))] {
            let name = format!("past_key_values.{layer}.{part}").into();
            let value: SessionInputValue<'_> = match (array, cache.dtype) {
                (None, CacheType::F32) => Tensor::from_array((empty.to_vec(), Vec::<f32>::new())).map_err(text)?.into(),
                (None, CacheType::F16) => Tensor::from_array((empty.to_vec(), Vec::<f16>::new())).map_err(text)?.into(),
                (Some(array), CacheType::F16) => {
                    let values: Vec<f16> = array.iter().map(|value| f16::from_f32(*value)).collect();
                    Tensor::from_array((array.shape().to_vec(), values)).map_err(text)?.into()
                }
                (Some(array), CacheType::F32) => match array.as_slice() {
                    Some(slice) => TensorRef::from_array_view((array.shape(), slice)).map_err(text)?.into(),
                    None => Tensor::from_array((array.shape().to_vec(), array.iter().copied().collect::<Vec<f32>>()))
                        .map_err(text)?
                        .into(),
                },
            };
            values.push((name, value));
        }
    }
    let outputs = session.run_with_options(values, options).map_err(text)?;
    let get = |name: &str| outputs.get(name).ok_or_else(|| format!("no output {name}"));
    let cached = |name: String| -> Result<Array4<f32>, String> {
        let (shape, data) = floats(&name, get(&name)?)?;
        let shape: [usize; 4] =
            shape.try_into().map_err(|shape| format!("{name} has shape {shape:?}, expected rank 4"))?;
        Array4::from_shape_vec(shape, data.into_owned()).map_err(|error| error.to_string())
    };
    let (shape, data) = floats("logits", get("logits")?)?;
    let shape: [usize; 3] = shape.try_into().map_err(|shape| format!("logits has shape {shape:?}, expected rank 3"))?;
    let logits = Array3::from_shape_vec(shape, data.into_owned()).map_err(|error| error.to_string())?;
    let present = (0..cache.layers)
        .map(|layer| {
            let key = cached(format!("present.{layer}.key"))?;
            let value = cached(format!("present.{layer}.value"))?;
            Ok(KeyValue { key, value })
        })
        .collect::<Result<_, String>>()?;
    Ok(Outputs { logits, present })
}

/// Shape and values of an f32 or f16 output.
fn floats<'v>(name: &str, value: &'v DynValue) -> Result<(Vec<usize>, Cow<'v, [f32]>), String> {
    let failed = |error: ort::Error| format!("{name}: {error}");
    let shape = |shape: &[i64]| shape.iter().map(|size| usize::try_from(*size).unwrap_or(0)).collect();
    if *value.data_type() == TensorElementType::Float16 {
        let (dimensions, data) = value.try_extract_tensor::<f16>().map_err(failed)?;
        return Ok((shape(dimensions), data.iter().map(|value| value.to_f32()).collect()));
    }
    let (dimensions, data) = value.try_extract_tensor::<f32>().map_err(failed)?;
    Ok((shape(dimensions), Cow::Borrowed(data)))
}

/// Checks names and types of inputs and outputs, and reads the cache's shape from them.
fn cache_shape(session: &OnnxSession, decoder: &Decoder) -> Result<CacheShape, String> {
    let inputs: Vec<_> = session.inputs().iter().map(|input| (input.name(), dimensions(input.dtype()))).collect();
    let outputs: Vec<&str> = session.outputs().iter().map(|output| output.name()).collect();
    let names: Vec<&str> = inputs.iter().map(|(name, _)| *name).collect();
    let layers = crate::session::layers(&names, &outputs, decoder)?;
    let wrong =
        |name: &str| format!("input {name} must be a float32 or float16 tensor [batch_size, kv_heads, past, head_dim]");
    let name = "past_key_values.0.key";
    let (_, declared) = inputs.iter().find(|(input, _)| *input == name).ok_or_else(|| wrong(name))?;
    match declared {
        Some((dtype, [_, heads, _, width])) if *heads > 0 && *width > 0 => Ok(CacheShape {
            layers,
            dtype: *dtype,
            kv_heads: usize::try_from(*heads).unwrap_or(0),
            head_dim: usize::try_from(*width).unwrap_or(0),
        }),
        _ => Err(wrong(name)),
    }
}

/// Number type and four dimensions of a cache input.
fn dimensions(value: &ValueType) -> Option<(CacheType, [i64; 4])> {
    let ValueType::Tensor { ty, shape, .. } = value else { return None };
    let dtype = match ty {
        TensorElementType::Float32 => CacheType::F32,
        TensorElementType::Float16 => CacheType::F16,
        _ => return None,
    };
    Some((dtype, shape.to_vec().try_into().ok()?))
}
