//! An adaptation with random numbers in every place: LoRA on every projection, and prefix rows in every layer.

use burn::tensor::{DType, Device, Tensor, TensorData};
use pemlc_artifact::{ModelConfig, Projection};
use pemlc_trainer::adaptation::{Adaptation, LowRank, PrefixRows};

use crate::operations::numbers;

const RANK: usize = 4;
const PREFIX: usize = 3;

/// The same numbers on every device. B is not zero, as it is at the start of training, or A would have no gradient.
pub(crate) fn random(model: &ModelConfig, device: &Device) -> Adaptation {
    let mut draw = Draw { device, seed: 0 };
    let mut adaptation = Adaptation::default();
    for layer in 0..model.num_hidden_layers {
        for projection in Projection::ALL {
            let (inputs, outputs) = projection.features(model);
            let delta = LowRank {
                a: draw.tensor([1, RANK, inputs], (inputs as f32).sqrt().recip()),
                b: draw.tensor([1, outputs, RANK], 0.1),
                scale: 2.0,
                dropout: None,
            };
            adaptation.deltas.insert((layer, projection), vec![delta]);
        }
    }
    let rows = [1, model.num_hidden_layers, model.num_key_value_heads, PREFIX, model.head_dim];
    adaptation.prefix = Some(PrefixRows {
        key: draw.tensor(rows, 0.5),
        value: draw.tensor(rows, 0.5),
        log_gate: draw.tensor([1, model.num_hidden_layers, PREFIX], 0.5),
    });
    adaptation
}

struct Draw<'a> {
    device: &'a Device,
    seed: u64,
}

impl Draw<'_> {
    /// Numbers between `-bound` and `bound`, other ones at every call.
    fn tensor<const D: usize>(&mut self, shape: [usize; D], bound: f32) -> Tensor<D> {
        self.seed += 1;
        let values = numbers(shape.iter().product(), self.seed).into_iter().map(|number| number * bound).collect();
        Tensor::from_data(TensorData::new(values, shape), (self.device, DType::F32))
    }
}
