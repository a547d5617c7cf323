//! What a method adds to the frozen model, in the normal form that export speaks too: low-rank deltas and prefix rows.
//!
//! Methods build an [`Adaptation`] from their parameters under autodiff; the backbone reads it as constants and answers with its
//! gradient, tensor for tensor; `Adaptation::backward` carries that on to the parameters. So a method needs no backward pass of its
//! own, and the backbone knows no method.

use burn::tensor::{DType, Gradients, Tensor};
use pemlc_artifact::Projection;
use std::collections::BTreeMap;

/// `y += scale * drop(x) A^T B^T` for one projection.
#[derive(Debug, Clone)]
pub struct LowRank {
    /// A, `[sets, rank, in]`: one set for all tasks, or one for each.
    pub a: Tensor<3>,
    /// B, `[sets, out, rank]`.
    pub b: Tensor<3>,
    /// Alpha over rank.
    pub scale: f32,
    /// In training, which inputs are zeroed.
    pub dropout: Option<Dropout>,
}

/// Lengths of the rows of one projection's weight with its deltas (DoRA): its output, before the bias, is multiplied by `m / n`, n being the
/// lengths that they have. The deltas must be such that all tasks share.
#[derive(Debug, Clone)]
pub struct Magnitude {
    /// m, `[out]`.
    pub value: Tensor<1>,
    /// Whether the gradient flows through n too, or takes it as a constant.
    pub full_gradient: bool,
}

/// Which inputs of a low-rank delta are zeroed: a pure function of these.
#[derive(Debug, Clone, PartialEq)]
pub struct Dropout {
    /// Share that is zeroed.
    pub rate: f32,
    /// The run's seed.
    pub seed: u64,
    /// Batch number within the run.
    pub step: u64,
    /// The delta.
    pub name: String,
}

/// Prefix rows of every layer. Sets as in [`LowRank`].
#[derive(Debug, Clone)]
pub struct PrefixRows {
    /// `[sets, layers, kv_heads, length, head_dim]`, unrotated: tokens start at position 0.
    pub key: Tensor<5>,
    /// `[sets, layers, kv_heads, length, head_dim]`.
    pub value: Tensor<5>,
    /// `[sets, layers, length]`, added to the rows' attention logits.
    pub log_gate: Tensor<3>,
}

/// Hidden states in front of every layer's tokens, which its key and value projections make prefix rows of.
#[derive(Debug, Clone)]
pub struct HiddenRows {
    /// `[sets, layers, length, hidden]`.
    pub hidden: Tensor<4>,
    /// Keys and values, as of [`PrefixRows`], that are added to what the projections give.
    pub start: Option<(Tensor<5>, Tensor<5>)>,
    /// `[sets, layers, length]`.
    pub log_gate: Tensor<3>,
}

/// Experts of the feed-forward halves of layers, and who chooses among them for each token (MixLoRA).
#[derive(Debug, Clone)]
pub struct Routing {
    /// A router of each layer, `[layers, experts, hidden]`: its logits are `x G^T`.
    pub routers: Tensor<3>,
    /// How many experts a token has; their weights are brought to a sum of 1.
    pub top: usize,
    /// Weight of the loss of unbalanced choices, which is added to the gradient only.
    pub balance: f32,
    /// Each expert: deltas of the three feed-forward projections, in the place of those outside.
    pub experts: Vec<Adaptation>,
}

/// Gradients of a [`Routing`].
#[derive(Debug, Clone)]
pub struct RoutingGradient {
    /// Of the routers.
    pub routers: Tensor<3>,
    /// Of each expert.
    pub experts: Vec<AdaptationGradient>,
}

/// Deltas by (layer, projection), and prefix rows or a soft prompt.
#[derive(Debug, Clone, Default)]
pub struct Adaptation {
    /// Deltas; those of one projection add up.
    pub deltas: BTreeMap<(usize, Projection), Vec<LowRank>>,
    /// Magnitudes.
    pub magnitudes: BTreeMap<(usize, Projection), Magnitude>,
    /// Experts, if any.
    pub routing: Option<Routing>,
    /// Prefix rows, if any.
    pub prefix: Option<PrefixRows>,
    /// Hidden states that are to become prefix rows: the backbone makes them such, once all deltas are known, before anything else.
    pub hidden: Option<HiddenRows>,
    /// A soft prompt, `[sets, length, hidden]`, in front of the token embeddings: it takes positions `0..length`, the tokens those after
    /// it. Not together with prefix rows. Export folds it into such.
    pub prompt: Option<Tensor<3>>,
}

