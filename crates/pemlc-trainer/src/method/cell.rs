//! Operations of the encoder's cell on `x` `[sets * layers, length, width]`, and their mixture.

use crate::parameters::{Group, Leaves, ParameterSet};
use crate::random::Stream;
use burn::tensor::{
    Tensor,
    activation::{gelu, sigmoid, softmax},
    s,
};
use pemlc_artifact::prompt::Operation;

/// Deviation of the weights that a fresh operation ends with: near zero, so that a mixture starts near its skip, but not zero, so that
/// gradients reach the inner weights at once.
const OUTPUT_DEVIATION: f32 = 1e-3;
const NORM_EPSILON: f32 = 1e-5;

/// Names and shapes of an operation's weights on width `width`; the weights that it ends with come last.
pub(super) fn weights(operation: Operation, width: usize) -> Vec<(&'static str, Vec<usize>)> {
    match operation {
        Operation::None | Operation::Skip => vec![],
        Operation::DepthwiseConvolution { kernel } => vec![("bias", vec![width]), ("weight", vec![width, kernel])],
        Operation::Glu => vec![
            ("b.bias", vec![width]),
            ("b.weight", vec![width, width]),
            ("a.bias", vec![width]),
            ("a.weight", vec![width, width]),
        ],
        Operation::Linear => vec![("bias", vec![width]), ("weight", vec![width, width])],
        Operation::MlpTanh { width: inner } | Operation::MlpGelu { width: inner } => {
            vec![("w1", vec![inner, width]), ("b1", vec![inner]), ("b2", vec![width]), ("w2", vec![width, inner])]
        }
        Operation::Attention { .. } => {
            let mut names = Vec::new();
            for (weight, bias) in
                [("q.weight", "q.bias"), ("k.weight", "k.bias"), ("v.weight", "v.bias"), ("out.weight", "out.bias")]
            {
                names.push((bias, vec![width]));
                names.push((weight, vec![width, width]));
            }
            names
        }
    }
}

/// Adds fresh weights of `operation` under `prefix`.
pub(super) fn initialize(operation: Operation, width: usize, prefix: &str, seed: u64, set: &mut ParameterSet) {
    let weights = weights(operation, width);
    let last = weights.len().saturating_sub(1);
    for (index, (name, shape)) in weights.into_iter().enumerate() {
        let name = format!("{prefix}.{name}");
        let count = shape.iter().product();
        let mut stream = Stream::new(seed, &name, 0);
        let values = match shape.as_slice() {
            [_] => vec![0.0; count],
            _ if index == last => stream.normal(count, OUTPUT_DEVIATION),
            [.., inputs] => stream.uniform(count, (*inputs as f32).sqrt().recip()),
            [] => vec![],
        };
        set.insert(name, Group::Prefix, &shape, values);
    }
}

/// Applies `operation`, whose weights are under `prefix`.
pub(super) fn apply(operation: Operation, x: Tensor<3>, parameters: &Leaves, prefix: &str) -> Tensor<3> {
    let linear = |x: Tensor<3>, weight: &str, bias: &str| {
        let weight = parameters.get::<3>(&format!("{prefix}.{weight}"));
        x.matmul(weight.swap_dims(1, 2)) + parameters.get::<3>(&format!("{prefix}.{bias}"))
    };
    match operation {
        Operation::None => x.zeros_like(),
        Operation::Skip => x,
        Operation::MlpGelu { .. } => linear(gelu(linear(x, "w1", "b1")), "w2", "b2"),
        Operation::Glu => linear(x.clone(), "a.weight", "a.bias") * sigmoid(linear(x, "b.weight", "b.bias")),
        Operation::DepthwiseConvolution { kernel } => {
            let [cells, length, width] = x.dims();
            let around = Tensor::zeros([cells, kernel / 2, width], (&x.device(), x.dtype()));
            let padded = Tensor::cat(vec![around.clone(), x, around], 1);
            let weights = parameters.get::<2>(&format!("{prefix}.weight"));
            let tap = |tap: usize| {
                let weight = weights.clone().narrow(1, tap, 1).reshape([1, 1, width]);
                padded.clone().narrow(1, tap, length) * weight
            };
            let bias = parameters.get::<3>(&format!("{prefix}.bias"));
            (0..kernel).map(tap).fold(bias, |sum, term| sum + term)
        }
        Operation::Linear => linear(x, "weight", "bias"),
        Operation::MlpTanh { .. } => linear(linear(x, "w1", "b1").tanh(), "w2", "b2"),
        Operation::Attention { heads } => {
            let [cells, length, width] = x.dims();
            let split = |x: Tensor<3>| x.reshape([cells, length, heads, width / heads]).swap_dims(1, 2);
            let query = split(linear(x.clone(), "q.weight", "q.bias"));
            let key = split(linear(x.clone(), "k.weight", "k.bias"));
            let value = split(linear(x, "v.weight", "v.bias"));
            let scale = ((width / heads) as f32).sqrt().recip();
            let attention = softmax(query.matmul(key.swap_dims(2, 3)) * scale, 3);
            let mixed = attention.matmul(value).swap_dims(1, 2).reshape([cells, length, width]);
            linear(mixed, "out.weight", "out.bias")
        }
    }
}

