//! The IR as an ONNX `ModelProto`. The only file that knows protobuf types on the way out.

use super::external_data::{Place, inline};
use crate::ir::{DType, Dim, Graph, Node, Op, Tensor, Unary, ValueId, ValueType};
use crate::target::Target;
use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::tensor_proto::DataLocation;
use onnx_protobuf::tensor_shape_proto::Dimension;
use onnx_protobuf::type_proto::Tensor as TensorType;
use onnx_protobuf::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto,
};
use protobuf::{EnumOrUnknown, MessageField};
use std::collections::{BTreeMap, BTreeSet};

/// Numbers of `TensorProto.DataType`.
fn data_type(dtype: DType) -> i32 {
    match dtype {
        DType::F32 => 1,
        DType::U8 => 2,
        DType::I8 => 3,
        DType::I32 => 6,
        DType::I64 => 7,
        DType::Bool => 9,
        DType::F16 => 10,
        DType::BF16 => 16,
        DType::U4 => 21,
        DType::I4 => 22,
    }
}

/// The model that holds `graph`, its weights at `places` in the file `data_file`.
pub(super) fn model(
    graph: &Graph,
    places: &BTreeMap<ValueId, Place>,
    data_file: &str,
    metadata: &[(String, String)],
    target: Target,
) -> ModelProto {
    let mut model = ModelProto::new();
    model.ir_version = target.opset.ir_version();
    model.producer_name = "pemlc".to_owned();
    model.producer_version = env!("CARGO_PKG_VERSION").to_owned();
    let own = graph.nodes().iter().map(|node| node.op.domain()).filter(|domain| !domain.is_empty());
    let own: BTreeSet<&str> = own.collect();
    let sets = std::iter::once(("", target.opset.number())).chain(own.into_iter().map(|domain| (domain, 1)));
    model.opset_import = sets.map(|(domain, version)| operator_set(domain, version)).collect();
    model.metadata_props = metadata.iter().map(|(key, value)| entry(key, value)).collect();
    model.graph = MessageField::some(Emitter::default().graph(graph, places, data_file));
    model
}

fn operator_set(domain: &str, version: i64) -> OperatorSetIdProto {
    let mut set = OperatorSetIdProto::new();
    set.domain = domain.to_owned();
    set.version = version;
    set
}

fn entry(key: &str, value: &str) -> StringStringEntryProto {
    let mut entry = StringStringEntryProto::new();
    entry.key = key.to_owned();
    entry.value = value.to_owned();
    entry
}

/// Collects the small constants that ONNX wants as inputs where the IR has attributes.
#[derive(Default)]
struct Emitter {
    constants: BTreeMap<String, TensorProto>,
}

impl Emitter {
    fn graph(mut self, graph: &Graph, places: &BTreeMap<ValueId, Place>, data_file: &str) -> GraphProto {
        let mut proto = GraphProto::new();
        proto.name = graph.name.clone();
        let overridable = graph.initialisers().map(|(id, _)| id).filter(|id| graph.is_overridable(*id));
        proto.input = graph.inputs().iter().copied().chain(overridable).map(|id| value_info(graph, id, true)).collect();
        proto.output = graph.outputs().iter().map(|id| value_info(graph, *id, true)).collect();
        proto.node = graph.nodes().iter().map(|node| self.node(graph, node)).collect();
        let inner =
            graph.nodes().iter().flat_map(|node| &node.outputs).copied().filter(|id| !graph.outputs().contains(id));
        proto.value_info = inner.map(|id| value_info(graph, id, false)).collect();
        for (id, expression) in graph.initialisers() {
            let value = graph.value(id);
            let mut tensor = TensorProto::new();
            tensor.name = value.name.clone();
            tensor.data_type = data_type(value.value_type.dtype);
            tensor.dims =
                value.value_type.fixed_shape().unwrap_or_default().into_iter().map(|size| size as i64).collect();
            if let Some(constant) = inline(expression) {
                tensor.raw_data = constant.to_bytes();
            } else if let Some(place) = places.get(&id) {
                tensor.data_location = EnumOrUnknown::new(DataLocation::EXTERNAL);
                tensor.external_data = vec![
                    entry("location", data_file),
                    entry("offset", &place.offset.to_string()),
                    entry("length", &place.bytes.to_string()),
                ];
            }
            proto.initializer.push(tensor);
        }
        proto.initializer.extend(self.constants.into_values());
        proto
    }

