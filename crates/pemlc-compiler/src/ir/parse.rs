//! Reads the text form. Any text is safe to read: nothing is allocated that the text did not pay for, and nesting is bounded.

mod cursor;

use super::expression::Expression;
use super::graph::{Graph, Node, ValueId};
use super::op::{Binary, Comparison, Op, Real, Unary};
use super::quantisation::{Encoding, Part, Quantisation};
use super::tensor::{Data, Tensor};
use super::value::{DType, ValueType};
use cursor::Cursor;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Deepest nesting of expressions.
const DEPTH: usize = 32;

/// Where a text is wrong, counted from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {reason}")]
pub struct ParseError {
    /// Line.
    pub line: usize,
    /// Column, in characters.
    pub column: usize,
    /// What was expected, and what is there.
    pub reason: String,
}

/// The graph that `text` describes. `constants` holds those that it has digests of, as [`Graph::constants`] gives them. Types are as
/// declared: the verifier compares them with what the operators give.
pub fn parse(text: &str, constants: &BTreeMap<String, Arc<Tensor>>) -> Result<Graph, ParseError> {
    let mut graph: Option<Graph> = None;
    let mut names: HashMap<String, ValueId> = HashMap::new();
    let mut returned = false;
    for (index, line) in text.lines().enumerate() {
        let mut cursor = Cursor { text: line, place: 0, line: index + 1, constants };
        if cursor.rest().trim().is_empty() || cursor.rest().trim_start().starts_with(';') {
            continue;
        }
        if returned {
            return Err(cursor.error("expected the end of the text after `return`"));
        }
        let Some(graph) = &mut graph else {
            cursor.word("graph")?;
            graph = Some(Graph::new(cursor.name()?));
            cursor.end()?;
            continue;
        };
        returned = cursor.statement(graph, &mut names)?;
    }
    let end = text.lines().count() + 1;
    let missing = |reason: &str| ParseError { line: end, column: 1, reason: reason.to_owned() };
    match graph {
        Some(graph) if returned => Ok(graph),
        Some(_) => Err(missing("expected `return`")),
        None => Err(missing("expected `graph`")),
    }
}

