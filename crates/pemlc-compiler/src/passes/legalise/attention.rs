//! Attention of grouped heads.

use super::super::precision::Precision;
use super::rewrites::Rewrites;
use super::{Legalise, Written};
use crate::ir::{Binary, IrError, Node, Op, Real};

/// Seen in ONNX Runtime 1.32 on the CPU. A prefix stands in front of the cache, so that reading a batch of prompts is a run that is refused too.
/// `benches/attention_operators.py` compares what these forms cost.
const REFUSES: &str = "GroupQueryAttention refuses a batch with several new tokens behind a cache or prefix";
/// ONNX Runtime's kernel wants all inputs of one number type, and adds and exponentiates in it.
const NARROW: &str = "Attention would take its mask in f16, which cannot hold it";

pub(super) fn attend(
    legalise: &Legalise,
    rewrites: &mut Rewrites<'_, '_>,
    node: &Node,
    scale: Real,
) -> Result<Written, IrError> {
    let site = Site::new(rewrites, node);
    if legalise.is_ort() {
        site.primitives(rewrites, node, scale)?;
        return Ok(Written::Declined(REFUSES.to_owned()));
    }
    if !legalise.has_transformer_operators() {
        site.primitives(rewrites, node, scale)?;
        return Ok(legalise.lacks("Attention"));
    }
    if legalise.precision == Precision::F16 {
        site.primitives(rewrites, node, scale)?;
        return Ok(Written::Declined(NARROW.to_owned()));
    }
    site.attention(rewrites, node, scale)?;
    Ok(Written::Anew("Attention".to_owned()))
}

/// One attention: the names of its parts begin with `stem`.
struct Site {
    stem: String,
    groups: usize,
    heads: usize,
    size: usize,
}

impl Site {
    fn new(rewrites: &Rewrites<'_, '_>, node: &Node) -> Self {
        let name = rewrites.name(node.output());
        let size = |input: usize, axis| rewrites.size(node.inputs[input], axis).unwrap_or_default();
        let stem = name.strip_suffix(".mixed.heads").unwrap_or(name).to_owned();
        Self { stem, groups: size(1, 1), heads: size(0, 2), size: size(0, 3) }
    }

    fn name(&self, part: &str) -> String {
        format!("{}.{part}", self.stem)
    }

    /// ONNX's operator, which wants heads before tokens.
    fn attention(&self, rewrites: &mut Rewrites<'_, '_>, node: &Node, scale: Real) -> Result<(), IrError> {
        let [query, keys, values, mask] = node.inputs[..] else { return Ok(()) };
        let swap = || Op::Transpose { permutation: vec![0, 2, 1, 3] };
        let query = rewrites.node(self.name("query"), swap(), &[query])?;
        let mask = rewrites.derived(mask, "by_head", Op::Squeeze { axes: vec![1] })?;
        let mixed = rewrites.node(self.name("mixed"), Op::Attention { scale }, &[query, keys, values, mask])?;
        let mixed = rewrites.node(self.name("mixed.by_token"), swap(), &[mixed])?;
        rewrites.replace(node.output(), self.join(), &[mixed]);
        Ok(())
    }

    fn join(&self) -> Op {
        Op::Reshape { shape: vec![None, None, Some(self.heads * self.size)] }
    }

    /// Two products around a softmax. Groups are an axis of their own: keys and values are broadcast over a group's heads, and no shape has
    /// to be computed.
    fn primitives(&self, rewrites: &mut Rewrites<'_, '_>, node: &Node, scale: Real) -> Result<(), IrError> {
        let [query, keys, values, mask] = node.inputs[..] else { return Ok(()) };
        let in_group = self.heads / self.groups.max(1);
        let scale = rewrites.scalar(scale.get())?;
        let query = rewrites.node(self.name("query.scaled"), Op::Binary(Binary::Mul), &[query, scale])?;
        let grouped = vec![None, None, Some(self.groups), Some(in_group), Some(self.size)];
        let query = rewrites.node(self.name("query.grouped"), Op::Reshape { shape: grouped }, &[query])?;
        let query = rewrites.node(self.name("query"), transpose(&[0, 2, 3, 1, 4]), &[query])?;
        let keys = rewrites.node(self.name("keys.transposed"), transpose(&[0, 1, 3, 2]), &[keys])?;
        let keys = rewrites.node(self.name("keys.grouped"), Op::Unsqueeze { axes: vec![2] }, &[keys])?;
        let values = rewrites.node(self.name("values.grouped"), Op::Unsqueeze { axes: vec![2] }, &[values])?;
        let scores = rewrites.node(self.name("scores"), Op::MatMul, &[query, keys])?;
        let scores = rewrites.node(self.name("scores.masked"), Op::Binary(Binary::Add), &[scores, mask])?;
        let shares = rewrites.node(self.name("shares"), Op::Softmax { axis: 4 }, &[scores])?;
        let mixed = rewrites.node(self.name("mixed"), Op::MatMul, &[shares, values])?;
        let mixed = rewrites.node(self.name("mixed.by_token"), transpose(&[0, 3, 1, 2, 4]), &[mixed])?;
        rewrites.replace(node.output(), self.join(), &[mixed]);
        Ok(())
    }
}

fn transpose(permutation: &[usize]) -> Op {
    Op::Transpose { permutation: permutation.to_vec() }
}
