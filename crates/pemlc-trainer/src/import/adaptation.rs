//! The adapters of one task as the backbone takes them.

use super::task::{Rows, Task};
use crate::adaptation::{Adaptation, LowRank, Magnitude, PrefixRows};
use crate::backbone::Backbone;
use burn::tensor::{DType, Tensor, TensorData};
use pemlc_artifact::prompt::PrefixLayer;

/// What `task` adds to the model: one set of everything, for all rows of a batch.
pub(super) fn of(task: &Task, backbone: &Backbone) -> Adaptation {
    let model = backbone.config();
    let mut adaptation = Adaptation::default();
    for (site, weights) in task.lora.iter().flat_map(|adapter| &adapter.weights) {
        let Some(adapter) = &task.lora else { continue };
        let ((inputs, outputs), rank) = (site.1.features(model), adapter.rank_of(*site));
        let delta = LowRank {
            a: tensor(backbone, weights.a.clone(), [1, rank, inputs]),
            b: tensor(backbone, weights.b.clone(), [1, outputs, rank]),
            scale: adapter.factor_of(*site) as f32,
            dropout: None,
        };
        adaptation.deltas.insert(*site, vec![delta]);
        if let Some(values) = &weights.magnitude {
            let value = tensor(backbone, values.clone(), [outputs]);
            adaptation.magnitudes.insert(*site, Magnitude { value, full_gradient: false });
        }
    }
    match &task.rows {
        None => {}
        Some(Rows::Prefix(layers)) => adaptation.prefix = Some(rows(layers, backbone)),
        Some(Rows::Prompt(embeddings)) => {
            let length = embeddings.len() / model.hidden_size;
            adaptation.prompt = Some(tensor(backbone, embeddings.clone(), [1, length, model.hidden_size]));
        }
    }
    adaptation
}

fn rows(layers: &[PrefixLayer], backbone: &Backbone) -> PrefixRows {
    let (heads, width) = (backbone.config().num_key_value_heads, backbone.config().head_dim);
    let length = layers.first().map_or(0, |layer| layer.log_gate.len());
    let all = |part: fn(&PrefixLayer) -> &Vec<f32>| layers.iter().flat_map(part).copied().collect::<Vec<f32>>();
    let shape = [1, layers.len(), heads, length, width];
    PrefixRows {
        key: tensor(backbone, all(|layer| &layer.key), shape),
        value: tensor(backbone, all(|layer| &layer.value), shape),
        log_gate: tensor(backbone, all(|layer| &layer.log_gate), [1, layers.len(), length]),
    }
}

fn tensor<const D: usize>(backbone: &Backbone, values: Vec<f32>, shape: [usize; D]) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), (backbone.device(), DType::F32))
}