impl Cursor<'_> {
    /// One line of a graph; whether it was `return`.
    fn statement(&mut self, graph: &mut Graph, names: &mut HashMap<String, ValueId>) -> Result<bool, ParseError> {
        self.skip();
        let start = self.place;
        match self.plain() {
            "input" => {
                let (name, value_type) = self.declaration()?;
                let id = graph.input(name.clone(), value_type);
                self.define(names, name, id)?;
            }
            kind @ ("weight" | "overridable") => {
                let (name, value_type) = self.declaration()?;
                self.expect("=")?;
                let expression = self.expression(0)?;
                let id = graph.declare(name.clone(), value_type);
                graph.initialisers.insert(id, expression);
                if kind == "overridable" {
                    graph.overridable.insert(id);
                }
                self.define(names, name, id)?;
            }
            "return" => {
                self.skip();
                while !self.rest().is_empty() {
                    let id = self.value(names)?;
                    graph.output(id);
                    if !self.take(",") {
                        break;
                    }
                }
                self.end()?;
                return Ok(true);
            }
            _ => {
                self.place = start;
                self.node(graph, names)?;
            }
        }
        self.end()?;
        Ok(false)
    }

    fn declaration(&mut self) -> Result<(String, ValueType), ParseError> {
        let name = self.name()?;
        self.expect(":")?;
        Ok((name, self.value_type()?))
    }

    fn define(&self, names: &mut HashMap<String, ValueId>, name: String, id: ValueId) -> Result<(), ParseError> {
        match names.insert(name.clone(), id) {
            None => Ok(()),
            Some(_) => Err(self.error(format!("`{name}` is made twice"))),
        }
    }

    fn value(&mut self, names: &HashMap<String, ValueId>) -> Result<ValueId, ParseError> {
        self.skip();
        let start = self.place;
        let name = self.name()?;
        names.get(&name).copied().ok_or_else(|| {
            self.place = start;
            self.error(format!("`{name}` is not made before"))
        })
    }

    fn node(&mut self, graph: &mut Graph, names: &mut HashMap<String, ValueId>) -> Result<(), ParseError> {
        let mut declared = vec![self.declaration()?];
        while self.take(",") {
            declared.push(self.declaration()?);
        }
        self.expect("=")?;
        self.skip();
        let start = self.place;
        let op_name = self.plain();
        let inputs = self.list(("(", ")"), |cursor| cursor.value(names))?;
        let op = self.op(op_name)?.ok_or_else(|| {
            self.place = start;
            self.error(format!("`{op_name}` is no operator"))
        })?;
        let mut outputs = Vec::with_capacity(declared.len());
        for (name, value_type) in declared {
            let id = graph.declare(name.clone(), value_type);
            self.define(names, name, id)?;
            outputs.push(id);
        }
        graph.nodes.push(Node { op, inputs, outputs });
        Ok(())
    }

    fn key(&mut self, key: &str) -> Result<(), ParseError> {
        self.word(key)?;
        self.expect("=")
    }

    fn real(&mut self, key: &str) -> Result<Real, ParseError> {
        self.key(key)?;
        self.number::<f32>("a number").map(Real::from)
    }

    /// The operator `name`, its attributes in braces; `None` when there is no such operator.
    fn op(&mut self, name: &str) -> Result<Option<Op>, ParseError> {
        if let Some(op) = without_attributes(name) {
            return Ok(Some(op));
        }
        if !with_attributes(name) {
            return Ok(None);
        }
        self.expect("{")?;
        let size = |cursor: &mut Self| cursor.number::<usize>("a number");
        let op = match name {
            "Attention" => Op::Attention { scale: self.real("scale")? },
            "GroupedAttention" => Op::GroupedAttention { scale: self.real("scale")? },
            "RMSNormalization" => Op::RmsNorm { epsilon: self.real("epsilon")? },
            "SimplifiedLayerNormalization" => Op::SimplifiedLayerNorm { epsilon: self.real("epsilon")? },
            "SkipSimplifiedLayerNormalization" => Op::SkipSimplifiedLayerNorm { epsilon: self.real("epsilon")? },
            "RotaryEmbedding" => {
                self.key("heads")?;
                Op::RotaryEmbedding { heads: size(self)? }
            }
            "Cast" => {
                self.key("to")?;
                Op::Cast { to: self.dtype()? }
            }
            "ReduceMean" | "ReduceSum" | "Squeeze" | "Unsqueeze" => {
                self.key("axes")?;
                let axes = self.list(("[", "]"), size)?;
                match name {
                    "ReduceMean" => Op::ReduceMean { axes },
                    "ReduceSum" => Op::ReduceSum { axes },
                    "Squeeze" => Op::Squeeze { axes },
                    _ => Op::Unsqueeze { axes },
                }
            }
            "Reshape" => {
                self.key("shape")?;
                let keeps = |cursor: &mut Self| if cursor.take("_") { Ok(None) } else { size(cursor).map(Some) };
                Op::Reshape { shape: self.list(("[", "]"), keeps)? }
            }
            "Slice" => {
                self.key("axis")?;
                let axis = size(self)?;
                self.expect(",")?;
                self.key("start")?;
                let start = size(self)?;
                self.expect(",")?;
                self.key("end")?;
                Op::Slice { axis, start, end: size(self)? }
            }
            "MatMulNBits" => {
                self.key("inputs")?;
                let inputs = size(self)?;
                self.expect(",")?;
                self.key("outputs")?;
                let outputs = size(self)?;
                self.expect(",")?;
                self.key("block")?;
                Op::MatMulNBits { inputs, outputs, block: size(self)? }
            }
            "Transpose" => {
                self.key("permutation")?;
                Op::Transpose { permutation: self.list(("[", "]"), size)? }
            }
            _ => {
                self.key("axis")?;
                let axis = size(self)?;
                match name {
                    "Concat" => Op::Concat { axis },
                    "CumSum" => Op::CumSum { axis },
                    "Gather" => Op::Gather { axis },
                    "GatherElements" => Op::GatherElements { axis },
                    "LogSoftmax" => Op::LogSoftmax { axis },
                    _ => Op::Softmax { axis },
                }
            }
        };
        self.expect("}")?;
        Ok(Some(op))
    }

    fn expression(&mut self, depth: usize) -> Result<Expression, ParseError> {
        if depth > DEPTH {
            return Err(self.error(format!("expressions nest deeper than {DEPTH}")));
        }
        self.skip();
        let start = self.place;
        let word = self.plain();
        if DType::ALL.iter().any(|dtype| dtype.name() == word) {
            self.place = start;
            return Ok(Expression::Constant(self.tensor()?));
        }
        if word == "columns" {
            let parts = self.list(("(", ")"), |cursor| cursor.expression(depth + 1))?;
            return Ok(Expression::ConcatColumns(parts));
        }
        let known =
            ["checkpoint", "cast", "transpose", "add_low_rank", "column_norms", "quantise", "rotate_keys", "slice"];
        if !known.contains(&word) {
            self.place = start;
            return Err(self.error(format!("expected a constant or one of {}, columns", known.join(", "))));
        }
        self.expect("(")?;
        let expression = match word {
            "checkpoint" => {
                let name = self.quoted()?;
                self.expect(",")?;
                let size = |cursor: &mut Self| cursor.number::<u32>("a size").map(|size| size as usize);
                Expression::Checkpoint { name, shape: self.list(("[", "]"), size)? }
            }
            "cast" => {
                let to = self.dtype()?;
                self.expect(",")?;
                Expression::Cast { to, base: Box::new(self.expression(depth + 1)?) }
            }
            "transpose" => Expression::Transpose(Box::new(self.expression(depth + 1)?)),
            "quantise" => {
                let part = self.one_of(&Part::ALL, Part::name)?;
                self.expect(",")?;
                let encoding = self.one_of(&Encoding::ALL, Encoding::name)?;
                self.expect(",")?;
                let block = self.number::<u32>("a size")? as usize;
                self.expect(",")?;
                let rows = Box::new(self.expression(depth + 1)?);
                Expression::Quantise { part, quantisation: Quantisation { encoding, block }, rows }
            }
            "add_low_rank" => {
                let base = Box::new(self.expression(depth + 1)?);
                self.expect(",")?;
                let down = self.tensor()?;
                self.expect(",")?;
                Expression::AddLowRank { base, down, up: self.tensor()? }
            }
            "slice" => {
                let base = Box::new(self.expression(depth + 1)?);
                self.expect(",")?;
                let start = self.number("a number")?;
                self.expect(",")?;
                Expression::Slice { base, start, end: self.number("a number")? }
            }
            "rotate_keys" => {
                let base = Box::new(self.expression(depth + 1)?);
                self.expect(",")?;
                let offsets = self.tensor()?;
                self.expect(",")?;
                Expression::RotateKeys { base, offsets, frequencies: self.tensor()? }
            }
            _ => {
                let base = Box::new(self.expression(depth + 1)?);
                self.expect(",")?;
                Expression::ColumnNorms { base, norms: self.tensor()? }
            }
        };
        self.expect(")")?;
        Ok(expression)
    }

    fn tensor(&mut self) -> Result<Arc<Tensor>, ParseError> {
        let start = self.place;
        let value_type = self.value_type()?;
        let shape = value_type.fixed_shape().ok_or_else(|| self.error("a constant has no symbols in its shape"))?;
        if self.take("#") {
            let digest = self.plain();
            let known = self.constants.get(digest).filter(|tensor| tensor.value_type() == value_type);
            return known.cloned().ok_or_else(|| {
                self.place = start;
                self.error(format!("the values of {value_type} #{digest} are not in this text and were not given"))
            });
        }
        let braces = ("{", "}");
        let data = match value_type.dtype {
            DType::F32 => Data::F32(self.list(braces, |cursor| cursor.number("a number"))?),
            DType::I64 => Data::I64(self.list(braces, |cursor| cursor.number("a whole number"))?),
            DType::Bool => Data::Bool(self.list(braces, |cursor| cursor.number("true or false"))?),
            other => return Err(self.error(format!("constants are f32, i64 or bool, not {other}"))),
        };
        let found = data.len();
        let tensor = Tensor::new(shape, data);
        tensor.map(Arc::new).ok_or_else(|| self.error(format!("{found} values do not fill {value_type}")))
    }
}

