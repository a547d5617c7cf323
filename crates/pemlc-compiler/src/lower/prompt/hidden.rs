//! Hidden states in front of a layer's tokens: its own key and value projections, deltas included, make rows of them.

use super::cell::Encoder;
use super::weights::EncoderError;
use crate::ir::{IrError, Op, Tensor, ValueId};
use crate::lower::linear::{path, project_with};
use crate::lower::task_switch::TaskSwitch;
use crate::normal_form::NormalForm;
use pemlc_artifact::{ModelConfig, Projection};
use std::sync::Arc;

impl Encoder<'_, '_> {
    /// Every layer's keys and values of `sets` sets.
    pub(super) fn hidden_layers(
        &mut self,
        rows: ValueId,
        config: &ModelConfig,
        normal_form: &NormalForm,
        sets: usize,
    ) -> Result<Vec<[ValueId; 2]>, EncoderError> {
        let states = self.heads(rows, config.hidden_size)?;
        let starts = [self.warm_start("key", config)?, self.warm_start("value", config)?];
        let [own, layers, length, _] = self.shape;
        let mut states = self.b.node("hidden", Op::SoftPrompt, &[states])?;
        if own != sets {
            let index = self.b.constant("hidden.set", &Arc::new(Tensor::vector_i64(vec![0; sets])))?;
            states = self.b.gather("hidden.of_set", 0, states, index)?;
        }
        let switch = TaskSwitch::known(self.b, &(0..sets).collect::<Vec<_>>())?;
        let of_layer = |layer: usize| {
            let slice = self.b.slice(format!("layers.{layer}.hidden.slice"), 1, layer..layer + 1, states)?;
            let x = self.b.reshape(
                format!("layers.{layer}.hidden"),
                slice,
                &[sets, length, config.hidden_size].map(Some),
            )?;
            let mut part = |projection: Projection, name: &str, start: Option<ValueId>| -> Result<ValueId, IrError> {
                // Rows that start warm have the bias in them already.
                let site = ((layer, projection), config.has_qkv_bias() && start.is_none());
                let y = project_with(self.b, config, normal_form, &switch, site, x)?;
                let path = path(layer, projection);
                let heads = [sets, length, config.num_key_value_heads, config.head_dim].map(Some);
                let y = self.b.reshape(format!("{path}.heads"), y, &heads)?;
                let name = format!("layers.{layer}.{name}");
                let Some(start) = start else { return self.b.transpose(name, y, &[0, 2, 1, 3]) };
                let y = self.b.transpose(format!("{path}.by_head"), y, &[0, 2, 1, 3])?;
                let start = self.b.slice(format!("{name}.start.slice"), 1, layer..layer + 1, start)?;
                let rows = [own, config.num_key_value_heads, length, config.head_dim].map(Some);
                let start = self.b.reshape(format!("{name}.start"), start, &rows)?;
                self.b.add(name, y, start)
            };
            let key = part(Projection::KProj, "key", starts[0])?;
            Ok([key, part(Projection::VProj, "value", starts[1])?])
        };
        (0..layers).map(of_layer).collect()
    }
}