/// `sum of weights_o outputs_o`.
pub(super) fn mixture(weights: Tensor<1>, outputs: Vec<Tensor<3>>) -> Tensor<3> {
    let weights = weights.reshape([outputs.len(), 1, 1]);
    let terms =
        outputs.into_iter().enumerate().map(|(index, output)| output * weights.clone().slice(s![index..index + 1]));
    terms.reduce(|sum, term| sum + term).unwrap_or(weights)
}

/// Layer normalisation over the last dimension, without weights.
pub(super) fn normalize(x: Tensor<3>) -> Tensor<3> {
    let centered = x.clone() - x.mean_dim(2);
    let variance = centered.clone().square().mean_dim(2);
    centered / (variance + NORM_EPSILON).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::{Golden, close};
    use crate::parameters::host;
    use burn::tensor::{Device, TensorData};

    const OPERATIONS: [(Operation, &str); 8] = [
        (Operation::None, "none"),
        (Operation::Skip, "skip"),
        (Operation::MlpGelu { width: 12 }, "mlp_gelu_erf_12"),
        (Operation::DepthwiseConvolution { kernel: 3 }, "dwconv_k3"),
        (Operation::Glu, "glu"),
        (Operation::Linear, "linear"),
        (Operation::MlpTanh { width: 4 }, "mlp_tanh_4"),
        (Operation::Attention { heads: 2 }, "self_attention"),
    ];

    /// The golden file's weights under our names.
    fn set(golden: &Golden) -> ParameterSet {
        let mut set = ParameterSet::new(&Device::flex());
        let mut insert = |name: &str, shape: &[usize], values: &[f32]| {
            set.insert(name, Group::Prefix, shape, values.to_vec());
        };
        let golden = |name: &str| golden.f32(&["params", name]);
        insert("linear.weight", &[8, 8], &golden("linear.weight"));
        insert("linear.bias", &[8], &golden("linear.bias"));
        insert("mlp_tanh_4.w1", &[4, 8], &golden("mlp_tanh_4.0.weight"));
        insert("mlp_tanh_4.b1", &[4], &golden("mlp_tanh_4.0.bias"));
        insert("mlp_tanh_4.w2", &[8, 4], &golden("mlp_tanh_4.2.weight"));
        insert("mlp_tanh_4.b2", &[8], &golden("mlp_tanh_4.2.bias"));
        let (weight, bias) = (golden("self_attention.in_proj_weight"), golden("self_attention.in_proj_bias"));
        for (index, name) in ["q", "k", "v"].into_iter().enumerate() {
            insert(&format!("self_attention.{name}.weight"), &[8, 8], &weight[index * 64..(index + 1) * 64]);
            insert(&format!("self_attention.{name}.bias"), &[8], &bias[index * 8..(index + 1) * 8]);
        }
        insert("self_attention.out.weight", &[8, 8], &golden("self_attention.out_proj.weight"));
        insert("self_attention.out.bias", &[8], &golden("self_attention.out_proj.bias"));
        insert("mlp_gelu_erf_12.w1", &[12, 8], &golden("mlp_gelu_erf_12.0.weight"));
        insert("mlp_gelu_erf_12.b1", &[12], &golden("mlp_gelu_erf_12.0.bias"));
        insert("mlp_gelu_erf_12.w2", &[8, 12], &golden("mlp_gelu_erf_12.2.weight"));
        insert("mlp_gelu_erf_12.b2", &[8], &golden("mlp_gelu_erf_12.2.bias"));
        insert("dwconv_k3.weight", &[8, 3], &golden("dwconv_k3.weight"));
        insert("dwconv_k3.bias", &[8], &golden("dwconv_k3.bias"));
        let (weight, bias) = (golden("glu.weight"), golden("glu.bias"));
        for (index, name) in ["a", "b"].into_iter().enumerate() {
            insert(&format!("glu.{name}.weight"), &[8, 8], &weight[index * 64..(index + 1) * 64]);
            insert(&format!("glu.{name}.bias"), &[8], &bias[index * 8..(index + 1) * 8]);
        }
        // The file divides its logits by a temperature of 0.7 first.
        let alpha: Vec<f32> = golden_alpha(&golden_inputs()).iter().map(|alpha| alpha / 0.7).collect();
        insert("alpha", &[8], &alpha);
        set
    }

    fn golden_inputs() -> Golden {
        Golden::read("nas_ops_torch.json")
    }

    fn golden_alpha(golden: &Golden) -> Vec<f32> {
        golden.f32(&["inputs", "alpha"])
    }

    fn tensor(values: Vec<f32>) -> Tensor<3> {
        Tensor::from_data(TensorData::new(values, [1, 5, 8]), &Device::flex())
    }

    #[test]
    fn operations_and_their_mixture_are_those_of_pytorch() {
        let golden = golden_inputs();
        let set = set(&golden);
        let leaves = set.leaves();
        let x = tensor(golden.f32(&["inputs", "P"]));
        let mut ours = std::collections::BTreeMap::new();
        for (operation, name) in OPERATIONS {
            let output = apply(operation, x.clone().autodiff(), &leaves, name);
            if !matches!(operation, Operation::None | Operation::Skip) {
                close(&host(output.clone().inner()), &golden.f32(&["expected", "per_op", name]), 2e-5);
            }
            ours.insert(name, output);
        }
        let order = ["none", "skip", "linear", "mlp_tanh_4", "mlp_gelu_erf_12", "self_attention", "dwconv_k3", "glu"];
        let outputs = order.map(|name| ours.remove(name).expect("every operation"));
        let output = mixture(softmax(leaves.get("alpha"), 0), outputs.to_vec());
        close(&host(output.clone().inner()), &golden.f32(&["expected", "output"]), 2e-5);
        let mut gradients = (output.square().sum() * 0.5).backward();
        let gradients = leaves.gradients(&mut gradients);
        for (ours, theirs) in [
            ("linear.weight", "linear.weight"),
            ("linear.bias", "linear.bias"),
            ("mlp_tanh_4.w1", "mlp_tanh_4.0.weight"),
            ("mlp_tanh_4.w2", "mlp_tanh_4.2.weight"),
            ("self_attention.out.weight", "self_attention.out_proj.weight"),
            ("mlp_gelu_erf_12.w1", "mlp_gelu_erf_12.0.weight"),
            ("mlp_gelu_erf_12.b2", "mlp_gelu_erf_12.2.bias"),
            ("dwconv_k3.weight", "dwconv_k3.weight"),
            ("dwconv_k3.bias", "dwconv_k3.bias"),
        ] {
            close(&host(gradients[ours].clone()), &golden.f32(&["grads", theirs]), 2e-4);
        }
        let glu = golden.f32(&["grads", "glu.weight"]);
        close(&host(gradients["glu.a.weight"].clone()), &glu[..64], 2e-4);
        close(&host(gradients["glu.b.weight"].clone()), &glu[64..], 2e-4);
        let query = golden.f32(&["grads", "self_attention.in_proj_weight"]);
        close(&host(gradients["self_attention.q.weight"].clone()), &query[..64], 2e-4);
        let alpha: Vec<f32> = host(gradients["alpha"].clone()).iter().map(|value| value / 0.7).collect();
        close(&alpha, &golden.f32(&["grads", "alpha"]), 2e-4);
    }

    #[test]
    fn normalisation_is_that_of_pytorch() {
        let golden = golden_inputs();
        let row = |name: &str| golden.f32(&["params", name]);
        let normalized = host(normalize(tensor(golden.f32(&["inputs", "P"]))));
        let (weight, bias) = (row("layernorm.weight"), row("layernorm.bias"));
        let scaled: Vec<f32> =
            normalized.iter().enumerate().map(|(index, value)| value * weight[index % 8] + bias[index % 8]).collect();
        close(&scaled, &golden.f32(&["expected", "per_op", "layernorm"]), 2e-5);
    }
}
