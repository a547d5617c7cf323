//! Vectors in front of the token embeddings, and the adapted model that they pass through.

use crate::ir::{Graph, IrError, Op, Tensor};
use crate::lower::builder::Builder;
use crate::lower::decoder::Trunk;
use crate::lower::mask::Mask;
use crate::lower::rotary::Rotary;
use crate::lower::task_switch::TaskSwitch;
use crate::normal_form::NormalForm;
use pemlc_artifact::ModelConfig;
use pemlc_artifact::prompt::SHUT;
use std::sync::Arc;

/// Soft prompts, filled up behind their ends to the longest.
#[derive(Debug, Clone, PartialEq)]
pub struct SoftPromptRows {
    /// Whose each is: which of the tasks' deltas it passes through.
    pub tasks: Vec<usize>,
    /// Vectors of each.
    pub lengths: Vec<usize>,
    /// f32 `[prompts, longest, hidden]`.
    pub embeddings: Arc<Tensor>,
}

/// The graph of the module's outputs for each prompt.
///
/// The model runs the prompts at positions 0, 1, ..., as they were trained. Tokens stood behind them, and start at 0 in the graph that is to
/// be written: keys are turned back by each prompt's length. Rows behind a prompt's end are shut.
pub fn lower_soft_prompt(
    config: &ModelConfig,
    normal_form: &NormalForm,
    prompts: &SoftPromptRows,
) -> Result<Graph, IrError> {
    let mut builder = Builder::new("soft_prompt");
    let b = &mut builder;
    let (count, longest) = (prompts.lengths.len(), prompts.lengths.iter().copied().max().unwrap_or_default());
    let embeddings = b.constant("soft_prompt.embeddings", &prompts.embeddings)?;
    let x = b.node("soft_prompt", Op::SoftPrompt, &[embeddings])?;
    let by_row = |value: &dyn Fn(usize) -> i64| Arc::new(Tensor::i64_from_fn(vec![count, longest], value));
    let positions = b.constant("soft_prompt.positions", &by_row(&|place| (place % longest) as i64))?;
    let attention = b.constant("soft_prompt.attention", &by_row(&|_| 1))?;
    let (switch, rotary) = (TaskSwitch::known(b, &prompts.tasks)?, Rotary::new(b, config, positions)?);
    let mask = Mask::new(b, positions, attention)?;
    let model = NormalForm { prefix: None, ..normal_form.clone() };
    let trunk = Trunk::new(b, config, &model, switch, rotary, mask)?;
    let (_, cache) = trunk.layers(b, x, None)?;

    let back = prompts.lengths.iter().map(|length| -(*length as i64)).collect();
    let back = b.constant("soft_prompt.back", &Arc::new(Tensor::vector_i64(back)))?;
    let frequencies = Arc::new(Tensor::vector_f32(config.rope_inverse_frequencies()));
    let frequencies = b.constant("soft_prompt.frequencies", &frequencies)?;
    let gates = Tensor::f32_from_fn(vec![count, longest], |place| {
        if place % longest < prompts.lengths[place / longest] { 0.0 } else { SHUT }
    });
    let gates = b.constant("log_gate", &Arc::new(gates))?;
    for (layer, present) in cache.into_iter().enumerate() {
        let key = b.node(format!("layers.{layer}.key"), Op::RotateKeys, &[present.key, back, frequencies])?;
        [key, present.value, gates].into_iter().for_each(|output| b.output(output));
    }
    Ok(builder.finish())
}
