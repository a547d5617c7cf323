//! How many rows, and on which layers: log-gates that are exact at the corners.
//!
//! With `v = softmax(length logits / temperature)` over the lengths, the row that is `j` rows from the tokens has the gate `a_j`, the sum
//! of `v_k` over the lengths `l_k > j`; layer `m` has `g_m = sigmoid(layer logit / temperature)`. The row's attention logit gets
//! `log(a_j g_m + 1e-9)`. Where all gates are 0 or 1 this is a prefix of that length on those layers, which keys and values that were
//! multiplied by gates would not be: a zero key still takes its share of softmax.

use crate::config::PrefixConfig;
use crate::parameters::{Group, Leaves, ParameterSet};
use crate::random::Stream;
use burn::tensor::{
    DType, Device, Tensor, TensorData,
    activation::{sigmoid, softmax},
};

const LENGTHS: &str = "encoder.length_logits";
const LAYERS: &str = "encoder.layer_logits";
/// What shuts a row in the mixture.
const FLOOR: f32 = 1e-9;
/// Layers start open: sigmoid(1) is 0.73, and a layer that is never asked for stays.
const LAYER_START: f32 = 1.0;
const DEVIATION: f32 = 1e-3;

/// Which rows and layers there may be.
#[derive(Debug, Clone)]
pub(super) struct Choice {
    lengths: Vec<usize>,
    /// How many, if they are searched.
    layers: Option<usize>,
}

/// Which there are.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Chosen {
    pub(super) length: Option<usize>,
    pub(super) layers: Option<Vec<usize>>,
}

impl Choice {
    pub(super) fn new(config: &PrefixConfig, layers: usize) -> Self {
        // One length is no choice.
        let lengths = if config.lengths.len() > 1 { config.lengths.clone() } else { vec![] };
        Self { lengths, layers: config.search_layers.then_some(layers) }
    }

    pub(super) fn initialize(&self, seed: u64, set: &mut ParameterSet) {
        let near = |name: &str, count: usize, middle: f32| -> Vec<f32> {
            Stream::new(seed, name, 0).normal(count, DEVIATION).into_iter().map(|value| middle + value).collect()
        };
        if !self.lengths.is_empty() {
            let count = self.lengths.len();
            set.insert(LENGTHS, Group::Architecture, &[count], near(LENGTHS, count, 0.0));
        }
        if let Some(layers) = self.layers {
            set.insert(LAYERS, Group::Architecture, &[layers], near(LAYERS, layers, LAYER_START));
        }
    }

    /// Whether `name` is a parameter of this choice.
    pub(super) fn owns(name: &str) -> bool {
        name == LENGTHS || name == LAYERS
    }

    /// Gates of `rows` rows in the order of their positions, `[rows]`, and of the layers, `[layers]`.
    fn gates(&self, parameters: &Leaves, temperature: f32, rows: usize) -> (Option<Tensor<1>>, Option<Tensor<1>>) {
        let rows = (!self.lengths.is_empty()).then(|| {
            let shares = softmax(parameters.get::<1>(LENGTHS) / temperature, 0);
            let open = |length| (0..rows).map(move |row| if rows - 1 - row < length { 1.0f32 } else { 0.0 });
            let open: Vec<f32> = self.lengths.iter().copied().flat_map(open).collect();
            let open = constant(open, [self.lengths.len(), rows], &shares.device());
            shares.unsqueeze::<2>().matmul(open).squeeze_dim(0)
        });
        let layers = self.layers.map(|_| sigmoid(parameters.get::<1>(LAYERS) / temperature));
        (rows, layers)
    }

    /// What the rows' attention logits get, `[layers or 1, rows]`; `None` when nothing is searched.
    pub(super) fn log_gates(&self, parameters: &Leaves, temperature: f32, rows: usize) -> Option<Tensor<2>> {
        let gates = match self.gates(parameters, temperature, rows) {
            (None, None) => return None,
            (Some(rows), None) => rows.unsqueeze::<2>(),
            (None, Some(layers)) => layers.unsqueeze_dim::<2>(1).repeat_dim(1, rows),
            (Some(rows), Some(layers)) => layers.unsqueeze_dim::<2>(1) * rows.unsqueeze::<2>(),
        };
        Some((gates + FLOOR).log())
    }

    /// The expected share of all rows on all layers, `[1]`.
    pub(super) fn expected_share(&self, parameters: &Leaves, temperature: f32, rows: usize) -> Option<Tensor<1>> {
        match self.gates(parameters, temperature, rows) {
            (None, None) => None,
            (Some(gates), None) | (None, Some(gates)) => Some(gates.mean()),
            (Some(rows), Some(layers)) => Some(rows.mean() * layers.mean()),
        }
    }

