//! The frozen prompt encoder: constants in, prefix rows out, for all tasks and layers at once. See `pemlc_artifact::prompt` for the
//! equations.

use super::builder::Builder;
use super::norm::layer_norm;
use crate::ir::{Data, Graph, IrError, Op, Tensor, Unary, ValueId};
use pemlc_artifact::ModelConfig;
use pemlc_artifact::prompt::{Architecture, Generators, Operation};
use pemlc_artifact::tensors::{TensorMap, Values};
use std::sync::Arc;

/// `eps` of the cell's layer normalisations.
const EPSILON: f32 = 1e-5;

/// Why an encoder cannot be lowered.
#[derive(Debug, thiserror::Error)]
pub enum EncoderError {
    /// A weight that the architecture needs is not in the file, or has another shape.
    #[error("tensor `{name}`: expected f32 {expected:?}, found {found}")]
    Weight {
        /// Name in `encoder.safetensors`.
        name: String,
        /// Shape that the architecture and the model ask for.
        expected: Vec<usize>,
        /// What is there.
        found: String,
    },
    /// The architecture contradicts itself.
    #[error("architecture: {0}")]
    Architecture(String),
    /// The graph does not fit together.
    #[error(transparent)]
    Ir(#[from] IrError),
}

/// The weights of `encoder.safetensors`, looked up with the shape that is expected.
pub struct EncoderWeights<'a> {
    tensors: &'a TensorMap,
}

impl<'a> EncoderWeights<'a> {
    /// Wraps the file's tensors.
    pub fn new(tensors: &'a TensorMap) -> Self {
        Self { tensors }
    }

    fn values(&self, name: &str, shape: &[usize]) -> Result<&'a [f32], EncoderError> {
        let wrong = |found: String| EncoderError::Weight { name: name.to_owned(), expected: shape.to_vec(), found };
        let tensor = self.tensors.get(name).ok_or_else(|| wrong("no such tensor".to_owned()))?;
        match &tensor.values {
            Values::F32(values) if tensor.shape == shape && values.len() == shape.iter().product::<usize>() => {
                Ok(values)
            }
            Values::F32(_) => Err(wrong(format!("f32 {:?}", tensor.shape))),
            Values::I64(_) => Err(wrong(format!("i64 {:?}", tensor.shape))),
        }
    }

    /// The tensors `name(0), name(1), ...` of `shape` one after another, as one tensor of shape `stacked`.
    fn stack(
        &self,
        names: impl Iterator<Item = String>,
        shape: &[usize],
        stacked: Vec<usize>,
    ) -> Result<Arc<Tensor>, EncoderError> {
        let mut values = Vec::with_capacity(stacked.iter().product());
        for name in names {
            values.extend_from_slice(self.values(&name, shape)?);
        }
        Tensor::new(stacked, Data::F32(values)).map(Arc::new).ok_or_else(|| {
            EncoderError::Architecture("has another number of tensors than of tasks and layers".to_owned())
        })
    }
}

struct Encoder<'a, 'b> {
    b: &'b mut Builder,
    weights: EncoderWeights<'a>,
    width: usize,
    /// `[sets, layers, positions, width]`, the layers being those of one generator while its cell is lowered.
    shape: [usize; 4],
    /// In front of the names of one generator's weights.
    generator: String,
}

/// A graph without inputs whose outputs are, for every layer `l`, `layers.{l}.key` and `layers.{l}.value` `[sets, kv_heads, length,
/// head_dim]` and `layers.{l}.log_gate` `[sets, length]`.
pub fn lower_prompt_encoder(
    architecture: &Architecture,
    weights: EncoderWeights<'_>,
    config: &ModelConfig,
    sets: usize,
) -> Result<Graph, EncoderError> {
    let mut builder = Builder::new("prompt_encoder");
    let shape = [sets, config.num_hidden_layers, architecture.positions(), architecture.width];
    let generator = String::new();
    let mut encoder = Encoder { b: &mut builder, weights, width: architecture.width, shape, generator };
    let rows = encoder.cells(architecture)?;
    let kv_width = config.kv_width();
    let projected = encoder.heads(rows, kv_width)?;
    let key = encoder.half(projected, "key", 0..kv_width, config)?;
    let value = encoder.half(projected, "value", kv_width..2 * kv_width, config)?;
    let gates = encoder.weights.stack(["log_gate".to_owned()].into_iter(), &[shape[1]], vec![shape[1]])?;
    let gates = encoder.b.constant("log_gate", &gates)?;
    let zeros = Arc::new(Tensor::f32_from_fn(vec![sets, architecture.length], |_| 0.0));
    let zeros = encoder.b.constant("log_gate.zeros", &zeros)?;
    for layer in 0..config.num_hidden_layers {
        let shape = [sets, config.num_key_value_heads, architecture.length, config.head_dim].map(Some);
        for (name, stacked) in [("key", key), ("value", value)] {
            let name = format!("layers.{layer}.{name}");
            let slice = encoder.b.slice(format!("{name}.slice"), 1, layer..layer + 1, stacked)?;
            let output = encoder.b.reshape(name, slice, &shape)?;
            encoder.b.output(output);
        }
        let name = format!("layers.{layer}.log_gate");
        let gate = encoder.b.slice(format!("{name}.slice"), 0, layer..layer + 1, gates)?;
        let output = encoder.b.add(name, gate, zeros)?;
        encoder.b.output(output);
    }
    Ok(builder.finish())
}