    fn node(&mut self, graph: &Graph, node: &Node) -> NodeProto {
        let name = |id: &ValueId| graph.value(*id).name.clone();
        let mut proto = NodeProto::new();
        proto.name = name(&node.output());
        proto.op_type = node.op.name().to_owned();
        proto.domain = node.op.domain().to_owned();
        proto.input = node.inputs.iter().map(name).collect();
        proto.output = node.outputs.iter().map(name).collect();
        match &node.op {
            Op::Unary(Unary::QuickGelu) => proto.attribute.push(float("alpha", 1.0)),
            Op::And
            | Op::Binary(_)
            | Op::Comparison(_)
            | Op::GroupedAttention { .. }
            | Op::MatMul
            | Op::RotateHalves
            | Op::RotateKeys
            | Op::SoftPrompt
            | Op::TaskLowRank
            | Op::Unary(_)
            | Op::Where => {}
            // Level 1 computes in f32; left out, or at level 4, activations may be rounded to eight bits.
            Op::MatMulNBits { inputs, outputs, block } => {
                let sizes =
                    [("K", *inputs), ("N", *outputs), ("bits", 4), ("block_size", *block), ("accuracy_level", 1)];
                proto.attribute.extend(sizes.map(|(name, value)| int(name, value as i64)));
            }
            Op::Attention { scale } => proto.attribute.push(float("scale", scale.get())),
            Op::RmsNorm { epsilon } | Op::SimplifiedLayerNorm { epsilon } => {
                proto.attribute.extend([int("axis", -1), float("epsilon", epsilon.get())]);
            }
            Op::RotaryEmbedding { heads } => proto.attribute.push(int("num_heads", *heads as i64)),
            Op::SkipSimplifiedLayerNorm { epsilon } => {
                proto.attribute.push(float("epsilon", epsilon.get()));
                // Between norm and sum stand a mean and a deviation that nobody asks for.
                proto.output.splice(1..1, [String::new(), String::new()]);
            }
            Op::Cast { to } => proto.attribute.push(int("to", i64::from(data_type(*to)))),
            Op::Concat { axis }
            | Op::Gather { axis }
            | Op::GatherElements { axis }
            | Op::LogSoftmax { axis }
            | Op::Softmax { axis } => {
                proto.attribute.push(int("axis", *axis as i64));
            }
            Op::CumSum { axis } => proto.input.push(self.scalar(*axis as i64)),
            Op::ReduceMean { axes } | Op::ReduceSum { axes } | Op::Squeeze { axes } | Op::Unsqueeze { axes } => {
                proto.input.push(self.vector(axes.iter().map(|axis| *axis as i64).collect()));
            }
            // 0 keeps the input's dimension.
            Op::Reshape { shape } => {
                proto.input.push(self.vector(shape.iter().map(|size| size.unwrap_or(0) as i64).collect()));
            }
            Op::Slice { axis, start, end } => {
                for bound in [start, end, axis] {
                    proto.input.push(self.vector(vec![*bound as i64]));
                }
            }
            Op::Transpose { permutation } => {
                let mut attribute = AttributeProto::new();
                attribute.name = "perm".to_owned();
                attribute.type_ = EnumOrUnknown::new(AttributeType::INTS);
                attribute.ints = permutation.iter().map(|axis| *axis as i64).collect();
                proto.attribute.push(attribute);
            }
        }
        proto
    }

    fn scalar(&mut self, value: i64) -> String {
        self.constant(format!("constants.scalar.{value}"), &Tensor::scalar_i64(value))
    }

    fn vector(&mut self, values: Vec<i64>) -> String {
        let name: Vec<String> = values.iter().map(i64::to_string).collect();
        self.constant(format!("constants.vector.{}", name.join("_")), &Tensor::vector_i64(values))
    }

    fn constant(&mut self, name: String, tensor: &Tensor) -> String {
        let proto = self.constants.entry(name.clone()).or_default();
        proto.name.clone_from(&name);
        proto.data_type = data_type(DType::I64);
        proto.dims = tensor.shape().iter().map(|size| *size as i64).collect();
        proto.raw_data = tensor.to_bytes();
        name
    }
}

fn int(name: &str, value: i64) -> AttributeProto {
    let mut attribute = AttributeProto::new();
    attribute.name = name.to_owned();
    attribute.type_ = EnumOrUnknown::new(AttributeType::INT);
    attribute.i = value;
    attribute
}

fn float(name: &str, value: f32) -> AttributeProto {
    let mut attribute = AttributeProto::new();
    attribute.name = name.to_owned();
    attribute.type_ = EnumOrUnknown::new(AttributeType::FLOAT);
    attribute.f = value;
    attribute
}

fn value_info(graph: &Graph, id: ValueId, name_sums: bool) -> ValueInfoProto {
    let value = graph.value(id);
    let mut info = ValueInfoProto::new();
    info.name = value.name.clone();
    info.type_ = MessageField::some(type_proto(&value.value_type, name_sums));
    info
}

/// Inside the graph, sums of symbols stay unnamed: tract takes `total_sequence_length` for a symbol of its own there and cannot
/// reconcile it with what it infers.
fn type_proto(value_type: &ValueType, name_sums: bool) -> TypeProto {
    let mut tensor = TensorType::new();
    tensor.elem_type = data_type(value_type.dtype);
    let mut shape = TensorShapeProto::new();
    shape.dim = value_type.shape.iter().map(|dim| dimension(dim, name_sums)).collect();
    tensor.shape = MessageField::some(shape);
    let mut proto = TypeProto::new();
    proto.set_tensor_type(tensor);
    proto
}

fn dimension(dim: &Dim, name_sums: bool) -> Dimension {
    let mut proto = Dimension::new();
    match dim.fixed() {
        Some(size) => proto.set_dim_value(size as i64),
        None if name_sums || dim.is_symbol() => proto.set_dim_param(dim.to_string()),
        None => {}
    }
    proto
}