    /// The likeliest length, and the layers whose gate is above one half: the likeliest one if none is.
    pub(super) fn discretise(&self, set: &ParameterSet) -> Chosen {
        let lengths = if self.lengths.is_empty() { vec![] } else { set.values(LENGTHS) };
        let layers = self.layers.map(|_| set.values(LAYERS));
        self.of_logits(&lengths, layers.as_deref())
    }

    /// One drawn at random.
    pub(super) fn random(&self, seed: u64) -> Chosen {
        let normal = |name: &str, count: usize| Stream::new(seed, &format!("{name}.random"), 0).normal(count, 1.0);
        let layers = self.layers.map(|layers| normal(LAYERS, layers));
        self.of_logits(&normal(LENGTHS, self.lengths.len()), layers.as_deref())
    }

    fn of_logits(&self, lengths: &[f32], layers: Option<&[f32]>) -> Chosen {
        let length = best(lengths).and_then(|index| self.lengths.get(index)).copied();
        let layers = layers.map(|logits| {
            let open: Vec<usize> = (0..logits.len()).filter(|layer| logits[*layer] > 0.0).collect();
            if open.is_empty() { best(logits).into_iter().collect() } else { open }
        });
        Chosen { length, layers }
    }

    /// Shares of the lengths, and gates of the layers, for the record.
    pub(super) fn shares(&self, set: &ParameterSet) -> (Vec<(usize, f64)>, Vec<f64>) {
        let lengths = if self.lengths.is_empty() { vec![] } else { set.values(LENGTHS) };
        let layers = if self.layers.is_some() { set.values(LAYERS) } else { vec![] };
        let shares = super::super::discretise::softmax(&lengths);
        let gate = |logit: f32| 1.0 / (1.0 + (-f64::from(logit)).exp());
        (self.lengths.iter().copied().zip(shares).collect(), layers.into_iter().map(gate).collect())
    }
}

/// The first of the largest.
fn best(values: &[f32]) -> Option<usize> {
    (0..values.len()).reduce(|best, index| if values[index] > values[best] { index } else { best })
}

fn constant<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::close;
    use crate::parameters::host;

    fn choice() -> (Choice, ParameterSet) {
        let config = PrefixConfig { length: 4, lengths: vec![1, 2, 4], search_layers: true, ..PrefixConfig::default() };
        (Choice::new(&config, 2), ParameterSet::new(&Device::flex()))
    }

    fn gates(lengths: [f32; 3], layers: [f32; 2]) -> Vec<f32> {
        let (choice, mut set) = choice();
        set.insert(LENGTHS, Group::Architecture, &[3], lengths.to_vec());
        set.insert(LAYERS, Group::Architecture, &[2], layers.to_vec());
        host(choice.log_gates(&set.constants(), 1.0, 4).expect("gates").exp())
    }

    #[test]
    fn rows_near_the_tokens_are_open_for_more_lengths() {
        // Shares of lengths 1, 2 and 4 are 0.25, 0.25 and 0.5.
        let found = gates([0.0, 0.0, 2f32.ln()], [200.0, 0.0]);
        close(&found, &[0.5, 0.5, 0.75, 1.0, 0.25, 0.25, 0.375, 0.5], 1e-6);
    }

    #[test]
    fn corners_are_short_prefixes_and_absent_layers() {
        let found = gates([-200.0, 200.0, -200.0], [200.0, -200.0]);
        close(&found, &[1e-9, 1e-9, 1.0, 1.0, 1e-9, 1e-9, 1e-9, 1e-9], 1e-6);
    }

    #[test]
    fn the_expected_share_is_that_of_the_rows() {
        let (choice, mut set) = choice();
        set.insert(LENGTHS, Group::Architecture, &[3], vec![0.0; 3]);
        set.insert(LAYERS, Group::Architecture, &[2], vec![0.0, 200.0]);
        let share = host(choice.expected_share(&set.constants(), 1.0, 4).expect("a share"));
        // (1 + 2 + 4) / 3 of 4 rows, on 1.5 of 2 layers.
        close(&share, &[7.0 / 12.0 * 0.75], 1e-6);
    }

    #[test]
    fn the_likeliest_is_chosen_and_one_layer_stays() {
        let (choice, _) = choice();
        let chosen = choice.of_logits(&[0.1, 0.3, 0.2], Some(&[-0.1, 0.2]));
        assert_eq!(chosen, Chosen { length: Some(2), layers: Some(vec![1]) });
        assert_eq!(choice.of_logits(&[0.0; 3], Some(&[-2.0, -1.0])).layers, Some(vec![1]));
    }
}