fn without_attributes(name: &str) -> Option<Op> {
    let binary = [Binary::Add, Binary::Div, Binary::Mul, Binary::Pow, Binary::Sub].map(Op::Binary);
    let comparison = [Comparison::Greater, Comparison::GreaterOrEqual, Comparison::Less, Comparison::LessOrEqual]
        .map(Op::Comparison);
    let unary =
        [Unary::Cos, Unary::Erf, Unary::QuickGelu, Unary::Sigmoid, Unary::Sin, Unary::Sqrt, Unary::Swish, Unary::Tanh];
    let unary = unary.map(Op::Unary);
    let others = [Op::And, Op::MatMul, Op::RotateHalves, Op::RotateKeys, Op::SoftPrompt, Op::TaskLowRank, Op::Where];
    binary.into_iter().chain(comparison).chain(unary).chain(others).find(|op| op.name() == name)
}

fn with_attributes(name: &str) -> bool {
    let names = [
        "Attention",
        "Cast",
        "Concat",
        "CumSum",
        "Gather",
        "GatherElements",
        "GroupedAttention",
        "LogSoftmax",
        "MatMulNBits",
        "RMSNormalization",
        "ReduceMean",
        "ReduceSum",
        "Reshape",
        "RotaryEmbedding",
        "SimplifiedLayerNormalization",
        "SkipSimplifiedLayerNormalization",
        "Slice",
        "Softmax",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    ];
    names.contains(&name)
}
