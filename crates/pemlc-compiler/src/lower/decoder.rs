//! A causal language model of the Llama or Qwen2 family, with `task_id`.

use super::attention::{Attention, Present, past_type};
use super::builder::Builder;
use super::linear::{path, project};
use super::mask::Mask;
use super::norm::rms_norm;
use super::rotary::Rotary;
use super::task_switch::{TaskInput, TaskSwitch};
use crate::ir::{DType, Dim, Expression, Graph, IrError, Symbol, Unary, ValueId, ValueType};
use crate::normal_form::NormalForm;
use pemlc_artifact::{ModelConfig, Projection};

/// Lowers the base model with what training found to a graph with the inputs `input_ids`, `attention_mask`, `position_ids`,
/// `past_key_values.N.key|value` and `task_id`, and the outputs `logits` and `present.N.key|value`.
pub fn lower_decoder(config: &ModelConfig, normal_form: &NormalForm) -> Result<Graph, IrError> {
    causal_lm(config, normal_form, TaskInput::Id)
}

/// As [`lower_decoder`], for batches of one task: rows whose `task_id` is another than the first row's are NaN.
pub fn lower_uniform_decoder(config: &ModelConfig, normal_form: &NormalForm) -> Result<Graph, IrError> {
    causal_lm(config, normal_form, TaskInput::FirstRow)
}

/// As [`lower_decoder`], of a normal form with one task: a graph without `task_id`, for stacks that cannot send it.
pub fn lower_pinned_decoder(config: &ModelConfig, normal_form: &NormalForm) -> Result<Graph, IrError> {
    causal_lm(config, normal_form, TaskInput::Pinned)
}

/// As [`lower_decoder`], with one task's private deltas and prefix rows in initialisers that ONNX Runtime overrides from an adapter
/// file, in place of `task_id`. Without an adapter they are NaN.
pub fn lower_adapter_decoder(config: &ModelConfig, normal_form: &NormalForm) -> Result<Graph, IrError> {
    causal_lm(config, normal_form, TaskInput::Adapter)
}

fn causal_lm(config: &ModelConfig, normal_form: &NormalForm, task: TaskInput) -> Result<Graph, IrError> {
    let mut builder = Builder::new("decoder");
    let b = &mut builder;
    let new_tokens = ValueType::new(DType::I64, [Symbol::Batch, Symbol::Sequence]);
    let input_ids = b.input("input_ids", new_tokens.clone());
    let all_tokens = ValueType::new(DType::I64, [Dim::from(Symbol::Batch), Dim::total_sequence()]);
    let attention_mask = b.input("attention_mask", all_tokens);
    let position_ids = b.input("position_ids", new_tokens);
    let past: Vec<(ValueId, ValueId)> = (0..config.num_hidden_layers)
        .map(|layer| {
            let key = b.input(format!("past_key_values.{layer}.key"), past_type(config));
            (key, b.input(format!("past_key_values.{layer}.value"), past_type(config)))
        })
        .collect();
    let switch = TaskSwitch::new(b, normal_form.tasks, task, position_ids)?;
    let rotary = Rotary::new(b, config, position_ids)?;
    let mask = Mask::new(b, position_ids, attention_mask)?;
    let trunk = Trunk::new(b, config, normal_form, switch, rotary, mask)?;
    let (x, cache) = trunk.lower(b, input_ids, Some(&past))?;
    let x = final_norm(b, config, x)?;
    let logits = head(b, config, "logits", x)?;
    b.output(logits);
    for present in cache {
        b.output(present.key);
        b.output(present.value);
    }
    Ok(builder.finish())
}

/// The layers, from tokens to the last hidden states.
pub(super) struct Trunk<'a> {
    attention: Attention<'a>,
}

impl<'a> Trunk<'a> {
    pub(super) fn new(
        b: &mut Builder,
        config: &'a ModelConfig,
        normal_form: &'a NormalForm,
        switch: TaskSwitch,
        rotary: Rotary,
        mask: Mask,
    ) -> Result<Self, IrError> {
        let prefix_index = match &normal_form.prefix {
            Some(prefix) => Some(switch.set_index(b, "task.prefix", &prefix.set_of_task)?),
            None => None,
        };
        Ok(Self { attention: Attention { config, normal_form, switch, rotary, mask, prefix_index } })
    }

