//! Values inside a graph, read by making them outputs of a copy of the graph in memory.

use super::graph::Graph;
use super::value::{NumberType, Numbers, Value};
use crate::ort_session::build;
use crate::tract::guarded;
use crate::{OpenOptions, RawTensor, RuntimeError, RuntimeKind, ort_cpu, ort_cuda, raw};
use half::{bf16, f16};
use ort::value::{DynValue, TensorElementType};
use tract_onnx::prelude::*;

/// What goes into a graph: inputs by name.
pub(super) type Feed = [(String, RawTensor)];

/// Runs `graph` once on `kind` and returns the values called `names`, in that order; one that cannot be read says why.
pub(super) fn observe(
    kind: RuntimeKind,
    graph: &Graph,
    names: &[String],
    feed: &Feed,
    options: &OpenOptions,
) -> Result<Vec<Result<Value, String>>, RuntimeError> {
    if kind == RuntimeKind::Tract {
        return on_tract(graph, names, feed);
    }
    let load = |message: String| RuntimeError::Load { runtime: kind, path: graph.path().to_owned(), message };
    let provider = if kind == RuntimeKind::OrtCuda { ort_cuda::provider(options)? } else { ort_cpu::provider() };
    // The copy exists in memory alone; this key says where the weights that it refers to are.
    let folder = graph.directory().canonicalize().map_err(|error| load(error.to_string()))?;
    let folder = folder.to_str().ok_or_else(|| load("the path of its folder is no Unicode text".to_owned()))?;
    let mut session = build(kind, provider, graph.path(), options)?
        .with_config_entry("session.model_external_initializers_file_folder_path", folder)
        .map_err(|error| load(error.to_string()))?
        .commit_from_memory(&graph.with_outputs(names))
        .map_err(|error| load(error.to_string()))?;
    let failed = |message: String| RuntimeError::Run { runtime: kind, inputs: describe(feed), message };
    let values = raw::ort_inputs(feed.iter().map(|(name, tensor)| (name.as_str(), tensor))).map_err(failed)?;
    let outputs = session.run(values).map_err(|error| failed(error.to_string()))?;
    let read = |name: &String| outputs.get(name).map_or_else(|| Err("it is no output".to_owned()), from_ort);
    Ok(names.iter().map(read).collect())
}

fn describe(feed: &Feed) -> String {
    let named = feed.iter().map(|(name, tensor)| format!("{name} {:?}", raw::shape(tensor)));
    named.filter(|text| !text.starts_with("past_key_values")).collect::<Vec<_>>().join(", ")
}

fn from_ort(value: &DynValue) -> Result<Value, String> {
    macro_rules! read {
        ($type:ty, $number_type:expr, $numbers:expr) => {{
            let (shape, data) = value.try_extract_tensor::<$type>().map_err(|error| error.to_string())?;
            let shape = shape.iter().map(|size| usize::try_from(*size).unwrap_or(0)).collect();
            Ok(Value::new($number_type, shape, $numbers(data)))
        }};
    }
    fn integers<T: Copy + Into<i64>>(data: &[T]) -> Numbers {
        Numbers::Integer(data.iter().map(|number| (*number).into()).collect())
    }
    match *value.data_type() {
        TensorElementType::Float32 => read!(f32, NumberType::F32, |data: &[f32]| Numbers::Float(data.to_vec())),
        TensorElementType::Float16 => read!(f16, NumberType::F16, |data: &[f16]| {
            Numbers::Float(data.iter().map(|number| number.to_f32()).collect())
        }),
        TensorElementType::Bfloat16 => read!(bf16, NumberType::Bf16, |data: &[bf16]| {
            Numbers::Float(data.iter().map(|number| number.to_f32()).collect())
        }),
        TensorElementType::Float64 => read!(f64, NumberType::F64, |data: &[f64]| Numbers::Double(data.to_vec())),
        TensorElementType::Int64 => read!(i64, NumberType::Integer, integers),
        TensorElementType::Int32 => read!(i32, NumberType::Integer, integers),
        TensorElementType::Int8 => read!(i8, NumberType::Integer, integers),
        TensorElementType::Uint8 => read!(u8, NumberType::Integer, integers),
        TensorElementType::Bool => read!(bool, NumberType::Integer, integers),
        other => Err(format!("its number type, {other:?}, is not read here")),
    }
}

fn on_tract(graph: &Graph, names: &[String], feed: &Feed) -> Result<Vec<Result<Value, String>>, RuntimeError> {
    let kind = RuntimeKind::Tract;
    let load = |message: String| RuntimeError::Load { runtime: kind, path: graph.path().to_owned(), message };
    let parsed = guarded(|| Ok(graph.tract_with_outputs(names))).flatten().map_err(load)?;
    let model = guarded(|| parsed.into_typed()?.into_decluttered()).map_err(load)?;
    let inputs: Vec<String> =
        model.inputs.iter().filter_map(|outlet| model.nodes().get(outlet.node)).map(|node| node.name.clone()).collect();
    // Labels name a value once; the order of outputs is that of the file, whatever became of labels.
    let mut outputs = graph.outputs();
    outputs.extend(names.iter().filter(|name| !graph.outputs().contains(name)).cloned());
    let plan = guarded(|| model.into_optimized()?.into_runnable()).map_err(load)?;
    let failed = |message: String| RuntimeError::Run { runtime: kind, inputs: describe(feed), message };
    let mut tensors: TVec<TValue> = TVec::new();
    for name in &inputs {
        let found = feed.iter().find(|(given, _)| given == name).map(|(_, tensor)| raw::tract_tensor(tensor));
        let tensor = found.unwrap_or_else(|| Err("it is missing".to_owned()));
        tensors.push(tensor.map_err(|error| failed(format!("input {name}: {error}")))?.into_tvalue());
    }
    let found = guarded(|| plan.run(tensors)).map_err(failed)?;
    let read = |name: &String| {
        let position = outputs.iter().position(|output| output == name);
        position.and_then(|index| found.get(index)).map_or_else(|| Err("it is no output".to_owned()), from_tract)
    };
    Ok(names.iter().map(read).collect())
}

fn from_tract(value: &TValue) -> Result<Value, String> {
    let text = |error| format!("{error:#}");
    let shape = value.shape().to_vec();
    let number_type = match value.datum_type() {
        DatumType::F32 => NumberType::F32,
        DatumType::F16 => NumberType::F16,
        DatumType::F64 => NumberType::F64,
        _ => NumberType::Integer,
    };
    let numbers = match number_type {
        NumberType::Integer => {
            let cast = value.cast_to::<i64>().map_err(text)?;
            Numbers::Integer(cast.to_plain_array_view::<i64>().map_err(text)?.iter().copied().collect())
        }
        NumberType::F64 => Numbers::Double(value.to_plain_array_view::<f64>().map_err(text)?.iter().copied().collect()),
        _ => {
            let cast = value.cast_to::<f32>().map_err(text)?;
            Numbers::Float(cast.to_plain_array_view::<f32>().map_err(text)?.iter().copied().collect())
        }
    };
    Ok(Value::new(number_type, shape, numbers))
}
