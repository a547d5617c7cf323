//! A graph as its file states it, and the same graph with any of its values as outputs. The only file of this crate that names
//! protobuf types.

use super::BisectError;
use super::value::{NumberType, Numbers, Value};
use half::{bf16, f16};
use prost::Message as _;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Component, Path, PathBuf};
use tract_onnx::Onnx;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto};
use tract_onnx::prelude::{Framework as _, InferenceModel};

/// A node.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) operator: String,
    /// Operator set; empty for ONNX's own.
    pub(super) domain: String,
    /// Names; an empty one is an input that is left out.
    pub(super) inputs: Vec<String>,
    pub(super) outputs: Vec<String>,
    pub(super) attributes: BTreeMap<String, Attribute>,
}

/// A node's attribute, as far as the reference reads it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Attribute {
    Integer(i64),
    Integers(Vec<i64>),
    Float(f32),
    Text(String),
    Tensor(Value),
    /// Graphs and lists of other things.
    Other,
}

impl Node {
    pub(super) fn integer(&self, name: &str) -> Option<i64> {
        match self.attributes.get(name)? {
            Attribute::Integer(value) => Some(*value),
            _ => None,
        }
    }

    pub(super) fn integers(&self, name: &str) -> Option<&[i64]> {
        match self.attributes.get(name)? {
            Attribute::Integers(values) => Some(values),
            _ => None,
        }
    }

    pub(super) fn float(&self, name: &str) -> Option<f64> {
        match self.attributes.get(name)? {
            Attribute::Float(value) => Some(f64::from(*value)),
            _ => None,
        }
    }
}

/// A graph, its weights left where they are.
pub(super) struct Graph {
    path: PathBuf,
    model: ModelProto,
    nodes: Vec<Node>,
    initialisers: BTreeMap<String, usize>,
}

impl Graph {
    pub(super) fn read(path: &Path) -> Result<Self, BisectError> {
        let broken = |message: String| BisectError::Graph { path: path.to_owned(), message };
        let mut file = File::open(path).map_err(|error| broken(error.to_string()))?;
        let model = Onnx::default().proto_model_for_read(&mut file).map_err(|error| broken(format!("{error:#}")))?;
        let graph = model.graph.as_ref().ok_or_else(|| broken("it holds no graph".to_owned()))?;
        let nodes = graph.node.iter().map(|proto| node(proto, directory(path))).collect();
        let names = graph.initializer.iter().enumerate().map(|(index, tensor)| (tensor.name.clone(), index));
        let initialisers = names.collect();
        Ok(Self { path: path.to_owned(), nodes, initialisers, model })
    }