impl Encoder<'_, '_> {
    /// What all generators give for the rows, `[sets, layers, length, width]`.
    fn cells(&mut self, architecture: &Architecture) -> Result<ValueId, EncoderError> {
        let whole = self.shape;
        let [sets, layers, positions, width] = whole;
        if architecture.nodes == 0 || [sets, layers, architecture.length, width].contains(&0) {
            return Err(EncoderError::Architecture("has no nodes, rows or width".to_owned()));
        }
        let generators = architecture.generators.layers(layers);
        let codes = match architecture.generators {
            Generators::PerLayer => None,
            _ => {
                let codes = ["layer_code".to_owned()].into_iter();
                let codes = self.weights.stack(codes, &[layers, width], vec![1, layers, 1, width])?;
                Some(self.b.constant("layer_code", &codes)?)
            }
        };
        let mut outputs = Vec::new();
        for (index, range) in generators.iter().enumerate() {
            self.generator = if generators.len() == 1 { String::new() } else { format!("generators.{index}.") };
            self.shape = [sets, range.len(), positions, width];
            let code = codes.map(|codes| self.b.slice(format!("{}codes", self.generator), 1, range.clone(), codes));
            outputs.push(self.cell(architecture, code.transpose()?)?);
        }
        self.shape = whole;
        let output = match outputs[..] {
            [output] => output,
            _ => self.b.concat("generators", 1, &outputs)?,
        };
        if positions == architecture.length {
            return Ok(output);
        }
        self.shape[2] = architecture.length;
        Ok(self.b.slice("rows", 2, positions - architecture.length..positions, output)?)
    }

    /// The output of one generator's cell, `[sets, layers, positions, width]`.
    fn cell(&mut self, architecture: &Architecture, codes: Option<ValueId>) -> Result<ValueId, EncoderError> {
        let [sets, _, length, width] = self.shape;
        let at = self.generator.clone();
        let seeds = (0..sets).map(|set| format!("{at}seed.{set}"));
        let seeds = self.weights.stack(seeds, &[length, width], vec![sets, 1, length, width])?;
        let seeds = self.b.constant(format!("{at}seed"), &seeds)?;
        let start = match codes {
            Some(codes) => self.b.add(format!("{at}nodes.0"), seeds, codes)?,
            None => seeds,
        };
        let mut normed = vec![layer_norm(self.b, &format!("{at}nodes.0.norm"), EPSILON, start)?];
        let mut total: Option<ValueId> = None;
        for node in 1..=architecture.nodes {
            let mut sum: Option<ValueId> = None;
            for (index, edge) in architecture.edges.iter().enumerate().filter(|(_, edge)| edge.to == node) {
                let source = normed.get(edge.from).copied().ok_or_else(|| {
                    EncoderError::Architecture(format!("edge {index} goes from node {} to node {node}", edge.from))
                })?;
                let result = self.operation(index, edge.operation, source)?;
                sum = Some(match sum {
                    Some(sum) => self.b.add(format!("{at}nodes.{node}.with_edge.{index}"), sum, result)?,
                    None => result,
                });
            }
            let sum = sum.ok_or_else(|| EncoderError::Architecture(format!("no edge goes to node {node}")))?;
            normed.push(layer_norm(self.b, &format!("{at}nodes.{node}.norm"), EPSILON, sum)?);
            total = Some(match total {
                Some(total) => self.b.add(format!("{at}nodes.sum_to.{node}"), total, sum)?,
                None => sum,
            });
        }
        let total = total.ok_or_else(|| EncoderError::Architecture("has no nodes".to_owned()))?;
        let share = self.b.scalar_f32(1.0 / architecture.nodes as f32)?;
        let mean = self.b.mul(format!("{at}nodes.mean"), total, share)?;
        Ok(layer_norm(self.b, &format!("{at}output"), EPSILON, mean)?)
    }

