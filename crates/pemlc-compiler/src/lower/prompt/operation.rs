//! The operations on the edges of a cell.

use super::cell::Encoder;
use super::weights::EncoderError;
use crate::ir::{Op, Tensor, Unary, ValueId};
use pemlc_artifact::prompt::Operation;
use std::sync::Arc;

impl Encoder<'_, '_> {
    /// `operation` of edge `edge` on `x` `[sets, layers, positions, width]`.
    pub(super) fn operation(&mut self, edge: usize, operation: Operation, x: ValueId) -> Result<ValueId, EncoderError> {
        let width = self.shape[3];
        let name = format!("{}edges.{edge}", self.generator);
        match operation {
            Operation::None => Err(EncoderError::Architecture(format!("{name} has no operation"))),
            Operation::Skip => Ok(x),
            Operation::Linear => self.linear(&name, (".weight", ".bias"), (width, width), x),
            Operation::MlpTanh { width: bottleneck } => {
                let hidden = self.linear(&name, (".w1", ".b1"), (width, bottleneck), x)?;
                let hidden = self.b.unary(format!("{name}.tanh"), Unary::Tanh, hidden)?;
                self.linear(&name, (".w2", ".b2"), (bottleneck, width), hidden)
            }
            Operation::MlpGelu { width: bottleneck } => {
                let hidden = self.linear(&name, (".w1", ".b1"), (width, bottleneck), x)?;
                let hidden = self.gelu(&name, hidden)?;
                self.linear(&name, (".w2", ".b2"), (bottleneck, width), hidden)
            }
            Operation::Glu => {
                let value = self.linear(&format!("{name}.a"), (".weight", ".bias"), (width, width), x)?;
                let gate = self.linear(&format!("{name}.b"), (".weight", ".bias"), (width, width), x)?;
                let gate = self.b.unary(format!("{name}.sigmoid"), Unary::Sigmoid, gate)?;
                Ok(self.b.mul(format!("{name}.gated"), value, gate)?)
            }
            Operation::DepthwiseConvolution { kernel } => self.convolution(&name, kernel, x),
            Operation::Attention { heads } => self.attention(&name, heads, x),
        }
    }

    /// `x (1 + erf(x / sqrt 2)) / 2`.
    fn gelu(&mut self, name: &str, x: ValueId) -> Result<ValueId, EncoderError> {
        let scale = self.b.scalar_f32(std::f32::consts::FRAC_1_SQRT_2)?;
        let scaled = self.b.mul(format!("{name}.gelu.scaled"), x, scale)?;
        let erf = self.b.unary(format!("{name}.gelu.erf"), Unary::Erf, scaled)?;
        let one = self.b.scalar_f32(1.0)?;
        let sum = self.b.add(format!("{name}.gelu.sum"), erf, one)?;
        let half = self.b.scalar_f32(0.5)?;
        let share = self.b.mul(format!("{name}.gelu.share"), sum, half)?;
        Ok(self.b.mul(format!("{name}.gelu"), x, share)?)
    }

    /// Each tap is a product with a matrix that shifts rows: the graph is evaluated once, at compile time, and rows are few.
    fn convolution(&mut self, name: &str, kernel: usize, x: ValueId) -> Result<ValueId, EncoderError> {
        let [_, _, length, width] = self.shape;
        let (weight_name, bias_name) = (format!("{name}.weight"), format!("{name}.bias"));
        let weights = self.weights.values(&weight_name, &[width, kernel])?;
        let bias = self.weights.stack([bias_name.clone()].into_iter(), &[width], vec![width])?;
        let mut sum = self.b.constant(bias_name, &bias)?;
        for tap in 0..kernel {
            let shift = Tensor::f32_from_fn(vec![length, length], |place| {
                let (to, from) = (place / length, place % length);
                if from + kernel / 2 == to + tap { 1.0 } else { 0.0 }
            });
            let shift = self.b.constant(format!("{name}.shift.{tap}"), &Arc::new(shift))?;
            let shifted = self.b.matmul(format!("{name}.shifted.{tap}"), shift, x)?;
            let weight = Tensor::f32_from_fn(vec![width], |channel| weights[channel * kernel + tap]);
            let weight = self.b.constant(format!("{weight_name}.{tap}"), &Arc::new(weight))?;
            let product = self.b.mul(format!("{name}.product.{tap}"), shifted, weight)?;
            sum = self.b.add(format!("{name}.sum.{tap}"), product, sum)?;
        }
        Ok(sum)
    }

    /// `x W^T + b`, with the weight `{name}{suffixes.0}` `[out, in]` and the bias `{name}{suffixes.1}` `[out]`.
    fn linear(
        &mut self,
        name: &str,
        suffixes: (&str, &str),
        (inputs, outputs): (usize, usize),
        x: ValueId,
    ) -> Result<ValueId, EncoderError> {
        let (weight_name, bias_name) = (format!("{name}{}", suffixes.0), format!("{name}{}", suffixes.1));
        let shape = vec![outputs, inputs];
        let weight = self.weights.stack([weight_name.clone()].into_iter(), &shape, shape.clone())?;
        let weight = self.b.constant(weight_name.clone(), &weight)?;
        let weight = self.b.transpose(format!("{weight_name}.transposed"), weight, &[1, 0])?;
        let bias = self.weights.stack([bias_name.clone()].into_iter(), &[outputs], vec![outputs])?;
        let bias = self.b.constant(bias_name.clone(), &bias)?;
        let product = self.b.matmul(format!("{weight_name}.product"), x, weight)?;
        Ok(self.b.add(format!("{bias_name}.sum"), product, bias)?)
    }

    /// Self-attention over the rows.
    fn attention(&mut self, name: &str, heads: usize, x: ValueId) -> Result<ValueId, EncoderError> {
        let [sets, layers, length, width] = self.shape;
        if heads == 0 || !width.is_multiple_of(heads) {
            return Err(EncoderError::Architecture(format!("{name}: {heads} heads do not divide width {width}")));
        }
        let size = width / heads;
        let split = [sets, layers, length, heads, size].map(Some);
        let mut by_head = Vec::new();
        for part in ["q", "k", "v"] {
            let part = format!("{name}.{part}");
            let y = self.linear(&part, (".weight", ".bias"), (width, width), x)?;
            let y = self.b.reshape(format!("{part}.heads"), y, &split)?;
            // Keys come transposed, ready for the product with the queries.
            let order = if part.ends_with('k') { [0, 1, 3, 4, 2] } else { [0, 1, 3, 2, 4] };
            by_head.push(self.b.transpose(format!("{part}.by_head"), y, &order)?);
        }
        let [query, key, value] = by_head[..] else {
            return Err(EncoderError::Architecture("attention has three projections".to_owned()));
        };
        let scores = self.b.matmul(format!("{name}.scores"), query, key)?;
        let scale = self.b.scalar_f32((size as f32).sqrt().recip())?;
        let scores = self.b.mul(format!("{name}.scores.scaled"), scores, scale)?;
        let shares = self.b.node(format!("{name}.shares"), Op::Softmax { axis: 4 }, &[scores])?;
        let mixed = self.b.matmul(format!("{name}.mixed"), shares, value)?;
        let mixed = self.b.transpose(format!("{name}.mixed.by_row"), mixed, &[0, 1, 3, 2, 4])?;
        let mixed = self.b.reshape(format!("{name}.mixed.rows"), mixed, &self.shape.map(Some))?;
        self.linear(&format!("{name}.out"), (".weight", ".bias"), (width, width), mixed)
    }
}
