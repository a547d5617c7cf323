//! Grouped-query attention with a key-value cache and prefix rows.

use super::builder::Builder;
use super::linear::project;
use super::mask::Mask;
use super::rotary::Rotary;
use super::task_switch::TaskSwitch;
use crate::ir::{DType, Dim, IrError, Op, Symbol, ValueId, ValueType};
use crate::normal_form::NormalForm;
use pemlc_artifact::{ModelConfig, Projection};

/// What attention in every layer reads.
pub(crate) struct Attention<'a> {
    pub(crate) config: &'a ModelConfig,
    pub(crate) normal_form: &'a NormalForm,
    pub(crate) switch: TaskSwitch,
    pub(crate) rotary: Rotary,
    pub(crate) mask: Mask,
    /// i64 `[batch]`: which set of prefix rows each row of the batch reads; present when the normal form has a prefix.
    pub(crate) prefix_index: Option<ValueId>,
}

/// The cache of one layer after a run.
pub(crate) struct Present {
    pub(crate) key: ValueId,
    pub(crate) value: ValueId,
}

/// The type of `past_key_values.N.key`.
pub(crate) fn past_type(config: &ModelConfig) -> ValueType {
    let sequence = Dim::from(Symbol::PastSequence);
    let shape = [Symbol::Batch.into(), config.num_key_value_heads.into(), sequence, config.head_dim.into()];
    ValueType { dtype: DType::F32, shape: shape.to_vec() }
}

impl Attention<'_> {
    /// `x` `[batch, sequence, hidden]` attends over the cache `past` (key, value), if the graph has one, and itself.
    pub(crate) fn lower(
        &self,
        builder: &mut Builder,
        layer: usize,
        x: ValueId,
        past: Option<(ValueId, ValueId)>,
    ) -> Result<(ValueId, Present), IrError> {
        let config = self.config;
        let name = format!("layers.{layer}.attention");
        let (kv_heads, head_dim) = (config.num_key_value_heads, config.head_dim);
        let query = self.heads(builder, layer, Projection::QProj, config.num_attention_heads, x)?;
        let query = self.rotary.rotate(builder, &format!("{name}.query.rotated"), query)?;

        let key = self.heads(builder, layer, Projection::KProj, kv_heads, x)?;
        let key = self.rotary.rotate(builder, &format!("{name}.key.rotated"), key)?;
        let mut key = builder.transpose(format!("{name}.key"), key, &[0, 2, 1, 3])?;
        let value = self.heads(builder, layer, Projection::VProj, kv_heads, x)?;
        let mut value = builder.transpose(format!("{name}.value"), value, &[0, 2, 1, 3])?;
        if let Some((past_key, past_value)) = past {
            key = builder.concat(format!("present.{layer}.key"), 2, &[past_key, key])?;
            value = builder.concat(format!("present.{layer}.value"), 2, &[past_value, value])?;
        }
        let present = Present { key, value };

        let (key, value, mask) = self.with_prefix(builder, &name, layer, &present)?;
        let op = Op::GroupedAttention { scale: (head_dim as f32).sqrt().recip().into() };
        let mixed = builder.node(format!("{name}.mixed.heads"), op, &[query, key, value, mask])?;
        let output = self.project(builder, layer, Projection::OProj, mixed)?;
        Ok((output, present))
    }

    fn project(
        &self,
        builder: &mut Builder,
        layer: usize,
        projection: Projection,
        x: ValueId,
    ) -> Result<ValueId, IrError> {
        project(builder, self.config, self.normal_form, &self.switch, (layer, projection), x)
    }

    /// A projection as `[batch, sequence, heads, head_dim]`.
    fn heads(
        &self,
        builder: &mut Builder,
        layer: usize,
        projection: Projection,
        heads: usize,
        x: ValueId,
    ) -> Result<ValueId, IrError> {
        let y = self.project(builder, layer, projection, x)?;
        let name = format!("{}.heads", super::linear::path(layer, projection));
        builder.reshape(name, y, &[None, None, Some(heads), Some(self.config.head_dim)])
    }

    /// Keys, values and mask with the prefix in front. The rows never enter `present`: clients' cache arithmetic stays as it is.
    fn with_prefix(
        &self,
        builder: &mut Builder,
        name: &str,
        layer: usize,
        present: &Present,
    ) -> Result<(ValueId, ValueId, ValueId), IrError> {
        // Rows that are shut for every task have no share in attention: the layer is as if it had none.
        let prefix = self.normal_form.prefix.as_ref();
        let rows = prefix.and_then(|prefix| Some((prefix.only, prefix.layers.get(layer)?, prefix)));
        let rows = rows.map(|(only, rows, prefix)| (only, rows, prefix.own(rows))).filter(|(.., own)| own.is_open());
        let (Some((only, rows, own)), Some(index)) = (rows, self.prefix_index) else {
            return Ok((present.key, present.value, self.mask.tokens));
        };
        let key = self.switch.part(builder, format!("{name}.prefix_key"), &rows.key, only)?;
        let key = builder.gather(format!("{name}.prefix_key.of_row"), 0, key, index)?;
        let key = builder.concat(format!("{name}.keys"), 2, &[key, present.key])?;
        let value = self.switch.part(builder, format!("{name}.prefix_value"), &rows.value, only)?;
        let value = builder.gather(format!("{name}.prefix_value.of_row"), 0, value, index)?;
        let value = builder.concat(format!("{name}.values"), 2, &[value, present.value])?;
        let gate = self.switch.rows(builder, format!("{name}.prefix_log_gate"), &own.log_gate)?;
        let gate = builder.gather(format!("{name}.prefix_log_gate.of_row"), 0, gate, index)?;
        let gate = builder.unsqueeze(format!("{name}.prefix_log_gate.row"), gate, &[1, 2, 3])?;
        let gate = builder.add(format!("{name}.prefix_log_gate.columns"), gate, self.mask.zero_column)?;
        let mask = builder.concat(format!("{name}.mask"), 4, &[gate, self.mask.tokens])?;
        Ok((key, value, mask))
    }
}
