//! An ONNX model without protobuf types: what the tables and comparisons work on.

use super::elements::Place;
use super::number::DataType;
use super::{InspectError, read};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

mod convert;

/// A model, its weights still where they are.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) ir_version: i64,
    /// Version by domain; the standard domain is `ai.onnx`.
    pub(crate) opsets: BTreeMap<String, i64>,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) functions: Vec<Function>,
    pub(crate) graph: Graph,
    /// Where external data lies.
    pub(crate) directory: PathBuf,
}

/// A function of the model: nodes that one node stands for.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) domain: String,
    pub(crate) inputs: Vec<String>,
    pub(crate) outputs: Vec<String>,
    pub(crate) nodes: Vec<Node>,
}

/// A graph, also one inside a node.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    pub(crate) inputs: Vec<Value>,
    pub(crate) outputs: Vec<Value>,
    /// Declared types of values inside.
    pub(crate) values: Vec<Value>,
    /// Initialisers in the order of the file; sparse ones last.
    pub(crate) weights: Vec<Weight>,
    pub(crate) nodes: Vec<Node>,
}

/// A name and the type that the file declares.
#[derive(Debug)]
pub(crate) struct Value {
    pub(crate) name: String,
    pub(crate) declared: Option<TensorType>,
}

/// A declared type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TensorType {
    pub(crate) dtype: DataType,
    pub(crate) shape: Option<Rc<[Dimension]>>,
}

/// A declared dimension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Dimension {
    Fixed(i64),
    Symbol(Rc<str>),
    Unknown,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) operator: String,
    /// Empty for the standard domain.
    pub(crate) domain: String,
    pub(crate) inputs: Vec<String>,
    pub(crate) outputs: Vec<String>,
    pub(crate) attributes: Vec<Attribute>,
}

#[derive(Debug)]
pub(crate) struct Attribute {
    pub(crate) name: String,
    pub(crate) value: AttributeValue,
}

#[derive(Debug)]
pub(crate) enum AttributeValue {
    Float(f32),
    Int(i64),
    Text(Vec<u8>),
    Tensor(Weight),
    Graph(Graph),
    Floats(Vec<f32>),
    Ints(Vec<i64>),
    Texts(Vec<Vec<u8>>),
    Tensors(Vec<Weight>),
    Graphs(Vec<Graph>),
    /// An attribute of the function that the node is in.
    Reference(String),
    /// A kind that nothing here looks into, by its name.
    Other(String),
}

/// A tensor with values.
#[derive(Debug, Clone)]
pub(crate) struct Weight {
    pub(crate) name: String,
    pub(crate) dtype: DataType,
    pub(crate) dims: Vec<i64>,
    /// The number of values that a sparse tensor stores; none for a dense one.
    pub(crate) stored: Option<u64>,
    pub(crate) storage: Storage,
}

/// Where the values are.
#[derive(Debug, Clone)]
pub(crate) enum Storage {
    /// In the model, as `raw_data` holds them. Strings have their lengths before them.
    Inline(Vec<u8>),
    /// In another file.
    External(Place),
    /// Nowhere that can be read; why, in words.
    Broken(String),
}

impl Model {
    /// Reads `path`.
    pub(crate) fn read(path: &Path) -> Result<Self, InspectError> {
        let (model, graph) = read::read(path)?;
        Ok(convert::model(model, graph, read::directory(path)))
    }
}

impl Node {
    /// The node's name, or the first output's where it has none.
    pub(crate) fn label(&self) -> &str {
        let output = self.outputs.iter().map(String::as_str).find(|output| !output.is_empty());
        if self.name.is_empty() { output.unwrap_or("") } else { &self.name }
    }

    /// The operator with its domain, unless that is the standard one.
    pub(crate) fn full_operator(&self) -> String {
        if self.domain.is_empty() { self.operator.clone() } else { format!("{}:{}", self.domain, self.operator) }
    }

    /// The value of an attribute.
    pub(crate) fn attribute(&self, name: &str) -> Option<&AttributeValue> {
        self.attributes.iter().find(|attribute| attribute.name == name).map(|attribute| &attribute.value)
    }

    /// The graphs inside, each with the name of its attribute.
    pub(crate) fn graphs(&self) -> impl Iterator<Item = (&str, &Graph)> {
        self.attributes.iter().flat_map(|attribute| {
            let graphs: &[Graph] = match &attribute.value {
                AttributeValue::Graph(graph) => std::slice::from_ref(graph),
                AttributeValue::Graphs(graphs) => graphs,
                _ => &[],
            };
            graphs.iter().map(|graph| (attribute.name.as_str(), graph))
        })
    }
}

impl Weight {
    /// How many elements the shape has; none if it is negative or too large to count.
    pub(crate) fn elements(&self) -> Option<u64> {
        if self.dims.contains(&0) {
            return Some(0);
        }
        self.dims.iter().try_fold(1u64, |count, size| count.checked_mul(u64::try_from(*size).ok()?))
    }

    /// How many values are stored.
    pub(crate) fn values(&self) -> Option<u64> {
        self.stored.or_else(|| self.elements())
    }

    /// How many bytes its values take; for strings, as many as there are.
    pub(crate) fn bytes(&self) -> Option<u64> {
        match (&self.storage, self.dtype) {
            (Storage::Inline(bytes), DataType::STRING) => Some(bytes.len() as u64),
            _ => self.values()?.checked_mul(self.dtype.bits()?).map(|bits| bits.div_ceil(8)),
        }
    }

    /// The values of a small inline tensor of whole numbers.
    pub(crate) fn small_integers(&self, limit: u64) -> Option<Vec<i64>> {
        let Storage::Inline(bytes) = &self.storage else { return None };
        if self.values()? > limit || self.bytes()? != bytes.len() as u64 {
            return None;
        }
        match self.dtype {
            DataType::I64 => Some(bytes.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect()),
            DataType(6) => {
                Some(bytes.as_chunks().0.iter().map(|bytes| i64::from(i32::from_le_bytes(*bytes))).collect())
            }
            _ => None,
        }
    }
}