/// The gradient of a loss with respect to an [`Adaptation`]: the same tensors, f32.
#[derive(Debug, Clone, Default)]
pub struct AdaptationGradient {
    /// Gradients of A and B, in the order of the deltas.
    pub deltas: BTreeMap<(usize, Projection), Vec<(Tensor<3>, Tensor<3>)>>,
    /// Gradients of magnitudes.
    pub magnitudes: BTreeMap<(usize, Projection), Tensor<1>>,
    /// Gradients of experts and routers.
    pub routing: Option<RoutingGradient>,
    /// Gradients of keys, values and log-gates.
    pub prefix: Option<(Tensor<5>, Tensor<5>, Tensor<3>)>,
    /// Gradient of the soft prompt.
    pub prompt: Option<Tensor<3>>,
}

impl Adaptation {
    /// Adds what another method contributes. Rows and prompts of the later one replace those of the earlier.
    pub fn add(&mut self, other: Self) {
        for (place, deltas) in other.deltas {
            self.deltas.entry(place).or_default().extend(deltas);
        }
        self.magnitudes.extend(other.magnitudes);
        self.routing = other.routing.or(self.routing.take());
        self.prefix = other.prefix.or(self.prefix.take());
        self.hidden = other.hidden.or(self.hidden.take());
        self.prompt = other.prompt.or(self.prompt.take());
    }

    /// The same outside autodiff, keys, values and factors in `dtype`. Log-gates stay f32, as softmax does, and so do magnitudes, unless
    /// `dtype` is wider.
    pub(crate) fn constant(&self, dtype: DType) -> Self {
        let wide = if dtype == DType::F64 { dtype } else { DType::F32 };
        let magnitude =
            |magnitude: &Magnitude| Magnitude { value: cast(magnitude.value.clone().inner(), wide), ..*magnitude };
        let delta = |delta: &LowRank| LowRank {
            a: cast(delta.a.clone().inner(), dtype),
            b: cast(delta.b.clone().inner(), dtype),
            ..delta.clone()
        };
        Self {
            deltas: self.deltas.iter().map(|(place, deltas)| (*place, deltas.iter().map(delta).collect())).collect(),
            magnitudes: self.magnitudes.iter().map(|(place, value)| (*place, magnitude(value))).collect(),
            routing: self.routing.as_ref().map(|routing| Routing {
                routers: cast(routing.routers.clone().inner(), wide),
                experts: routing.experts.iter().map(|expert| expert.constant(dtype)).collect(),
                ..*routing
            }),
            prefix: self.prefix.as_ref().map(|rows| PrefixRows {
                key: cast(rows.key.clone().inner(), dtype),
                value: cast(rows.value.clone().inner(), dtype),
                log_gate: cast(rows.log_gate.clone().inner(), wide),
            }),
            hidden: None,
            prompt: self.prompt.as_ref().map(|prompt| cast(prompt.clone().inner(), dtype)),
        }
    }

    /// Gradients of the parameters that this adaptation was built from, given the gradient with respect to itself. `None` when it was
    /// built from constants.
    pub(crate) fn backward(self, gradient: AdaptationGradient) -> Option<Gradients> {
        let mut terms: Vec<Tensor<1>> = Vec::new();
        self.push_terms(gradient, &mut terms);
        if terms.is_empty() { None } else { Some(Tensor::cat(terms, 0).sum().backward()) }
    }

    /// The gradient of the sum of these, each `sum(x * g)` of some x, with respect to x is g.
    fn push_terms(self, gradient: AdaptationGradient, terms: &mut Vec<Tensor<1>>) {
        fn push<const D: usize>(terms: &mut Vec<Tensor<1>>, value: Tensor<D>, gradient: Tensor<D>) {
            if value.is_tracked() {
                terms.push((value * gradient.autodiff()).sum());
            }
        }
        for (place, deltas) in self.deltas {
            let gradients = gradient.deltas.get(&place).cloned().unwrap_or_default();
            for (delta, (a, b)) in deltas.into_iter().zip(gradients) {
                push(terms, delta.a, a);
                push(terms, delta.b, b);
            }
        }
        for (place, into) in gradient.magnitudes {
            if let Some(magnitude) = self.magnitudes.get(&place) {
                push(terms, magnitude.value.clone(), into);
            }
        }
        if let (Some(routing), Some(into)) = (self.routing, gradient.routing) {
            push(terms, routing.routers, into.routers);
            for (expert, into) in routing.experts.into_iter().zip(into.experts) {
                expert.push_terms(into, terms);
            }
        }
        if let (Some(rows), Some((key, value, log_gate))) = (self.prefix, gradient.prefix) {
            push(terms, rows.key, key);
            push(terms, rows.value, value);
            push(terms, rows.log_gate, log_gate);
        }
        if let (Some(prompt), Some(into)) = (self.prompt, gradient.prompt) {
            push(terms, prompt, into);
        }
    }
}

/// `tensor` as `dtype`, untouched when it is that already.
pub(crate) fn cast<const D: usize>(tensor: Tensor<D>, dtype: DType) -> Tensor<D> {
    if tensor.dtype() == dtype { tensor } else { tensor.cast(dtype) }
}