    /// `input_ids` i64 `[batch, sequence]` to hidden states f32 `[batch, sequence, hidden]` and, with a cache, what it becomes.
    pub(super) fn lower(
        &self,
        b: &mut Builder,
        input_ids: ValueId,
        past: Option<&[(ValueId, ValueId)]>,
    ) -> Result<(ValueId, Vec<Present>), IrError> {
        let (config, switch) = (self.attention.config, &self.attention.switch);
        let embeddings = checkpoint("model.embed_tokens.weight", [config.vocab_size, config.hidden_size]);
        let embeddings = b.weight("embedding.weight", embeddings)?;
        let x = switch.embed(b, embeddings, input_ids)?;
        self.layers(b, x, past)
    }

    /// As [`lower`](Self::lower), from embeddings f32 `[batch, sequence, hidden]`.
    pub(super) fn layers(
        &self,
        b: &mut Builder,
        mut x: ValueId,
        past: Option<&[(ValueId, ValueId)]>,
    ) -> Result<(ValueId, Vec<Present>), IrError> {
        let (config, switch) = (self.attention.config, &self.attention.switch);
        let mut cache = Vec::new();
        for layer in 0..config.num_hidden_layers {
            let name = format!("layers.{layer}");
            let weight = format!("model.layers.{layer}.input_layernorm.weight");
            let normed = rms_norm(b, config, &format!("{name}.attention_norm"), weight, x)?;
            let past = past.and_then(|past| past.get(layer)).copied();
            let (attended, present) = self.attention.lower(b, layer, normed, past)?;
            x = b.add(format!("{name}.after_attention"), x, attended)?;
            cache.push(present);
            let weight = format!("model.layers.{layer}.post_attention_layernorm.weight");
            let normed = rms_norm(b, config, &format!("{name}.mlp_norm"), weight, x)?;
            let mlp = lower_mlp(b, config, self.attention.normal_form, switch, layer, normed)?;
            x = b.add(format!("{name}.output"), x, mlp)?;
        }
        Ok((x, cache))
    }
}

/// The last norm of hidden states f32 `[.., hidden]`.
pub(super) fn final_norm(b: &mut Builder, config: &ModelConfig, x: ValueId) -> Result<ValueId, IrError> {
    rms_norm(b, config, "final_norm", "model.norm.weight".to_owned(), x)
}

/// Normed hidden states f32 `[.., hidden]` to logits f32 `[.., vocabulary]`, in a value named `name`.
pub(super) fn head(b: &mut Builder, config: &ModelConfig, name: &str, x: ValueId) -> Result<ValueId, IrError> {
    // A head of its own even when tied: transposing the embedding table at run time costs tens of milliseconds a run.
    let head = if config.tie_word_embeddings { "model.embed_tokens.weight" } else { "lm_head.weight" };
    let head = Expression::Transpose(Box::new(checkpoint(head, [config.vocab_size, config.hidden_size])));
    let head = b.weight("lm_head.weight", head)?;
    b.matmul(name, x, head)
}

fn checkpoint(name: &str, shape: [usize; 2]) -> Expression {
    Expression::Checkpoint { name: name.to_owned(), shape: shape.to_vec() }
}

/// SwiGLU: `down(silu(gate(x)) * up(x))`.
fn lower_mlp(
    b: &mut Builder,
    config: &ModelConfig,
    normal_form: &NormalForm,
    switch: &TaskSwitch,
    layer: usize,
    x: ValueId,
) -> Result<ValueId, IrError> {
    let gate = project(b, config, normal_form, switch, (layer, Projection::GateProj), x)?;
    let up = project(b, config, normal_form, switch, (layer, Projection::UpProj), x)?;
    let name = path(layer, Projection::GateProj);
    let silu = b.unary(format!("{name}.silu"), Unary::Swish, gate)?;
    let gated = b.mul(format!("layers.{layer}.mlp.gated"), silu, up)?;
    project(b, config, normal_form, switch, (layer, Projection::DownProj), gated)
}