    fn operation(&mut self, edge: usize, operation: Operation, x: ValueId) -> Result<ValueId, EncoderError> {
        let width = self.width;
        let name = format!("{}edges.{edge}", self.generator);
        match operation {
            Operation::None => Err(EncoderError::Architecture(format!("{name} has no operation"))),
            Operation::Skip => Ok(x),
            Operation::Linear => self.linear(&name, (".weight", ".bias"), (width, width), x),
            Operation::MlpTanh { width: bottleneck } => {
                let hidden = self.linear(&name, (".w1", ".b1"), (width, bottleneck), x)?;
                let hidden = self.b.unary(format!("{name}.tanh"), Unary::Tanh, hidden)?;
                self.linear(&name, (".w2", ".b2"), (bottleneck, width), hidden)
            }
            Operation::MlpGelu { width: bottleneck } => {
                let hidden = self.linear(&name, (".w1", ".b1"), (width, bottleneck), x)?;
                let hidden = self.gelu(&name, hidden)?;
                self.linear(&name, (".w2", ".b2"), (bottleneck, width), hidden)
            }
            Operation::Glu => {
                let value = self.linear(&format!("{name}.a"), (".weight", ".bias"), (width, width), x)?;
                let gate = self.linear(&format!("{name}.b"), (".weight", ".bias"), (width, width), x)?;
                let gate = self.b.unary(format!("{name}.sigmoid"), Unary::Sigmoid, gate)?;
                Ok(self.b.mul(format!("{name}.gated"), value, gate)?)
            }
            Operation::DepthwiseConvolution { kernel } => self.convolution(&name, kernel, x),
            Operation::Attention { heads } => self.attention(&name, heads, x),
        }
    }

    /// `x (1 + erf(x / sqrt 2)) / 2`.
    fn gelu(&mut self, name: &str, x: ValueId) -> Result<ValueId, EncoderError> {
        let scale = self.b.scalar_f32(std::f32::consts::FRAC_1_SQRT_2)?;
        let scaled = self.b.mul(format!("{name}.gelu.scaled"), x, scale)?;
        let erf = self.b.unary(format!("{name}.gelu.erf"), Unary::Erf, scaled)?;
        let one = self.b.scalar_f32(1.0)?;
        let sum = self.b.add(format!("{name}.gelu.sum"), erf, one)?;
        let half = self.b.scalar_f32(0.5)?;
        let share = self.b.mul(format!("{name}.gelu.share"), sum, half)?;
        Ok(self.b.mul(format!("{name}.gelu"), x, share)?)
    }

    /// Each tap is a product with a matrix that shifts rows: the graph is evaluated once, at compile time, and rows are few.
    fn convolution(&mut self, name: &str, kernel: usize, x: ValueId) -> Result<ValueId, EncoderError> {
        let [_, _, length, width] = self.shape;
        let (weight_name, bias_name) = (format!("{name}.weight"), format!("{name}.bias"));
        let weights = self.weights.values(&weight_name, &[width, kernel])?;
        let bias = self.weights.stack([bias_name.clone()].into_iter(), &[width], vec![width])?;
        let mut sum = self.b.constant(bias_name, &bias)?;
        for tap in 0..kernel {
            let shift = Tensor::f32_from_fn(vec![length, length], |place| {
                let (to, from) = (place / length, place % length);
                if from + kernel / 2 == to + tap { 1.0 } else { 0.0 }
            });
            let shift = self.b.constant(format!("{name}.shift.{tap}"), &Arc::new(shift))?;
            let shifted = self.b.matmul(format!("{name}.shifted.{tap}"), shift, x)?;
            let weight = Tensor::f32_from_fn(vec![width], |channel| weights[channel * kernel + tap]);
            let weight = self.b.constant(format!("{weight_name}.{tap}"), &Arc::new(weight))?;
            let product = self.b.mul(format!("{name}.product.{tap}"), shifted, weight)?;
            sum = self.b.add(format!("{name}.sum.{tap}"), product, sum)?;
        }
        Ok(sum)
    }

    /// `x W^T + b`, with the weight `{name}{suffixes.0}` `[out, in]` and the bias `{name}{suffixes.1}` `[out]`.
    fn linear(
        &mut self,
        name: &str,
        suffixes: (&str, &str),
        (inputs, outputs): (usize, usize),
        x: ValueId,
    ) -> Result<ValueId, EncoderError> {
        let (weight_name, bias_name) = (format!("{name}{}", suffixes.0), format!("{name}{}", suffixes.1));
        let shape = vec![outputs, inputs];
        let weight = self.weights.stack([weight_name.clone()].into_iter(), &shape, shape.clone())?;
        let weight = self.b.constant(weight_name.clone(), &weight)?;
        let weight = self.b.transpose(format!("{weight_name}.transposed"), weight, &[1, 0])?;
        let bias = self.weights.stack([bias_name.clone()].into_iter(), &[outputs], vec![outputs])?;
        let bias = self.b.constant(bias_name.clone(), &bias)?;
        let product = self.b.matmul(format!("{weight_name}.product"), x, weight)?;
        Ok(self.b.add(format!("{bias_name}.sum"), product, bias)?)
    }

