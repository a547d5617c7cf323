//! The IR as deterministic text, which [`parse`](super::parse()) reads back. `docs/compiler.md` has the grammar.

use super::expression::Expression;
use super::graph::Graph;
use super::op::Op;
use super::quantisation::Quantisation;
use super::tensor::{Data, Tensor};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Constants of at most this many values are written out; of others the text has a digest.
const WRITTEN_OUT: usize = 16;

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "graph {}", name(&self.name))?;
        for id in self.inputs() {
            let value = self.value(*id);
            writeln!(f, "  input {}: {}", name(&value.name), value.value_type)?;
        }
        for (id, expression) in self.initialisers() {
            let value = self.value(id);
            let kind = if self.is_overridable(id) { "overridable" } else { "weight" };
            writeln!(f, "  {kind} {}: {} = {}", name(&value.name), value.value_type, describe(expression))?;
        }
        for node in self.nodes() {
            let outputs: Vec<String> = node
                .outputs
                .iter()
                .map(|id| format!("{}: {}", name(&self.value(*id).name), self.value(*id).value_type))
                .collect();
            let inputs: Vec<String> = node.inputs.iter().map(|id| name(&self.value(*id).name)).collect();
            let attributes = attributes(&node.op);
            let attributes = if attributes.is_empty() { attributes } else { format!(" {{{attributes}}}") };
            writeln!(f, "  {} = {}({}){attributes}", outputs.join(", "), node.op.name(), inputs.join(", "))?;
        }
        let outputs: Vec<String> = self.outputs().iter().map(|id| name(&self.value(*id).name)).collect();
        writeln!(f, "  return {}", outputs.join(", "))
    }
}

impl Graph {
    /// The constants that the text has digests of, by digest: what [`parse`](super::parse()) needs to read it back.
    pub fn constants(&self) -> BTreeMap<String, Arc<Tensor>> {
        let mut constants = BTreeMap::new();
        for (_, expression) in self.initialisers() {
            collect(expression, &mut constants);
        }
        constants
    }
}

fn collect(expression: &Expression, constants: &mut BTreeMap<String, Arc<Tensor>>) {
    let mut add = |tensor: &Arc<Tensor>| {
        if tensor.data().len() > WRITTEN_OUT {
            constants.insert(digest(tensor), Arc::clone(tensor));
        }
    };
    match expression {
        Expression::Constant(tensor) => add(tensor),
        Expression::Checkpoint { .. } => {}
        Expression::ConcatColumns(parts) => parts.iter().for_each(|part| collect(part, constants)),
        Expression::Cast { base, .. }
        | Expression::Slice { base, .. }
        | Expression::Transpose(base)
        | Expression::Quantise { rows: base, .. } => {
            collect(base, constants);
        }
        Expression::AddLowRank { base, down, up } => {
            add(down);
            add(up);
            collect(base, constants);
        }
        Expression::ColumnNorms { base, norms } => {
            add(norms);
            collect(base, constants);
        }
        Expression::RotateKeys { base, offsets, frequencies } => {
            add(offsets);
            add(frequencies);
            collect(base, constants);
        }
    }
}

/// A name as it is, or quoted where it has characters that the text uses.
fn name(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '+' | '/');
    let keyword = matches!(name, "input" | "weight" | "overridable" | "return" | "graph");
    if !name.is_empty() && !keyword && name.chars().all(plain) { name.to_owned() } else { format!("{name:?}") }
}

/// `key = value` pairs, in a fixed order.
fn attributes(op: &Op) -> String {
    let list = |values: &[usize]| format!("[{}]", values.iter().map(usize::to_string).collect::<Vec<_>>().join(", "));
    match op {
        Op::Attention { scale } | Op::GroupedAttention { scale } => format!("scale = {scale:?}"),
        Op::Cast { to } => format!("to = {to}"),
        Op::Concat { axis }
        | Op::CumSum { axis }
        | Op::Gather { axis }
        | Op::GatherElements { axis }
        | Op::LogSoftmax { axis }
        | Op::Softmax { axis } => format!("axis = {axis}"),
        Op::MatMulNBits { inputs, outputs, block } => {
            format!("inputs = {inputs}, outputs = {outputs}, block = {block}")
        }
        Op::ReduceMean { axes } | Op::ReduceSum { axes } | Op::Squeeze { axes } | Op::Unsqueeze { axes } => {
            format!("axes = {}", list(axes))
        }
        Op::RmsNorm { epsilon } | Op::SimplifiedLayerNorm { epsilon } | Op::SkipSimplifiedLayerNorm { epsilon } => {
            format!("epsilon = {epsilon:?}")
        }
        Op::RotaryEmbedding { heads } => format!("heads = {heads}"),
        Op::Reshape { shape } => {
            let sizes: Vec<String> =
                shape.iter().map(|size| size.map_or_else(|| "_".to_owned(), |size| size.to_string())).collect();
            format!("shape = [{}]", sizes.join(", "))
        }
        Op::Slice { axis, start, end } => format!("axis = {axis}, start = {start}, end = {end}"),
        Op::Transpose { permutation } => format!("permutation = {}", list(permutation)),
        Op::And
        | Op::Binary(_)
        | Op::Comparison(_)
        | Op::MatMul
        | Op::RotateHalves
        | Op::RotateKeys
        | Op::SoftPrompt
        | Op::TaskLowRank
        | Op::Unary(_)
        | Op::Where => String::new(),
    }
}

fn describe(expression: &Expression) -> String {
    match expression {
        Expression::Constant(constant) => tensor(constant),
        Expression::Checkpoint { name, shape } => format!("checkpoint({name:?}, {shape:?})"),
        Expression::Cast { to, base } => format!("cast({to}, {})", describe(base)),
        Expression::ConcatColumns(parts) => {
            format!("columns({})", parts.iter().map(describe).collect::<Vec<_>>().join(", "))
        }
        Expression::Slice { base, start, end } => format!("slice({}, {start}, {end})", describe(base)),
        Expression::Transpose(base) => format!("transpose({})", describe(base)),
        Expression::AddLowRank { base, down, up } => {
            format!("add_low_rank({}, {}, {})", describe(base), tensor(down), tensor(up))
        }
        Expression::ColumnNorms { base, norms } => format!("column_norms({}, {})", describe(base), tensor(norms)),
        Expression::Quantise { part, quantisation: Quantisation { encoding, block }, rows } => {
            format!("quantise({}, {}, {block}, {})", part.name(), encoding.name(), describe(rows))
        }
        Expression::RotateKeys { base, offsets, frequencies } => {
            format!("rotate_keys({}, {}, {})", describe(base), tensor(offsets), tensor(frequencies))
        }
    }
}

/// Type and values, or type and digest. Floats are written so that they are read back bit for bit, NaN's payload excepted.
fn tensor(tensor: &Tensor) -> String {
    let value_type = tensor.value_type();
    if tensor.data().len() > WRITTEN_OUT {
        return format!("{value_type} #{}", digest(tensor));
    }
    let values: Vec<String> = match tensor.data() {
        Data::F32(values) => values.iter().map(|value| format!("{value:?}")).collect(),
        Data::I64(values) => values.iter().map(i64::to_string).collect(),
        Data::Bool(values) => values.iter().map(bool::to_string).collect(),
    };
    format!("{value_type} {{{}}}", values.join(", "))
}

/// The first sixteen digits of the SHA-256 of type and values.
fn digest(tensor: &Tensor) -> String {
    let mut hasher = Sha256::new();
    hasher.update(tensor.value_type().to_string());
    hasher.update(tensor.to_bytes());
    hasher.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
