//! Holds the base model's large weights in whole numbers, which the graph turns back into f32: what is computed stays f32.
//!
//! Weights of products and the table of embeddings are quantised, after every merge, which is made in f32. Norms, biases, prefix rows and
//! rotary tables are few numbers that much depends on. Factors of deltas that tasks have for themselves are what was trained, a few
//! per cent of the numbers, and small beside the weight that they correct: they stay f32. The product that comes last gives the logits,
//! whose error nothing averages out: with the table it keeps eight bits where others get four.
//!
//! The standard form is a cast, a product by the scales and a sum with the offsets, which ONNX Runtime and tract evaluate once, at load. `DequantizeLinear` would
//! be the word for it, but ONNX Runtime 1.32 takes it in front of a product as leave to round *activations* to eight bits (it becomes
//! `MatMulNBits` at accuracy level 4): the graph would compute something else there than elsewhere.

use super::precision::SMALL;
use super::rewriter::Rewriter;
use super::{Outcome, Pass, Precision};
use crate::ir::{Binary, DType, Encoding, Expression, Graph, IrError, Node, Op, Part, Quantisation, ValueId};
use crate::target::Operators;
use std::collections::{BTreeMap, BTreeSet};

/// Numbers that share a scale and an offset.
const BLOCK: usize = 32;

/// See the module. Other precisions than `int8` and `int4` change nothing.
#[derive(Debug, Clone, Copy)]
pub struct Quantise {
    /// How many bits.
    pub precision: Precision,
    /// Whether ONNX Runtime's product by four bits may be used.
    pub operators: Operators,
}

/// What reads a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Products, from the right, of which the last has this place among the nodes.
    Product(usize),
    /// Gathers of its rows.
    Table,
}

impl Pass for Quantise {
    fn name(&self) -> &'static str {
        "quantise"
    }

    fn run(&self, graph: &mut Graph) -> Result<Outcome, String> {
        if !matches!(self.precision, Precision::Int8 | Precision::Int4) {
            return Ok(Outcome::default());
        }
        let mut outcome = Outcome::default();
        let roles = roles(graph, &mut outcome);
        let last =
            roles.values().filter_map(|role| if let Role::Product(place) = role { Some(*place) } else { None }).max();
        let mut chosen = BTreeMap::new();
        for (id, role) in &roles {
            let mut quantisation = self.quantisation(*role, last);
            let [inputs, _] = shape(graph, *id);
            if quantisation.encoding == Encoding::Nibbles && !inputs.is_multiple_of(BLOCK) {
                let name = &graph.value(*id).name;
                outcome.declined.push(format!("`{name}` keeps 8 bits: {inputs} inputs are no whole blocks of {BLOCK}"));
                quantisation.encoding = Encoding::U8;
            }
            chosen.insert(*id, quantisation);
        }
        rewrite(graph, &chosen, &mut outcome).map_err(|error| error.to_string())?;
        Ok(outcome)
    }
}

impl Quantise {
    fn quantisation(&self, role: Role, last: Option<usize>) -> Quantisation {
        let product = matches!(role, Role::Product(place) if Some(place) != last);
        let encoding = match (self.precision == Precision::Int4 && product, self.operators) {
            (false, _) => Encoding::U8,
            (true, Operators::Standard) => Encoding::U4,
            (true, Operators::Ort) => Encoding::Nibbles,
        };
        Quantisation { encoding, block: BLOCK }
    }
}

/// The weights that can be quantised.
fn roles(graph: &Graph, outcome: &mut Outcome) -> BTreeMap<ValueId, Role> {
    let large = |(id, expression): &(ValueId, &Expression)| {
        let value_type = &graph.value(*id).value_type;
        let count = value_type.fixed_shape().map_or(0, |shape| shape.iter().product::<usize>());
        let of_base = !expression.checkpoint_names().is_empty();
        value_type.dtype == DType::F32
            && value_type.rank() == 2
            && count >= SMALL
            && of_base
            && !graph.is_overridable(*id)
    };
    let weights: BTreeSet<ValueId> = graph.initialisers().filter(large).map(|(id, _)| id).collect();
    let mut roles: BTreeMap<ValueId, Role> = BTreeMap::new();
    let mut others: BTreeMap<ValueId, BTreeSet<&'static str>> = BTreeMap::new();
    for (place, node) in graph.nodes().iter().enumerate() {
        for (input, id) in node.inputs.iter().enumerate().filter(|(_, id)| weights.contains(id)) {
            let role = match (&node.op, input) {
                (Op::MatMul, 1) => Role::Product(place),
                (Op::Gather { axis: 0 }, 0) => Role::Table,
                _ => {
                    others.entry(*id).or_default().insert(node.op.name());
                    continue;
                }
            };
            match (roles.insert(*id, role), role) {
                (None | Some(Role::Product(_)), Role::Product(_)) | (None | Some(Role::Table), Role::Table) => {}
                _ => {
                    others.entry(*id).or_default().insert(node.op.name());
                }
            }
        }
    }
    for id in graph.outputs().iter().filter(|id| weights.contains(id)) {
        others.entry(*id).or_default().insert("the caller, as an output");
    }
    for (id, readers) in others {
        let readers: Vec<&str> = readers.into_iter().collect();
        let too = if roles.remove(&id).is_some() { " too" } else { ", by no product or gather" };
        outcome.declined.push(format!("`{}` is read by {}{too}", graph.value(id).name, readers.join(" and ")));
    }
    roles
}