    /// Self-attention over the rows.
    fn attention(&mut self, name: &str, heads: usize, x: ValueId) -> Result<ValueId, EncoderError> {
        let [sets, layers, length, width] = self.shape;
        if heads == 0 || !width.is_multiple_of(heads) {
            return Err(EncoderError::Architecture(format!("{name}: {heads} heads do not divide width {width}")));
        }
        let size = width / heads;
        let split = [sets, layers, length, heads, size].map(Some);
        let mut by_head = Vec::new();
        for part in ["q", "k", "v"] {
            let part = format!("{name}.{part}");
            let y = self.linear(&part, (".weight", ".bias"), (width, width), x)?;
            let y = self.b.reshape(format!("{part}.heads"), y, &split)?;
            // Keys come transposed, ready for the product with the queries.
            let order = if part.ends_with('k') { [0, 1, 3, 4, 2] } else { [0, 1, 3, 2, 4] };
            by_head.push(self.b.transpose(format!("{part}.by_head"), y, &order)?);
        }
        let [query, key, value] = by_head[..] else {
            return Err(EncoderError::Architecture("attention has three projections".to_owned()));
        };
        let scores = self.b.matmul(format!("{name}.scores"), query, key)?;
        let scale = self.b.scalar_f32((size as f32).sqrt().recip())?;
        let scores = self.b.mul(format!("{name}.scores.scaled"), scores, scale)?;
        let shares = self.b.node(format!("{name}.shares"), Op::Softmax { axis: 4 }, &[scores])?;
        let mixed = self.b.matmul(format!("{name}.mixed"), shares, value)?;
        let mixed = self.b.transpose(format!("{name}.mixed.by_row"), mixed, &[0, 1, 3, 2, 4])?;
        let mixed = self.b.reshape(format!("{name}.mixed.rows"), mixed, &self.shape.map(Some))?;
        self.linear(&format!("{name}.out"), (".weight", ".bias"), (width, width), mixed)
    }

    /// Every layer's head applied to its rows: `[sets, layers, length, 2 * kv_width]`.
    fn heads(&mut self, rows: ValueId, kv_width: usize) -> Result<ValueId, EncoderError> {
        let [_, layers, _, width] = self.shape;
        let outputs = 2 * kv_width;
        let weights = (0..layers).map(|layer| format!("head.{layer}.weight"));
        let weights = self.weights.stack(weights, &[outputs, width], vec![layers, outputs, width])?;
        let weights = self.b.constant("head.weight", &weights)?;
        let weights = self.b.transpose("head.weight.transposed", weights, &[0, 2, 1])?;
        let biases = (0..layers).map(|layer| format!("head.{layer}.bias"));
        let biases = self.weights.stack(biases, &[outputs], vec![layers, 1, outputs])?;
        let biases = self.b.constant("head.bias", &biases)?;
        let product = self.b.matmul("head.product", rows, weights)?;
        Ok(self.b.add("head", product, biases)?)
    }

    /// The key or the value half of the heads as `[sets, layers, kv_heads, length, head_dim]`, its warm start added.
    fn half(
        &mut self,
        projected: ValueId,
        name: &str,
        range: std::ops::Range<usize>,
        config: &ModelConfig,
    ) -> Result<ValueId, EncoderError> {
        let [sets, layers, length, _] = self.shape;
        let (kv_heads, head_dim) = (config.num_key_value_heads, config.head_dim);
        let half = self.b.slice(format!("head.{name}"), 3, range, projected)?;
        let split = [sets, layers, length, kv_heads, head_dim].map(Some);
        let half = self.b.reshape(format!("head.{name}.heads"), half, &split)?;
        let half = self.b.transpose(format!("head.{name}.by_head"), half, &[0, 1, 3, 2, 4])?;
        let warm = |set: usize, layer: usize| format!("warm_start.{set}.layers.{layer}.{name}");
        if !self.weights.tensors.contains_key(&warm(0, 0)) {
            return Ok(half);
        }
        let names = (0..sets).flat_map(|set| (0..layers).map(move |layer| warm(set, layer)));
        let shape = [kv_heads, length, head_dim];
        let start = self.weights.stack(names, &shape, vec![sets, layers, kv_heads, length, head_dim])?;
        let start = self.b.constant(format!("warm_start.{name}"), &start)?;
        Ok(self.b.add(format!("head.{name}.warm"), half, start)?)
    }
}
