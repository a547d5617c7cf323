//! A mixture whose logits leave no doubt is the cell that it becomes.

use super::*;
use crate::config::PrefixConfig;
use crate::golden::close;
use crate::parameters::host;
use burn::tensor::{Device, s};
use pemlc_artifact::{Family, ModelConfig};

fn model() -> ModelConfig {
    ModelConfig {
        family: Family::Llama,
        hidden_size: 8,
        intermediate_size: 8,
        num_hidden_layers: 6,
        num_attention_heads: 2,
        num_key_value_heads: 2,
        head_dim: 4,
        vocab_size: 8,
        max_position_embeddings: 8,
        rms_norm_eps: 1e-6,
        rope_theta: 10_000.0,
        rope_scaling: None,
        tie_word_embeddings: true,
        bos_token_id: None,
        eos_token_ids: vec![],
        pad_token_id: None,
    }
}

fn encoder(generators: Generators) -> (Encoder, ParameterSet) {
    let config = PrefixConfig {
        length: 5,
        lengths: vec![2, 3, 5],
        search_layers: true,
        generators,
        init: PrefixInit::Cold,
        width: 8,
        ..PrefixConfig::default()
    };
    let encoder = Encoder::searched(PrefixShape { config, log_gate: 0.0, sets: 2, model: model() }, 1, 1);
    let mut set = ParameterSet::new(&Device::flex());
    encoder.initialize_cold(3, &mut set);
    // Weights that matter.
    for (name, tensor) in set.to_map() {
        let count = tensor.shape.iter().product();
        set.insert(name.clone(), Group::Prefix, &tensor.shape, Stream::new(3, &name, 1).normal(count, 0.5));
    }
    (encoder, set)
}

#[test]
fn a_mixture_at_a_corner_is_the_cell_that_it_becomes() {
    for generators in [Generators::Shared, Generators::Groups, Generators::PerLayer] {
        let (mut encoder, mut set) = encoder(generators);
        // One operation an edge: linear, attention and skip; three rows; layers 1 and 4.
        let winners = [1, 3, 0];
        let alpha =
            winners.iter().flat_map(|winner| (0..4).map(move |other| if other == *winner { 99.0 } else { 0.0 }));
        set.insert(ALPHA, Group::Architecture, &[3, 4], alpha.collect());
        set.insert("encoder.length_logits", Group::Architecture, &[3], vec![0.0, 99.0, 0.0]);
        let layers = (0..6).map(|layer| if layer == 1 || layer == 4 { 99.0 } else { -99.0 });
        set.insert("encoder.layer_logits", Group::Architecture, &[6], layers.collect());
        let mixture = encoder.rows(&set.constants(), &Moment::Evaluation).prefix.expect("rows");
        encoder.advance(1, &mut set).expect("the search is over");
        let found = Method::architecture(&encoder).expect("a cell");
        let operations: Vec<Operation> = found.edges.iter().map(|edge| edge.operation).collect();
        assert_eq!(operations, winners.map(|winner| encoder.candidates()[winner]));
        assert_eq!((found.length, found.positions, found.layers), (3, Some(5), Some(vec![1, 4])));
        let cell = encoder.rows(&set.constants(), &Moment::Evaluation).prefix.expect("rows");
        assert_eq!(cell.key.dims(), [2, 6, 2, 3, 4]);
        close(&host(cell.key), &host(mixture.key.slice(s![.., .., .., 2..])), 1e-5);
        close(&host(cell.value), &host(mixture.value.slice(s![.., .., .., 2..])), 1e-5);
        // What each row's share in softmax is multiplied by.
        let shares = |gates: Tensor<3>| host(gates.exp());
        close(&shares(cell.log_gate), &shares(mixture.log_gate.clone().slice(s![.., .., 2..])), 1e-5);
        close(&shares(mixture.log_gate.slice(s![.., .., ..2])), &[0.0; 24], 1e-5);
    }
}