/// The expression whose rows are the columns of `weight`.
fn columns_as_rows(weight: Expression) -> Expression {
    match weight {
        Expression::Transpose(inner) => *inner,
        other => Expression::Transpose(Box::new(other)),
    }
}

/// The initialisers of a quantised weight.
#[derive(Clone, Copy)]
struct Parts {
    values: ValueId,
    scales: ValueId,
    offsets: ValueId,
}

fn rewrite(graph: &mut Graph, chosen: &BTreeMap<ValueId, Quantisation>, outcome: &mut Outcome) -> Result<(), IrError> {
    let (mut rewriter, nodes) = Rewriter::new(graph);
    let mut made: BTreeMap<ValueId, Parts> = BTreeMap::new();
    // A head that is tied to the table has the same rows.
    let mut tables: Vec<(Expression, Parts)> = Vec::new();
    // Weights whose f32 form stands in the graph already.
    let mut widened: BTreeSet<ValueId> = BTreeSet::new();
    for node in nodes {
        let weight = node.inputs.iter().find_map(|id| Some((*id, *chosen.get(id)?)));
        let Some((weight, quantisation)) = weight else {
            rewriter.keep(node);
            continue;
        };
        let table = matches!(node.op, Op::Gather { .. });
        let parts = match made.get(&weight) {
            Some(parts) => *parts,
            None => {
                let parts = parts(&mut rewriter, (weight, quantisation), table, &mut tables, outcome)?;
                made.insert(weight, parts);
                parts
            }
        };
        let size = shape(rewriter.graph(), weight);
        if table {
            gather(&mut rewriter, &node, quantisation, size[1], parts)?;
        } else if quantisation.encoding == Encoding::Nibbles {
            by_nibbles(&mut rewriter, &node, quantisation, size, parts)?;
        } else {
            if widened.insert(weight) {
                widen(&mut rewriter, weight, quantisation, size, parts)?;
            }
            rewriter.keep(node);
        }
    }
    rewriter.finish();
    Ok(())
}

/// Puts initialisers of both parts in the place of `weight`'s, or takes those of a table with the same rows.
fn parts(
    rewriter: &mut Rewriter<'_>,
    (weight, quantisation): (ValueId, Quantisation),
    table: bool,
    tables: &mut Vec<(Expression, Parts)>,
    outcome: &mut Outcome,
) -> Result<Parts, IrError> {
    let name = rewriter.name(weight).to_owned();
    let missing = || IrError::Initialiser { name: name.clone(), reason: "has no expression".to_owned() };
    let expression = rewriter.take_initialiser(weight).ok_or_else(missing)?;
    let rows = if table { expression } else { columns_as_rows(expression) };
    if let Some((_, parts)) = tables.iter().find(|(known, _)| quantisation.encoding == Encoding::U8 && *known == rows) {
        outcome.changed.push(format!("weight `{name}` is `{}`, held once", rewriter.name(parts.values)));
        return Ok(*parts);
    }
    let mut add = |part: Part| {
        let rows = Box::new(rows.clone());
        rewriter.initialiser(format!("{name}.{}", part.name()), Expression::Quantise { part, quantisation, rows })
    };
    let parts = Parts { values: add(Part::Values)?, scales: add(Part::Scales)?, offsets: add(Part::Offsets)? };
    if table {
        tables.push((rows, parts));
    }
    let bits = if quantisation.encoding == Encoding::U8 { 8 } else { 4 };
    let block = quantisation.block;
    outcome.changed.push(format!(
        "weight `{name}` is held in {bits} bits, with a scale and an offset for each {block} numbers of a row"
    ));
    Ok(parts)
}

fn shape(graph: &Graph, weight: ValueId) -> [usize; 2] {
    graph.value(weight).value_type.fixed_shape().and_then(|shape| shape.try_into().ok()).unwrap_or_default()
}

/// A part as f32.
fn wide(rewriter: &mut Rewriter<'_>, name: &str, part: Part, id: ValueId) -> Result<ValueId, IrError> {
    rewriter.node(format!("{name}.{}_f32", part.name()), Op::Cast { to: DType::F32 }, &[id])
}

