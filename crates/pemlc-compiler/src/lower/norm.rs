//! Normalisations.

use super::builder::Builder;
use crate::ir::{Binary, Expression, IrError, Op, Unary, ValueId};
use pemlc_artifact::ModelConfig;

/// `x / sqrt(mean(x^2) + eps) * weight` over the last axis; `weight` is a tensor of the checkpoint.
pub(crate) fn rms_norm(
    b: &mut Builder,
    config: &ModelConfig,
    name: &str,
    weight: String,
    x: ValueId,
) -> Result<ValueId, IrError> {
    let weight = Expression::Checkpoint { name: weight, shape: vec![config.hidden_size] };
    let weight = b.weight(format!("{name}.weight"), weight)?;
    b.node(name, Op::RmsNorm { epsilon: (config.rms_norm_eps as f32).into() }, &[x, weight])
}

/// `(x - mean(x)) / sqrt(variance(x) + eps)` over the last axis, without weights.
pub(crate) fn layer_norm(b: &mut Builder, name: &str, epsilon: f32, x: ValueId) -> Result<ValueId, IrError> {
    let axis = b.rank(x).saturating_sub(1);
    let mean = b.node(format!("{name}.mean"), Op::ReduceMean { axes: vec![axis] }, &[x])?;
    let centred = b.sub(format!("{name}.centred"), x, mean)?;
    let (two, epsilon) = (b.scalar_f32(2.0)?, b.scalar_f32(epsilon)?);
    let squares = b.node(format!("{name}.squares"), Op::Binary(Binary::Pow), &[centred, two])?;
    let mean = b.node(format!("{name}.mean_square"), Op::ReduceMean { axes: vec![axis] }, &[squares])?;
    let mean = b.add(format!("{name}.mean_square.positive"), mean, epsilon)?;
    let root = b.unary(format!("{name}.root_mean_square"), Unary::Sqrt, mean)?;
    b.node(format!("{name}.normed"), Op::Binary(Binary::Div), &[centred, root])
}