    /// Nodes in the order in which they run.
    pub(super) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub(super) fn directory(&self) -> &Path {
        directory(&self.path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Names of the graph's own outputs.
    pub(super) fn outputs(&self) -> Vec<String> {
        self.graph().map(|graph| graph.output.iter().map(|output| output.name.clone()).collect()).unwrap_or_default()
    }

    /// Names of inputs without a default.
    pub(super) fn inputs(&self) -> Vec<String> {
        let inputs = self.graph().into_iter().flat_map(|graph| &graph.input).map(|input| input.name.clone());
        inputs.filter(|name| !self.initialisers.contains_key(name)).collect()
    }

    pub(super) fn is_initialiser(&self, name: &str) -> bool {
        self.initialisers.contains_key(name)
    }

    /// The initialiser `name`, read whole; `None` when there is no such one.
    pub(super) fn initialiser(&self, name: &str) -> Result<Option<Value>, BisectError> {
        let tensor = self.initialisers.get(name).and_then(|index| self.graph()?.initializer.get(*index));
        let read = |tensor| value(tensor, self.directory());
        let failed =
            |message| BisectError::Graph { path: self.path.clone(), message: format!("initialiser {name}: {message}") };
        tensor.map(read).transpose().map_err(failed)
    }

    /// The file's bytes with `values` as further outputs. Weights stay outside, by reference.
    pub(super) fn with_outputs(&self, values: &[String]) -> Vec<u8> {
        self.exposing(values).encode_to_vec()
    }

    /// The same, as tract reads it.
    pub(super) fn tract_with_outputs(&self, values: &[String]) -> Result<InferenceModel, String> {
        let directory = self.directory().to_str();
        let parsed = tract_onnx::onnx().parse(&self.exposing(values), directory);
        let parsed = parsed.map_err(|error| format!("{error:#}"))?;
        match parsed.unresolved_inputs.first() {
            Some(name) => Err(format!("nothing computes {name}")),
            None => Ok(parsed.model),
        }
    }

    fn exposing(&self, values: &[String]) -> ModelProto {
        let mut model = self.model.clone();
        if let Some(graph) = &mut model.graph {
            let known = |name: &String| graph.value_info.iter().find(|info| info.name == *name).cloned();
            let own: Vec<&str> = graph.output.iter().map(|output| output.name.as_str()).collect();
            let further: Vec<ValueInfoProto> = values
                .iter()
                .filter(|name| !own.contains(&name.as_str()))
                .map(|name| known(name).unwrap_or_else(|| ValueInfoProto { name: name.clone(), ..Default::default() }))
                .collect();
            graph.output.extend(further);
        }
        model
    }

    fn graph(&self) -> Option<&GraphProto> {
        self.model.graph.as_ref()
    }
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn node(proto: &NodeProto, directory: &Path) -> Node {
    let attribute = |attribute: &tract_onnx::pb::AttributeProto| match AttributeType::try_from(attribute.r#type) {
        Ok(AttributeType::Int) => Attribute::Integer(attribute.i),
        Ok(AttributeType::Ints) => Attribute::Integers(attribute.ints.clone()),
        Ok(AttributeType::Float) => Attribute::Float(attribute.f),
        Ok(AttributeType::String) => Attribute::Text(String::from_utf8_lossy(&attribute.s).into_owned()),
        Ok(AttributeType::Tensor) => {
            let tensor = attribute.t.as_ref().and_then(|tensor| value(tensor, directory).ok());
            tensor.map_or(Attribute::Other, Attribute::Tensor)
        }
        _ => Attribute::Other,
    };
    let first = proto.output.first().cloned().unwrap_or_default();
    Node {
        name: if proto.name.is_empty() { first } else { proto.name.clone() },
        operator: proto.op_type.clone(),
        domain: if proto.domain == "ai.onnx" { String::new() } else { proto.domain.clone() },
        inputs: proto.input.clone(),
        outputs: proto.output.clone(),
        attributes: proto.attribute.iter().map(|proto| (proto.name.clone(), attribute(proto))).collect(),
    }
}

/// The tensor's numbers, from wherever they are.
fn value(tensor: &TensorProto, directory: &Path) -> Result<Value, String> {
    let size = |dimension: &i64| usize::try_from(*dimension).map_err(|_| format!("dimension {dimension}"));
    let shape: Vec<usize> = tensor.dims.iter().map(size).collect::<Result<_, _>>()?;
    let count = shape.iter().try_fold(1usize, |count, size| count.checked_mul(*size)).ok_or("it is too large")?;
    let (number_type, numbers) = if tensor.data_location == Some(1) {
        decode(tensor.data_type, &external(tensor, directory)?, count)?
    } else if !tensor.raw_data.is_empty() || count == 0 {
        decode(tensor.data_type, &tensor.raw_data, count)?
    } else if !tensor.float_data.is_empty() {
        (NumberType::F32, Numbers::Float(tensor.float_data.clone()))
    } else if !tensor.int64_data.is_empty() {
        (NumberType::Integer, Numbers::Integer(tensor.int64_data.clone()))
    } else {
        let numbers = tensor.int32_data.iter();
        match tensor.data_type {
            10 => (NumberType::F16, floats(numbers.map(|bits| f16::from_bits(*bits as u16).to_f32()))),
            16 => (NumberType::Bf16, floats(numbers.map(|bits| bf16::from_bits(*bits as u16).to_f32()))),
            _ => (NumberType::Integer, Numbers::Integer(numbers.map(|number| i64::from(*number)).collect())),
        }
    };
    let value = Value::new(number_type, shape, numbers);
    if value.len() == count { Ok(value) } else { Err(format!("{} numbers, expected {count}", value.len())) }
}

fn floats(numbers: impl Iterator<Item = f32>) -> Numbers {
    Numbers::Float(numbers.collect())
}

/// `count` little-endian numbers of ONNX's number type `data_type`.
fn decode(data_type: i32, bytes: &[u8], count: usize) -> Result<(NumberType, Numbers), String> {
    fn chunks<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
        bytes.as_chunks::<N>().0.iter().copied()
    }
    let integers = |numbers: Vec<i64>| (NumberType::Integer, Numbers::Integer(numbers));
    let halves = |shift: u32, byte: u8| (byte >> shift) & 15;
    let nibbles = || bytes.iter().flat_map(|byte| [halves(0, *byte), halves(4, *byte)]).take(count);
    Ok(match data_type {
        1 => (NumberType::F32, floats(chunks(bytes).map(f32::from_le_bytes))),
        2 | 9 => integers(bytes.iter().map(|byte| i64::from(*byte)).collect()),
        3 => integers(bytes.iter().map(|byte| i64::from(*byte as i8)).collect()),
        6 => integers(chunks(bytes).map(|bytes| i64::from(i32::from_le_bytes(bytes))).collect()),
        7 => integers(chunks(bytes).map(i64::from_le_bytes).collect()),
        10 => (NumberType::F16, floats(chunks(bytes).map(|bytes| f16::from_le_bytes(bytes).to_f32()))),
        11 => (NumberType::F64, Numbers::Double(chunks(bytes).map(f64::from_le_bytes).collect())),
        16 => (NumberType::Bf16, floats(chunks(bytes).map(|bytes| bf16::from_le_bytes(bytes).to_f32()))),
        // Two numbers of four bits in a byte, the first in the low half.
        21 => integers(nibbles().map(i64::from).collect()),
        22 => integers(nibbles().map(|nibble| i64::from(nibble) - if nibble > 7 { 16 } else { 0 }).collect()),
        other => return Err(format!("number type {other} is not known here")),
    })
}

/// Bytes of a tensor in a file beside the graph.
fn external(tensor: &TensorProto, directory: &Path) -> Result<Vec<u8>, String> {
    let field = |key: &str| tensor.external_data.iter().find(|entry| entry.key == key).map(|entry| &entry.value);
    let number = |key: &str| field(key).map(|text| text.parse::<u64>().map_err(|_| format!("{key} `{text}`")));
    let location = field("location").ok_or("external data without a location")?;
    let relative = Path::new(location);
    if !relative.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(format!("external data at `{location}`"));
    }
    let path = directory.join(relative);
    let unreadable = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    let mut file = File::open(&path).map_err(unreadable)?;
    let size = file.metadata().map_err(unreadable)?.len();
    let offset = number("offset").transpose()?.unwrap_or(0);
    let length = number("length").transpose()?.unwrap_or(size.saturating_sub(offset));
    if offset.checked_add(length).is_none_or(|end| end > size) {
        return Err(format!("{length} bytes at {offset} are outside {}", path.display()));
    }
    file.seek(SeekFrom::Start(offset)).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(length).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_width_are_read() {
        let halves = [f16::from_f32(1.5).to_le_bytes(), f16::from_f32(-2.0).to_le_bytes()].concat();
        assert_eq!(decode(10, &halves, 2), Ok((NumberType::F16, Numbers::Float(vec![1.5, -2.0]))));
        assert_eq!(decode(22, &[0xf1, 0x08], 3), Ok((NumberType::Integer, Numbers::Integer(vec![1, -1, -8]))));
        assert_eq!(decode(21, &[0xf1], 2), Ok((NumberType::Integer, Numbers::Integer(vec![1, 15]))));
        assert_eq!(decode(3, &[255], 1), Ok((NumberType::Integer, Numbers::Integer(vec![-1]))));
        assert!(decode(8, &[], 0).is_err());
    }
}