/// `values * scales + offsets`, in f32.
fn numbers(rewriter: &mut Rewriter<'_>, name: &str, parts: Parts) -> Result<ValueId, IrError> {
    let values = wide(rewriter, name, Part::Values, parts.values)?;
    let scales = wide(rewriter, name, Part::Scales, parts.scales)?;
    let offsets = wide(rewriter, name, Part::Offsets, parts.offsets)?;
    let scaled = rewriter.node(format!("{name}.scaled"), Op::Binary(Binary::Mul), &[values, scales])?;
    rewriter.node(format!("{name}.blocks"), Op::Binary(Binary::Add), &[scaled, offsets])
}

/// Makes the value `weight`, `[in, out]`, of its parts, which hold it as `[out, in]`.
fn widen(
    rewriter: &mut Rewriter<'_>,
    weight: ValueId,
    quantisation: Quantisation,
    [inputs, outputs]: [usize; 2],
    parts: Parts,
) -> Result<(), IrError> {
    let name = rewriter.name(weight).to_owned();
    let blocks = numbers(rewriter, &name, parts)?;
    let width = quantisation.block * quantisation.blocks(inputs);
    let shape = vec![Some(outputs), Some(width)];
    let mut rows = rewriter.node(format!("{name}.rows"), Op::Reshape { shape }, &[blocks])?;
    if width > inputs {
        let cut = Op::Slice { axis: 1, start: 0, end: inputs };
        rows = rewriter.node(format!("{name}.unfilled"), cut, &[rows])?;
    }
    rewriter.replace(weight, Op::Transpose { permutation: vec![1, 0] }, &[rows]);
    Ok(())
}

/// Gathers rows of all parts and turns those into f32, not the table.
fn gather(
    rewriter: &mut Rewriter<'_>,
    node: &Node,
    quantisation: Quantisation,
    columns: usize,
    parts: Parts,
) -> Result<(), IrError> {
    let name = rewriter.name(node.output()).to_owned();
    let mut take = |part: Part, id: ValueId| {
        rewriter.node(format!("{name}.{}", part.name()), node.op.clone(), &[id, node.inputs[1]])
    };
    let taken = Parts {
        values: take(Part::Values, parts.values)?,
        scales: take(Part::Scales, parts.scales)?,
        offsets: take(Part::Offsets, parts.offsets)?,
    };
    let blocks = numbers(rewriter, &name, taken)?;
    let rank = rewriter.graph().value(node.output()).value_type.rank();
    let width = quantisation.block * quantisation.blocks(columns);
    let shape: Vec<Option<usize>> = (1..rank).map(|_| None).chain([Some(width)]).collect();
    if width == columns {
        rewriter.replace(node.output(), Op::Reshape { shape }, &[blocks]);
    } else {
        let rows = rewriter.node(format!("{name}.rows"), Op::Reshape { shape }, &[blocks])?;
        rewriter.replace(node.output(), Op::Slice { axis: rank - 1, start: 0, end: columns }, &[rows]);
    }
    Ok(())
}

/// A product by ONNX Runtime's operator, which has no offsets: each is its block's in every sum, and so multiplies the sum of the block's
/// inputs. That is a product of a size less by the block.
fn by_nibbles(
    rewriter: &mut Rewriter<'_>,
    node: &Node,
    quantisation: Quantisation,
    [inputs, outputs]: [usize; 2],
    parts: Parts,
) -> Result<(), IrError> {
    let name = rewriter.name(node.output()).to_owned();
    let (x, block, blocks) = (node.inputs[0], quantisation.block, quantisation.blocks(inputs));
    let op = Op::MatMulNBits { inputs, outputs, block };
    let product = rewriter.node(format!("{name}.nibbles"), op, &[x, parts.values, parts.scales])?;
    let rank = rewriter.graph().value(x).value_type.rank();
    let shape: Vec<Option<usize>> = (1..rank).map(|_| None).chain([Some(blocks), Some(block)]).collect();
    let split = rewriter.node(format!("{name}.split"), Op::Reshape { shape }, &[x])?;
    let sums = rewriter.node(format!("{name}.block_sums"), Op::ReduceSum { axes: vec![rank] }, &[split])?;
    let shape: Vec<Option<usize>> = (1..rank).map(|_| None).chain([Some(blocks)]).collect();
    let sums = rewriter.node(format!("{name}.sums"), Op::Reshape { shape }, &[sums])?;
    let offsets = Op::Transpose { permutation: vec![1, 0] };
    let offsets = rewriter.node(format!("{name}.offsets"), offsets, &[parts.offsets])?;
    let moved = rewriter.node(format!("{name}.moved"), Op::MatMul, &[sums, offsets])?;
    rewriter.replace(node.output(), Op::Binary(Binary::Add), &[product, moved]);
    Ok(())
}
