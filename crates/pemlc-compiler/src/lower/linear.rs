//! A linear projection of the base model with its shared and private deltas.

use super::builder::Builder;
use super::task_switch::TaskSwitch;
use crate::ir::{Expression, IrError, ValueId};
use crate::normal_form::NormalForm;
use pemlc_artifact::{ModelConfig, Projection};
use std::sync::Arc;

/// The readable path of a projection in the graph, for instance `layers.3.attention.q_proj`.
pub(crate) fn path(layer: usize, projection: Projection) -> String {
    let block = match projection {
        Projection::QProj | Projection::KProj | Projection::VProj | Projection::OProj => "attention",
        Projection::GateProj | Projection::UpProj | Projection::DownProj => "mlp",
    };
    format!("layers.{layer}.{block}.{}", projection.name())
}

/// `c_t (x (W + dW_shared)^T + x A_t^T B_t^T) + b` for `x` `[batch, sequence, in]`.
///
/// Deltas come before the bias, so that each can become part of the weight. The shared delta is lowered as it stands; the pass
/// `fold_shared_delta` moves it into the weight. With magnitudes it is part of the weight from the start: they belong to the sum of both.
pub(crate) fn project(
    builder: &mut Builder,
    config: &ModelConfig,
    normal_form: &NormalForm,
    switch: &TaskSwitch,
    site: (usize, Projection),
    x: ValueId,
) -> Result<ValueId, IrError> {
    let bias = config.has_qkv_bias() && matches!(site.1, Projection::QProj | Projection::KProj | Projection::VProj);
    project_with(builder, config, normal_form, switch, (site, bias), x)
}

/// As [`project`], where the caller says whether the base model's bias is added.
pub(crate) fn project_with(
    builder: &mut Builder,
    config: &ModelConfig,
    normal_form: &NormalForm,
    switch: &TaskSwitch,
    ((layer, projection), bias): ((usize, Projection), bool),
    x: ValueId,
) -> Result<ValueId, IrError> {
    let name = path(layer, projection);
    let module = projection.module(layer);
    let (inputs, outputs) = projection.features(config);
    let magnitude = normal_form.magnitudes.get(&(layer, projection));
    let merged = normal_form.shared.get(&(layer, projection)).filter(|_| magnitude.is_some());
    let shared = normal_form.shared.get(&(layer, projection)).filter(|_| magnitude.is_none());
    let private = normal_form.private.get(&(layer, projection));
    let scale = normal_form.private_scale.get(&(layer, projection));
    // The last term's sum carries the projection's plain name.
    let mut remaining = usize::from(shared.is_some()) + usize::from(bias) + usize::from(private.is_some());
    remaining += usize::from(scale.is_some());
    let mut title = |part: &str| {
        let title = if remaining == 0 { name.clone() } else { format!("{name}.{part}") };
        remaining = remaining.saturating_sub(1);
        title
    };

    let weight = Expression::Checkpoint { name: format!("{module}.weight"), shape: vec![outputs, inputs] };
    let mut weight = Expression::Transpose(Box::new(weight));
    if let Some(delta) = merged {
        let (down, up) = (Arc::clone(&delta.down), Arc::clone(&delta.up));
        weight = Expression::AddLowRank { base: Box::new(weight), down, up };
    }
    if let Some(norms) = magnitude {
        weight = Expression::ColumnNorms { base: Box::new(weight), norms: Arc::clone(norms) };
    }
    let weight = builder.weight(format!("{name}.weight"), weight)?;
    let mut y = builder.matmul(title("base"), x, weight)?;
    if let Some(delta) = shared {
        let down = builder.constant(format!("{name}.shared_a"), &delta.down)?;
        let up = builder.constant(format!("{name}.shared_b"), &delta.up)?;
        let hidden = builder.matmul(format!("{name}.shared_hidden"), x, down)?;
        let change = builder.matmul(format!("{name}.shared_delta"), hidden, up)?;
        y = builder.add(title("merged"), y, change)?;
    }
    if let Some(delta) = private {
        let change = switch.private_delta(builder, &name, x, delta)?;
        y = builder.add(title("adapted"), y, change)?;
    }
    // A scale is for the weight and its deltas, and not for the bias.
    if let Some(scale) = scale {
        let scale = switch.private_scale(builder, &name, scale)?;
        y = builder.mul(title("scaled"), y, scale)?;
    }
    if bias {
        let bias = Expression::Checkpoint { name: format!("{module}.bias"), shape: vec![outputs] };
        let bias = builder.weight(format!("{name}.bias"), bias)?;
        y = builder.add(title("biased"), y, bias)?;
    }
    Ok(y)
}
