//! The graph of a prompt encoder.

use super::cell::Encoder;
use super::weights::{EncoderError, EncoderWeights};
use crate::ir::{Graph, ValueId};
use crate::lower::builder::Builder;
use crate::normal_form::NormalForm;
use pemlc_artifact::ModelConfig;
use pemlc_artifact::prompt::{Architecture, Insertion};

/// A graph of the module's outputs for `sets` sets of rows. Where the heads give hidden states, these pass through the key and value
/// projections of `normal_form`'s model.
pub fn lower_prompt_encoder(
    architecture: &Architecture,
    weights: EncoderWeights<'_>,
    config: &ModelConfig,
    normal_form: &NormalForm,
    sets: usize,
) -> Result<Graph, EncoderError> {
    let mut builder = Builder::new("prompt_encoder");
    let hidden = architecture.insertion == Insertion::Hidden;
    // Hidden states that all tasks share come to rows of each task's own when the projections do.
    let own = if hidden { weights.sets(sets) } else { sets };
    let shape = [own, config.num_hidden_layers, architecture.positions(), architecture.width];
    let mut encoder = Encoder { b: &mut builder, weights, shape, generator: String::new() };
    let rows = encoder.cells(architecture)?;
    let layers = if hidden {
        encoder.hidden_layers(rows, config, normal_form, sets)?
    } else {
        encoder.row_layers(rows, config)?
    };
    let gates = encoder.log_gates(sets)?;
    for ([key, value], gate) in layers.into_iter().zip(gates) {
        [key, value, gate].into_iter().for_each(|output| builder.output(output));
    }
    Ok(builder.finish())
}

impl Encoder<'_, '_> {
    /// Every layer's keys and values, as the heads give them.
    fn row_layers(&mut self, rows: ValueId, config: &ModelConfig) -> Result<Vec<[ValueId; 2]>, EncoderError> {
        let kv_width = config.kv_width();
        let projected = self.heads(rows, 2 * kv_width)?;
        let key = self.half(projected, "key", 0..kv_width, config)?;
        let value = self.half(projected, "value", kv_width..2 * kv_width, config)?;
        let [sets, layers, length, _] = self.shape;
        let shape = [sets, config.num_key_value_heads, length, config.head_dim].map(Some);
        let mut part = |layer: usize, name: &str, stacked| {
            let name = format!("layers.{layer}.{name}");
            let slice = self.b.slice(format!("{name}.slice"), 1, layer..layer + 1, stacked)?;
            self.b.reshape(name, slice, &shape)
        };
        (0..layers).map(|layer| Ok([part(layer, "key", key)?, part(layer, "value", value)?])).collect()
    }
}
