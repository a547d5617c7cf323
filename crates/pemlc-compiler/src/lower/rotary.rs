//! Rotary positions, from `position_ids`, in the "rotate half" layout: pair `i` is dimensions `i` and `i + head_dim / 2`.

use super::builder::Builder;
use crate::ir::{DType, IrError, Op, Tensor, Unary, ValueId};
use pemlc_artifact::ModelConfig;
use std::sync::Arc;

/// Tables that every layer's queries and keys are rotated by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rotary {
    /// f32 `[batch, sequence, 1, head_dim]`.
    cos: ValueId,
    /// f32 `[batch, sequence, 1, head_dim]`, the first half negated.
    signed_sin: ValueId,
}

impl Rotary {
    /// Tables for `position_ids`, i64 `[batch, sequence]`.
    pub(crate) fn new(builder: &mut Builder, config: &ModelConfig, position_ids: ValueId) -> Result<Self, IrError> {
        let frequencies = Arc::new(Tensor::vector_f32(config.rope_inverse_frequencies()));
        let frequencies = builder.constant("rotary.inverse_frequencies", &frequencies)?;
        let positions = builder.cast("rotary.positions", DType::F32, position_ids)?;
        let positions = builder.unsqueeze("rotary.position_column", positions, &[2, 3])?;
        let angles = builder.mul("rotary.angles", positions, frequencies)?;
        let cos = builder.unary("rotary.cos_half", Unary::Cos, angles)?;
        let sin = builder.unary("rotary.sin_half", Unary::Sin, angles)?;
        let minus_one = builder.scalar_f32(-1.0)?;
        let minus_sin = builder.mul("rotary.minus_sin_half", sin, minus_one)?;
        let cos = builder.concat("rotary.cos", 3, &[cos, cos])?;
        let signed_sin = builder.concat("rotary.signed_sin", 3, &[minus_sin, sin])?;
        Ok(Self { cos, signed_sin })
    }

    /// Rotates `x`, f32 `[batch, sequence, heads, head_dim]`.
    pub(crate) fn rotate(&self, builder: &mut Builder, name: &str, x: ValueId) -> Result<ValueId, IrError> {
        builder.node(name, Op::RotateHalves, &[x, self.cos, self.signed_sin])
    }
}
