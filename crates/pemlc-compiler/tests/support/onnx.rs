//! Small ONNX models made by hand, as other exporters could have written them.

use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::tensor_shape_proto::Dimension;
use onnx_protobuf::type_proto::Tensor as TensorType;
use onnx_protobuf::{
    AttributeProto, FunctionProto, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto,
    StringStringEntryProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto,
};
use protobuf::{EnumOrUnknown, MessageField};
use std::path::{Path, PathBuf};

pub fn node(operator: &str, name: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let mut node = NodeProto::new();
    if let Some((domain, operator)) = operator.split_once(':') {
        (node.domain, node.op_type) = (domain.to_owned(), operator.to_owned());
    } else {
        node.op_type = operator.to_owned();
    }
    node.name = name.to_owned();
    node.input = inputs.iter().map(ToString::to_string).collect();
    node.output = outputs.iter().map(ToString::to_string).collect();
    node
}

pub fn with(mut node: NodeProto, attribute: AttributeProto) -> NodeProto {
    node.attribute.push(attribute);
    node
}

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    let mut attribute = AttributeProto::new();
    attribute.name = name.to_owned();
    attribute.type_ = EnumOrUnknown::new(kind);
    attribute
}

pub fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { i: value, ..attribute(name, AttributeType::INT) }
}

pub fn text(name: &str, value: &str) -> AttributeProto {
    AttributeProto { s: value.as_bytes().to_vec(), ..attribute(name, AttributeType::STRING) }
}

pub fn inner(name: &str, graph: GraphProto) -> AttributeProto {
    AttributeProto { g: MessageField::some(graph), ..attribute(name, AttributeType::GRAPH) }
}

pub fn reference(name: &str, of: &str) -> AttributeProto {
    AttributeProto { ref_attr_name: of.to_owned(), ..attribute(name, AttributeType::INT) }
}

/// A tensor of ONNX type `dtype`, little-endian.
pub fn raw(name: &str, dtype: i32, dims: &[i64], bytes: Vec<u8>) -> TensorProto {
    TensorProto { name: name.to_owned(), data_type: dtype, dims: dims.to_vec(), raw_data: bytes, ..TensorProto::new() }
}

pub fn floats(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    raw(name, 1, dims, values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

pub fn integers(name: &str, values: &[i64]) -> TensorProto {
    raw(name, 7, &[values.len() as i64], values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

pub fn external(name: &str, dtype: i32, dims: &[i64], fields: &[(&str, &str)]) -> TensorProto {
    let mut tensor = raw(name, dtype, dims, Vec::new());
    tensor.data_location = EnumOrUnknown::from_i32(1);
    tensor.external_data = fields.iter().map(|(key, value)| entry(key, value)).collect();
    tensor
}

fn entry(key: &str, value: &str) -> StringStringEntryProto {
    let mut entry = StringStringEntryProto::new();
    (entry.key, entry.value) = (key.to_owned(), value.to_owned());
    entry
}

/// A value of ONNX type `dtype`; dimensions are numbers, symbols or `?`.
pub fn value(name: &str, dtype: i32, dims: &[&str]) -> ValueInfoProto {
    let mut tensor = TensorType::new();
    tensor.elem_type = dtype;
    let mut shape = TensorShapeProto::new();
    for dim in dims {
        let mut dimension = Dimension::new();
        match dim.parse() {
            Ok(size) => dimension.set_dim_value(size),
            Err(_) if *dim == "?" => {}
            Err(_) => dimension.set_dim_param((*dim).to_owned()),
        }
        shape.dim.push(dimension);
    }
    tensor.shape = MessageField::some(shape);
    let mut type_ = TypeProto::new();
    type_.set_tensor_type(tensor);
    let mut value = ValueInfoProto::new();
    (value.name, value.type_) = (name.to_owned(), MessageField::some(type_));
    value
}

pub fn graph(
    inputs: Vec<ValueInfoProto>,
    outputs: Vec<ValueInfoProto>,
    weights: Vec<TensorProto>,
    nodes: Vec<NodeProto>,
) -> GraphProto {
    GraphProto { input: inputs, output: outputs, initializer: weights, node: nodes, ..GraphProto::new() }
}

pub fn function(domain: &str, name: &str, inputs: &[&str], outputs: &[&str], nodes: Vec<NodeProto>) -> FunctionProto {
    let mut function = FunctionProto::new();
    (function.domain, function.name) = (domain.to_owned(), name.to_owned());
    function.input = inputs.iter().map(ToString::to_string).collect();
    function.output = outputs.iter().map(ToString::to_string).collect();
    function.node = nodes;
    function
}

pub fn model(opset: i64, graph: GraphProto) -> ModelProto {
    let mut version = OperatorSetIdProto::new();
    version.version = opset;
    let mut model = ModelProto::new();
    model.ir_version = 8;
    model.opset_import.push(version);
    model.graph = MessageField::some(graph);
    model
}

pub fn write(directory: &Path, name: &str, model: &ModelProto) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, model.write_to_bytes().unwrap()).unwrap();
    path
}
