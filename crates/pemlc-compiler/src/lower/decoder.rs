//! A causal language model of the Llama or Qwen2 family, with `task_id`.

use super::attention::{Attention, past_type};
use super::builder::Builder;
use super::linear::{path, project};
use super::mask::Mask;
use super::norm::rms_norm;
use super::rotary::Rotary;
use super::task_switch::TaskSwitch;
use crate::ir::{DType, Dim, Expression, Graph, IrError, Symbol, Unary, ValueId, ValueType};
use crate::normal_form::NormalForm;
use pemlc_artifact::{ModelConfig, Projection};

/// Lowers the base model with what training found to a graph with the inputs `input_ids`, `attention_mask`, `position_ids`,
/// `past_key_values.N.key|value` and `task_id`, and the outputs `logits` and `present.N.key|value`.
pub fn lower_decoder(config: &ModelConfig, normal_form: &NormalForm) -> Result<Graph, IrError> {
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
    let switch = TaskSwitch::new(b, normal_form.tasks)?;
    let prefix_index = match &normal_form.prefix {
        Some(prefix) => Some(switch.set_index(b, "task.prefix", &prefix.set_of_task)?),
        None => None,
    };
    let rotary = Rotary::new(b, config, position_ids)?;
    let mask = Mask::new(b, position_ids, attention_mask)?;
    let attention = Attention { config, normal_form, switch, rotary, mask, prefix_index };

    let embeddings = checkpoint("model.embed_tokens.weight", [config.vocab_size, config.hidden_size]);
    let embeddings = b.weight("embedding.weight", embeddings)?;
    let embedded = b.gather("embedding.lookup", 0, embeddings, input_ids)?;
    let mut x = switch.guard(b, embedded)?;
    let mut cache = Vec::new();
    for (layer, (past_key, past_value)) in past.into_iter().enumerate() {
        let name = format!("layers.{layer}");
        let weight = format!("model.layers.{layer}.input_layernorm.weight");
        let normed = rms_norm(b, config, &format!("{name}.attention_norm"), weight, x)?;
        let (attended, present) = attention.lower(b, layer, normed, past_key, past_value)?;
        x = b.add(format!("{name}.after_attention"), x, attended)?;
        cache.push(present);
        let weight = format!("model.layers.{layer}.post_attention_layernorm.weight");
        let normed = rms_norm(b, config, &format!("{name}.mlp_norm"), weight, x)?;
        let mlp = lower_mlp(b, config, normal_form, &switch, layer, normed)?;
        x = b.add(format!("{name}.output"), x, mlp)?;
    }
    let x = rms_norm(b, config, "final_norm", "model.norm.weight".to_owned(), x)?;
    // A head of its own even when tied: transposing the embedding table at run time costs tens of milliseconds a run.
    let head = if config.tie_word_embeddings { "model.embed_tokens.weight" } else { "lm_head.weight" };
    let head = Expression::Transpose(Box::new(checkpoint(head, [config.vocab_size, config.hidden_size])));
    let head = b.weight("lm_head.weight", head)?;
    let logits = b.matmul("logits", x, head)?;
    b.output(logits);
    for present in cache {
        b.output(present.key);
        b.output(present.value);
    }
    Ok(builder.finish())
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
    let sigmoid = b.unary(format!("{name}.sigmoid"), Unary::Sigmoid, gate)?;
    let silu = b.mul(format!("{name}.silu"), gate, sigmoid)?;
    let gated = b.mul(format!("layers.{layer}.mlp.gated"), silu, up)?;
    project(b, config, normal_form, switch, (layer, Projection::DownProj), gated)
}
