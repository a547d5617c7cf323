//! Writes small ONNX graphs with external data.

use onnx_protobuf::tensor_shape_proto::{Dimension, dimension};
use onnx_protobuf::{
    AttributeProto, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, attribute_proto::AttributeType,
    tensor_proto::DataLocation, type_proto,
};
use protobuf::{EnumOrUnknown, MessageField};
use std::path::Path;

/// The number of f32 among ONNX's types.
pub(crate) const FLOAT: i32 = 1;
const INT64: i32 = 7;
const ALIGNMENT: usize = 64;
const LOCATION: &str = "location";

/// A dimension: a number or a name.
#[derive(Clone, Copy)]
pub(crate) enum Dim {
    Fixed(i64),
    Named(&'static str),
}

#[derive(Default)]
pub(crate) struct GraphBuilder {
    graph: GraphProto,
    data: Vec<u8>,
}

impl GraphBuilder {
    pub(crate) fn floats(&mut self, name: &str, dims: &[usize], values: &[f32]) {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.initializer(name, FLOAT, dims, bytes);
    }

    pub(crate) fn integers(&mut self, name: &str, dims: &[usize], values: &[i64]) {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.initializer(name, INT64, dims, bytes);
    }

    /// Everything above a few numbers goes to the external file, as in a real artifact.
    fn initializer(&mut self, name: &str, data_type: i32, dims: &[usize], bytes: Vec<u8>) {
        let mut tensor = TensorProto::new();
        tensor.name = name.to_owned();
        tensor.data_type = data_type;
        tensor.dims = dims.iter().map(|dimension| *dimension as i64).collect();
        if bytes.len() <= 16 {
            tensor.raw_data = bytes;
        } else {
            self.data.resize(self.data.len().next_multiple_of(ALIGNMENT), 0);
            tensor.data_location = EnumOrUnknown::new(DataLocation::EXTERNAL);
            let place = [
                // Known when the graph is written.
                (LOCATION, String::new()),
                ("offset", self.data.len().to_string()),
                ("length", bytes.len().to_string()),
            ];
            for (key, value) in place {
                let key = key.to_owned();
                tensor.external_data.push(StringStringEntryProto { key, value, ..Default::default() });
            }
            self.data.extend(bytes);
        }
        self.graph.initializer.push(tensor);
    }

    /// An input that an adapter fills, NaN without one. Its numbers are in the file itself.
    pub(crate) fn parameter(&mut self, name: &str, dims: &[usize]) {
        let declared: Vec<Dim> = dims.iter().map(|dimension| Dim::Fixed(*dimension as i64)).collect();
        self.input(name, true, &declared);
        let mut tensor = TensorProto::new();
        tensor.name = name.to_owned();
        tensor.data_type = FLOAT;
        tensor.dims = dims.iter().map(|dimension| *dimension as i64).collect();
        tensor.raw_data = f32::NAN.to_le_bytes().repeat(dims.iter().product());
        self.graph.initializer.push(tensor);
    }

    pub(crate) fn input(&mut self, name: &str, float: bool, dims: &[Dim]) {
        self.graph.input.push(value_info(name, if float { FLOAT } else { INT64 }, dims));
    }

    pub(crate) fn output(&mut self, name: &str, dims: &[Dim]) {
        self.graph.output.push(value_info(name, FLOAT, dims));
    }

    /// Adds a node and gives its output's name back. Attributes are integers, or lists when there are several.
    pub(crate) fn node(
        &mut self,
        operator: &str,
        inputs: &[&str],
        output: &str,
        attributes: &[(&str, &[i64])],
    ) -> String {
        let mut node = NodeProto::new();
        node.op_type = operator.to_owned();
        node.name = format!("node_{output}");
        node.input = inputs.iter().map(|input| (*input).to_owned()).collect();
        node.output = vec![output.to_owned()];
        for (name, values) in attributes {
            let mut attribute = AttributeProto::new();
            attribute.name = (*name).to_owned();
            match values {
                [value] => {
                    attribute.type_ = EnumOrUnknown::new(AttributeType::INT);
                    attribute.i = *value;
                }
                _ => {
                    attribute.type_ = EnumOrUnknown::new(AttributeType::INTS);
                    attribute.ints = values.to_vec();
                }
            }
            node.attribute.push(attribute);
        }
        self.graph.node.push(node);
        output.to_owned()
    }

    /// Writes the graph as `file`, and its weights as `file` with `.data` behind, into `dir`.
    pub(crate) fn write(mut self, dir: &Path, file: &str) -> Result<(), Box<dyn std::error::Error>> {
        let data = format!("{file}.data");
        for entry in self.graph.initializer.iter_mut().flat_map(|tensor| tensor.external_data.iter_mut()) {
            if entry.key == LOCATION {
                entry.value.clone_from(&data);
            }
        }
        self.graph.name = "toy".to_owned();
        let mut model = ModelProto::new();
        model.ir_version = 8;
        model.producer_name = "pemlc tests".to_owned();
        model.opset_import.push(OperatorSetIdProto { version: 18, ..Default::default() });
        model.graph = MessageField::some(self.graph);
        std::fs::write(dir.join(data), &self.data)?;
        std::fs::write(dir.join(file), model.write_to_bytes()?)?;
        Ok(())
    }
}

fn value_info(name: &str, data_type: i32, dims: &[Dim]) -> ValueInfoProto {
    let mut shape = TensorShapeProto::new();
    for dim in dims {
        let value = match *dim {
            Dim::Fixed(value) => dimension::Value::DimValue(value),
            Dim::Named(name) => dimension::Value::DimParam(name.to_owned()),
        };
        shape.dim.push(Dimension { value: Some(value), ..Default::default() });
    }
    let tensor = type_proto::Tensor { elem_type: data_type, shape: MessageField::some(shape), ..Default::default() };
    let value = Some(type_proto::Value::TensorType(tensor));
    let type_ = MessageField::some(TypeProto { value, ..Default::default() });
    ValueInfoProto { name: name.to_owned(), type_, ..Default::default() }
}
