//! Rewrites operators that only some targets have into what the target has: each as it is, as an operator of another name, or as the
//! primitives that it is made of. What a runtime refuses or computes otherwise stays primitive, and the reason is told.

mod attention;
mod norm;
mod rewrites;
mod rotary;

use super::precision::Precision;
use super::rewriter::Rewriter;
use super::{Outcome, Pass};
use crate::ir::{Graph, IrError, Node, Op, Unary};
use crate::target::{Operators, Opset, Target};
use rewrites::Rewrites;

/// See the module.
#[derive(Debug, Clone, Copy, Default)]
pub struct Legalise {
    /// What the graph is written for.
    pub target: Target,
    /// Number types that the graph will have.
    pub precision: Precision,
}

/// How a node was written.
enum Written {
    /// As it was.
    Kept,
    /// As something else: what, for `--explain`.
    Anew(String),
    /// As primitives although the target has an operator for it: why.
    Declined(String),
}

impl Pass for Legalise {
    fn name(&self) -> &'static str {
        "legalise"
    }

    fn run(&self, graph: &mut Graph) -> Result<Outcome, String> {
        self.rewrite(graph).map_err(|error| error.to_string())
    }
}

impl Legalise {
    fn rewrite(&self, graph: &mut Graph) -> Result<Outcome, IrError> {
        let sums = if self.is_ort() { norm::sums(graph) } else { norm::Sums::default() };
        let mut outcome = Outcome::default();
        let (rewriter, nodes) = Rewriter::new(graph);
        let mut rewrites = Rewrites::new(rewriter, &nodes);
        for (place, node) in nodes.iter().enumerate() {
            let written = match &node.op {
                _ if sums.are_written_with(place) => Written::Kept,
                Op::Binary(_) if let Some(norm) = sums.norm_of(place) => {
                    norm::with_sum(&mut rewrites, node, &nodes[norm])
                }
                Op::RmsNorm { epsilon } => norm::norm(self, &mut rewrites, node, *epsilon)?,
                Op::RotateHalves => rotary::rotate(self, &mut rewrites, node)?,
                Op::GroupedAttention { scale } => attention::attend(self, &mut rewrites, node, *scale)?,
                Op::Unary(Unary::Swish) => self.silu(&mut rewrites, node)?,
                _ => {
                    rewrites.keep(node);
                    Written::Kept
                }
            };
            let name = rewrites.name(node.output());
            match written {
                Written::Kept => {}
                Written::Anew(what) => outcome.changed.push(format!("`{name}` is {what}")),
                Written::Declined(why) => outcome.declined.push(format!("`{name}` is primitives: {why}")),
            }
        }
        rewrites.finish();
        Ok(outcome)
    }

    fn is_ort(&self) -> bool {
        self.target.operators == Operators::Ort
    }

    /// Whether the opset has RMSNormalization, RotaryEmbedding and Attention.
    fn has_transformer_operators(&self) -> bool {
        self.target.opset >= Opset::V23
    }

    /// Says that the opset lacks `operator`.
    fn lacks(&self, operator: &str) -> Written {
        Written::Anew(format!("primitives: opset {} has no {operator}", self.target.opset))
    }

    /// `x sigmoid(x)`. ONNX Runtime has a kernel for QuickGelu and none for Swish, which it takes apart.
    fn silu(&self, rewrites: &mut Rewrites<'_, '_>, node: &Node) -> Result<Written, IrError> {
        let output = node.output();
        if self.is_ort() {
            rewrites.replace(output, Op::Unary(Unary::QuickGelu), &node.inputs);
            return Ok(Written::Anew("ONNX Runtime's QuickGelu".to_owned()));
        }
        if self.target.opset >= Opset::V24 {
            rewrites.keep(node);
            return Ok(Written::Kept);
        }
        let x = node.inputs[0];
        let name = format!("{}.sigmoid", rewrites.name(x));
        let sigmoid = rewrites.node(name, Op::Unary(Unary::Sigmoid), &[x])?;
        rewrites.replace(output, Op::Binary(crate::ir::Binary::Mul), &[x, sigmoid]);
        Ok(self.lacks("Swish"))
    }
}
