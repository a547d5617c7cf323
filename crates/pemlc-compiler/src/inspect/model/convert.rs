//! From protobuf messages. Consumes them, so that no weight is in memory twice.

use super::{Attribute, AttributeValue, Dimension, Function, Graph, Model, Node, Storage, TensorType, Value, Weight};
use crate::inspect::elements::Place;
use crate::inspect::number::DataType;
use std::path::Path;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataLocation;
use tract_onnx::pb::tensor_shape_proto::dimension;
use tract_onnx::pb::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, TypeProto,
    ValueInfoProto, type_proto,
};

pub(super) fn model(proto: ModelProto, graph_proto: GraphProto, directory: &Path) -> Model {
    let domain = |domain: String| if domain.is_empty() { "ai.onnx".to_owned() } else { domain };
    Model {
        ir_version: proto.ir_version,
        opsets: proto.opset_import.into_iter().map(|opset| (domain(opset.domain), opset.version)).collect(),
        metadata: proto.metadata_props.into_iter().map(|entry| (entry.key, entry.value)).collect(),
        functions: proto.functions.into_iter().map(function).collect(),
        graph: graph(graph_proto),
        directory: directory.to_owned(),
    }
}

fn function(proto: FunctionProto) -> Function {
    Function {
        name: proto.name.unwrap_or_default(),
        domain: standard(proto.domain.unwrap_or_default()),
        inputs: proto.input,
        outputs: proto.output,
        nodes: proto.node.into_iter().map(node).collect(),
    }
}

/// The standard domain has two names.
fn standard(domain: String) -> String {
    if domain == "ai.onnx" { String::new() } else { domain }
}

fn graph(proto: GraphProto) -> Graph {
    let values = |values: Vec<ValueInfoProto>| values.into_iter().map(value).collect();
    let dense = proto.initializer.into_iter().map(weight);
    Graph {
        inputs: values(proto.input),
        outputs: values(proto.output),
        values: values(proto.value_info),
        weights: dense.chain(proto.sparse_initializer.into_iter().map(sparse)).collect(),
        nodes: proto.node.into_iter().map(node).collect(),
    }
}

fn value(proto: ValueInfoProto) -> Value {
    Value { name: proto.name, declared: proto.r#type.and_then(tensor_type) }
}

fn tensor_type(proto: TypeProto) -> Option<TensorType> {
    let type_proto::Value::TensorType(tensor) = proto.value?;
    let dimension = |dim: tract_onnx::pb::tensor_shape_proto::Dimension| match dim.value {
        Some(dimension::Value::DimValue(size)) => Dimension::Fixed(size),
        Some(dimension::Value::DimParam(symbol)) if !symbol.is_empty() => Dimension::Symbol(symbol.into()),
        _ => Dimension::Unknown,
    };
    let shape = tensor.shape.map(|shape| shape.dim.into_iter().map(dimension).collect());
    Some(TensorType { dtype: DataType(tensor.elem_type), shape })
}

fn node(proto: NodeProto) -> Node {
    Node {
        name: proto.name,
        operator: proto.op_type,
        domain: standard(proto.domain),
        inputs: proto.input,
        outputs: proto.output,
        attributes: proto.attribute.into_iter().map(attribute).collect(),
    }
}

fn attribute(proto: AttributeProto) -> Attribute {
    let value = if !proto.ref_attr_name.is_empty() {
        AttributeValue::Reference(proto.ref_attr_name)
    } else if let Some(inner) = proto.g {
        AttributeValue::Graph(graph(inner))
    } else {
        match AttributeType::try_from(proto.r#type) {
            Ok(AttributeType::Float) => AttributeValue::Float(proto.f),
            Ok(AttributeType::Int) => AttributeValue::Int(proto.i),
            Ok(AttributeType::String) => AttributeValue::Text(proto.s),
            Ok(AttributeType::Tensor) => proto.t.map_or_else(
                || AttributeValue::Other("tensor".to_owned()),
                |tensor| AttributeValue::Tensor(weight(tensor)),
            ),
            Ok(AttributeType::Floats) => AttributeValue::Floats(proto.floats),
            Ok(AttributeType::Ints) => AttributeValue::Ints(proto.ints),
            Ok(AttributeType::Strings) => AttributeValue::Texts(proto.strings),
            Ok(AttributeType::Tensors) => AttributeValue::Tensors(proto.tensors.into_iter().map(weight).collect()),
            Ok(AttributeType::Graphs) => AttributeValue::Graphs(proto.graphs.into_iter().map(graph).collect()),
            Ok(kind) => AttributeValue::Other(format!("{kind:?}").to_lowercase()),
            Err(_) => AttributeValue::Other(format!("attribute type {}", proto.r#type)),
        }
    };
    Attribute { name: proto.name, value }
}

fn sparse(proto: SparseTensorProto) -> Weight {
    let mut values = weight(proto.values.unwrap_or_default());
    values.stored = Some(values.elements().unwrap_or(u64::MAX));
    values.dims = proto.dims;
    values
}

fn weight(mut proto: TensorProto) -> Weight {
    let dtype = DataType(proto.data_type);
    let storage = if proto.data_location == Some(DataLocation::External as i32) {
        let fields = proto.external_data.iter().map(|entry| (entry.key.as_str(), entry.value.as_str()));
        Place::from_fields(fields).map_or_else(Storage::Broken, Storage::External)
    } else if proto.raw_data.is_empty() {
        Storage::Inline(typed_bytes(&proto))
    } else {
        Storage::Inline(std::mem::take(&mut proto.raw_data))
    };
    Weight { name: proto.name, dtype, dims: proto.dims, stored: None, storage }
}

/// The values of the typed fields as `raw_data` would hold them.
fn typed_bytes(proto: &TensorProto) -> Vec<u8> {
    let (narrow, wide) = (&proto.int32_data, &proto.uint64_data);
    match proto.data_type {
        // Types that travel in a wider field: its low bytes are theirs. Of four-bit types each entry is a byte of two.
        2 | 3 | 9 | 17..=23 => narrow.iter().map(|value| value.to_le_bytes()[0]).collect(),
        4 | 5 | 10 | 16 => narrow.iter().flat_map(|value| value.to_le_bytes().into_iter().take(2)).collect(),
        6 => narrow.iter().flat_map(|value| value.to_le_bytes()).collect(),
        7 => proto.int64_data.iter().flat_map(|value| value.to_le_bytes()).collect(),
        8 => {
            let with_length = |text: &Vec<u8>| [&(text.len() as u64).to_le_bytes(), text.as_slice()].concat();
            proto.string_data.iter().flat_map(with_length).collect()
        }
        11 | 15 => proto.double_data.iter().flat_map(|value| value.to_le_bytes()).collect(),
        12 => wide.iter().flat_map(|value| value.to_le_bytes().into_iter().take(4)).collect(),
        13 => wide.iter().flat_map(|value| value.to_le_bytes()).collect(),
        _ => proto.float_data.iter().flat_map(|value| value.to_le_bytes()).collect(),
    }
}
