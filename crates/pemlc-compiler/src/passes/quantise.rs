//! Holds the base model's large weights in whole numbers, which the graph turns back into f32: what is computed stays f32.
//!
//! Weights of products and the table of embeddings are quantised, after every merge, which is made in f32. Norms, biases, prefix rows and
//! rotary tables are few numbers that much depends on. Factors of deltas that tasks have for themselves are what was trained, a few
//! per cent of the numbers, and small beside the weight that they correct: they stay f32. The product that comes last gives the logits,
//! whose error nothing averages out: with the table it keeps eight bits where others get four.
//!
//! The standard form is a cast and a product by the scales, which ONNX Runtime and tract evaluate once, at load. `DequantizeLinear` would
//! be the word for it, but ONNX Runtime 1.32 takes it in front of a product as leave to round *activations* to eight bits (it becomes
//! `MatMulNBits` at accuracy level 4): the graph would compute something else there than elsewhere.

use super::precision::SMALL;
use super::rewriter::Rewriter;
use super::{Outcome, Pass, Precision};
use crate::ir::{Binary, DType, Encoding, Expression, Graph, IrError, Node, Op, Part, Quantisation, ValueId};
use crate::target::Operators;
use std::collections::{BTreeMap, BTreeSet};

/// Numbers that share a scale in four bits.
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
        let chosen: BTreeMap<ValueId, Quantisation> =
            roles.iter().map(|(id, role)| (*id, self.quantisation(*role, last))).collect();
        rewrite(graph, &chosen, self.operators, &mut outcome).map_err(|error| error.to_string())?;
        Ok(outcome)
    }
}

impl Quantise {
    fn quantisation(&self, role: Role, last: Option<usize>) -> Quantisation {
        let product = matches!(role, Role::Product(place) if Some(place) != last);
        if self.precision == Precision::Int8 || !product {
            return Quantisation { encoding: Encoding::I8, block: None };
        }
        let encoding = if self.operators == Operators::Ort { Encoding::Nibbles } else { Encoding::I4 };
        Quantisation { encoding, block: Some(BLOCK) }
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
    let mut others: BTreeMap<ValueId, &'static str> = BTreeMap::new();
    for (place, node) in graph.nodes().iter().enumerate() {
        for (input, id) in node.inputs.iter().enumerate().filter(|(_, id)| weights.contains(id)) {
            let role = match (&node.op, input) {
                (Op::MatMul, 1) => Role::Product(place),
                (Op::Gather { axis: 0 }, 0) => Role::Table,
                _ => {
                    others.insert(*id, node.op.name());
                    continue;
                }
            };
            match (roles.insert(*id, role), role) {
                (None | Some(Role::Product(_)), Role::Product(_)) | (None | Some(Role::Table), Role::Table) => {}
                _ => {
                    others.insert(*id, node.op.name());
                }
            }
        }
    }
    for id in graph.outputs().iter().filter(|id| weights.contains(id)) {
        others.insert(*id, "output");
    }
    for (id, reader) in others {
        outcome.declined.push(format!("`{}` is read by {reader} too", graph.value(id).name));
        roles.remove(&id);
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

/// The two initialisers of a quantised weight.
#[derive(Clone, Copy)]
struct Parts {
    values: ValueId,
    scales: ValueId,
}

fn rewrite(
    graph: &mut Graph,
    chosen: &BTreeMap<ValueId, Quantisation>,
    operators: Operators,
    outcome: &mut Outcome,
) -> Result<(), IrError> {
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
        if table {
            gather(&mut rewriter, &node, parts)?;
        } else if let (Encoding::Nibbles, Operators::Ort, Some(block)) =
            (quantisation.encoding, operators, quantisation.block)
        {
            let [inputs, outputs] = shape(rewriter.graph(), weight);
            let op = Op::MatMulNBits { inputs, outputs, block };
            rewriter.replace(node.output(), op, &[node.inputs[0], parts.values, parts.scales]);
        } else {
            if widened.insert(weight) {
                widen(&mut rewriter, weight, quantisation, parts)?;
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
    if let Some((_, parts)) = tables.iter().find(|(known, _)| quantisation.block.is_none() && *known == rows) {
        outcome.changed.push(format!("weight `{name}` is `{}`, held once", rewriter.name(parts.values)));
        return Ok(*parts);
    }
    let mut add = |part: Part| {
        let rows = Box::new(rows.clone());
        rewriter.initialiser(format!("{name}.{}", part.name()), Expression::Quantise { part, quantisation, rows })
    };
    let parts = Parts { values: add(Part::Values)?, scales: add(Part::Scales)? };
    if table {
        tables.push((rows, parts));
    }
    let bits = if quantisation.encoding == Encoding::I8 { 8 } else { 4 };
    let scale = quantisation.block.map_or("row".to_owned(), |block| format!("{block} numbers of a row"));
    outcome.changed.push(format!("weight `{name}` is held in {bits} bits, a scale for each {scale}"));
    Ok(parts)
}

fn shape(graph: &Graph, weight: ValueId) -> [usize; 2] {
    graph.value(weight).value_type.fixed_shape().and_then(|shape| shape.try_into().ok()).unwrap_or_default()
}

/// Makes the value `weight`, `[in, out]`, of its parts, which hold it as `[out, in]`.
fn widen(
    rewriter: &mut Rewriter<'_>,
    weight: ValueId,
    quantisation: Quantisation,
    parts: Parts,
) -> Result<(), IrError> {
    let name = rewriter.name(weight).to_owned();
    let [inputs, outputs] = shape(rewriter.graph(), weight);
    let cast = Op::Cast { to: DType::F32 };
    let values = rewriter.node(format!("{name}.values_f32"), cast.clone(), &[parts.values])?;
    let scales = rewriter.node(format!("{name}.scales_f32"), cast, &[parts.scales])?;
    let mut rows = rewriter.node(format!("{name}.scaled"), Op::Binary(Binary::Mul), &[values, scales])?;
    if let Some(block) = quantisation.block {
        let width = block * quantisation.blocks(inputs);
        rows =
            rewriter.node(format!("{name}.rows"), Op::Reshape { shape: vec![Some(outputs), Some(width)] }, &[rows])?;
        if width > inputs {
            let cut = Op::Slice { axis: 1, start: 0, end: inputs };
            rows = rewriter.node(format!("{name}.unfilled"), cut, &[rows])?;
        }
    }
    rewriter.replace(weight, Op::Transpose { permutation: vec![1, 0] }, &[rows]);
    Ok(())
}

/// Gathers rows of both parts and turns those into f32, not the table.
fn gather(rewriter: &mut Rewriter<'_>, node: &Node, parts: Parts) -> Result<(), IrError> {
    let name = rewriter.name(node.output()).to_owned();
    let mut rows = Vec::with_capacity(2);
    for (part, id) in [("values", parts.values), ("scales", parts.scales)] {
        let gathered = rewriter.node(format!("{name}.{part}"), node.op.clone(), &[id, node.inputs[1]])?;
        rows.push(rewriter.node(format!("{name}.{part}_f32"), Op::Cast { to: DType::F32 }, &[gathered])?);
    }
    rewriter.replace(node.output(), Op::Binary(Binary::Mul), &rows);
    Ok(())
}
