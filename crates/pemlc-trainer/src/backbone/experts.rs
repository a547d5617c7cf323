//! MixLoRA: a router chooses a few experts for each token, `y = sum_i w_i f_i(x)`. An expert f_i is the layer's feed-forward part with deltas
//! of its own; the weights w are those of the largest `softmax(x G^T)`, brought to a sum of 1.

use super::layer::{Place, Weights};
use super::{feed_forward, linear, wide};
use crate::adaptation::{AdaptationGradient, Routing, RoutingGradient, cast};
use crate::parameters::host;
use burn::tensor::{DType, IndexingUpdateOp, Int, Tensor, TensorData, activation::softmax};
use pemlc_artifact::Projection;

/// What the backward pass needs.
pub(super) struct Saved {
    /// Softmax over all experts, `[tokens, experts]`, f32 at least.
    probabilities: Tensor<2>,
    /// 1 for the experts that a token has, `[tokens, experts]`.
    chosen: Tensor<2>,
    /// The gradient of the loss of unbalanced choices by a token's probabilities, `[tokens, experts]`.
    balance: Tensor<2>,
    /// By expert; `None` for one that no token has.
    experts: Vec<Option<Expert>>,
}

/// An expert with its tokens.
struct Expert {
    tokens: Tensor<1, Int>,
    output: Tensor<2>,
    saved: feed_forward::Saved,
}

/// Gradients of one layer's router and experts.
pub(super) struct Gradients {
    layer: usize,
    router: Tensor<2>,
    experts: Vec<Vec<(Projection, linear::Gradients)>>,
}

/// For `x` `[tokens, hidden]`.
pub(super) fn forward(weights: &Weights, x: Tensor<2>, routing: &Routing, place: &Place<'_>) -> (Tensor<2>, Saved) {
    let router = router(routing, place.index);
    let probabilities = softmax(cast(x.clone(), router.dtype()).matmul(router.transpose()), 1);
    let choice = Choice::new(&probabilities, routing.top, &place.geometry.visible);
    let chosen = choice.mask(&probabilities);
    let shares = shares(probabilities.clone(), chosen.clone());
    let mut y = x.zeros_like();
    let mut experts = Vec::with_capacity(routing.experts.len());
    for (index, adaptation) in routing.experts.iter().enumerate() {
        let Some(tokens) = choice.tokens_of(index, &x) else {
            experts.push(None);
            continue;
        };
        let own = Place { adaptation, ..*place };
        let (output, saved) = feed_forward::forward(weights, x.clone().select(0, tokens.clone()), &own);
        let weighed = output.clone() * share_of(&shares, index, &tokens, output.dtype());
        y = y.select_assign(0, tokens.clone(), weighed, IndexingUpdateOp::Add);
        experts.push(Some(Expert { tokens, output, saved }));
    }
    let balance = choice.balance(&probabilities, routing.balance);
    (y, Saved { probabilities, chosen, balance, experts })
}

/// The gradient of `x`, and those of router and experts.
pub(super) fn backward(
    weights: &Weights,
    x: Tensor<2>,
    saved: Saved,
    gradient: Tensor<2>,
    routing: &Routing,
    place: &Place<'_>,
) -> (Tensor<2>, Gradients) {
    let Saved { probabilities, chosen, balance, experts } = saved;
    let shares = shares(probabilities.clone(), chosen.clone());
    let mut into_x = x.zeros_like();
    let mut into_shares = probabilities.zeros_like();
    let mut into_experts = Vec::with_capacity(experts.len());
    for (index, (expert, adaptation)) in experts.into_iter().zip(&routing.experts).enumerate() {
        let mut into = Vec::new();
        if let Some(Expert { tokens, output, saved }) = expert {
            let own = Place { adaptation, ..*place };
            let mine = gradient.clone().select(0, tokens.clone());
            let along = wide(mine.clone() * output).sum_dim(1);
            let column = shares.zeros_like().narrow(1, index, 1);
            let column = column.select_assign(0, tokens.clone(), along, IndexingUpdateOp::Add);
            into_shares = into_shares.slice_assign([0..x.dims()[0], index..index + 1], column);
            let mine = mine.clone() * share_of(&shares, index, &tokens, mine.dtype());
            let through =
                feed_forward::backward(weights, x.clone().select(0, tokens.clone()), saved, mine, &own, &mut into);
            into_x = into_x.select_assign(0, tokens, through, IndexingUpdateOp::Add);
        }
        into_experts.push(into);
    }
    // w_i = p_i / sum of the chosen p, then softmax.
    let sum = (probabilities.clone() * chosen.clone()).sum_dim(1);
    let mean = (into_shares.clone() * shares).sum_dim(1);
    let into_probabilities = chosen * (into_shares - mean) / sum + balance;
    let mean = (into_probabilities.clone() * probabilities.clone()).sum_dim(1);
    let into_logits = probabilities * (into_probabilities - mean);
    let router = router(routing, place.index);
    let into_router = into_logits.clone().transpose().matmul(cast(x, router.dtype()));
    let through = cast(into_logits.matmul(router), into_x.dtype());
    (into_x + through, Gradients { layer: place.index, router: into_router, experts: into_experts })
}

/// Gradients of all layers' routers and experts, in the order of the layers; `None` without any.
pub(super) fn gradient(layers: Vec<Gradients>) -> Option<RoutingGradient> {
    let mut experts = vec![AdaptationGradient::default(); layers.first()?.experts.len()];
    let mut routers = Vec::with_capacity(layers.len());
    for Gradients { layer, router, experts: of_layer } in layers {
        routers.push(router);
        for (expert, projections) in experts.iter_mut().zip(of_layer) {
            expert.deltas.extend(projections.into_iter().map(|(projection, into)| ((layer, projection), into.deltas)));
        }
    }
    Some(RoutingGradient { routers: Tensor::stack(routers, 0), experts })
}

/// `[experts, hidden]`.
fn router(routing: &Routing, layer: usize) -> Tensor<2> {
    routing.routers.clone().narrow(0, layer, 1).squeeze_dim(0)
}

/// Probabilities of the chosen experts, brought to a sum of 1.
fn shares(probabilities: Tensor<2>, chosen: Tensor<2>) -> Tensor<2> {
    let kept = probabilities * chosen;
    kept.clone() / kept.sum_dim(1)
}

/// An expert's share of its tokens, `[tokens of it, 1]`.
fn share_of(shares: &Tensor<2>, index: usize, tokens: &Tensor<1, Int>, dtype: DType) -> Tensor<2> {
    cast(shares.clone().narrow(1, index, 1).select(0, tokens.clone()), dtype)
}

/// Which experts each token has. Made on the host: how many tokens an expert has shapes its tensors.
struct Choice {
    experts: usize,
    /// `[tokens, experts]`.
    chosen: Vec<bool>,
    visible: Vec<bool>,
}

impl Choice {
    /// The likeliest `top`; of equally likely ones the first.
    fn new(probabilities: &Tensor<2>, top: usize, visible: &[bool]) -> Self {
        let experts = probabilities.dims()[1];
        let mut chosen = vec![false; probabilities.shape().num_elements()];
        for (row, chosen) in host(probabilities.clone()).chunks(experts).zip(chosen.chunks_mut(experts)) {
            let mut order: Vec<usize> = (0..experts).collect();
            order.sort_by(|left, right| row[*right].total_cmp(&row[*left]));
            order.into_iter().take(top).for_each(|expert| chosen[expert] = true);
        }
        Self { experts, chosen, visible: visible.to_vec() }
    }

    fn mask(&self, like: &Tensor<2>) -> Tensor<2> {
        let values: Vec<f32> = self.chosen.iter().map(|chosen| f32::from(u8::from(*chosen))).collect();
        cast(Tensor::from_data(TensorData::new(values, like.dims()), (&like.device(), DType::F32)), like.dtype())
    }

    /// Numbers of the tokens that have `expert`.
    fn tokens_of(&self, expert: usize, like: &Tensor<2>) -> Option<Tensor<1, Int>> {
        let rows = self.chosen.chunks(self.experts).enumerate();
        let tokens: Vec<i64> = rows.filter(|(_, row)| row[expert]).map(|(token, _)| token as i64).collect();
        let count = tokens.len();
        (count > 0).then(|| Tensor::from_data(TensorData::new(tokens, [count]), (&like.device(), DType::I64)))
    }

    /// Of `weight * experts * sum_i f_i P_i`, with f_i the share of tokens that have expert i and P_i its mean probability: the gradient
    /// by every probability, choices being constant. Padding does not count.
    fn balance(&self, like: &Tensor<2>, weight: f32) -> Tensor<2> {
        let count = self.visible.iter().filter(|visible| **visible).count().max(1) as f32;
        let mut having = vec![0.0f32; self.experts];
        for (row, _) in self.chosen.chunks(self.experts).zip(&self.visible).filter(|(_, visible)| **visible) {
            having.iter_mut().zip(row).for_each(|(sum, chosen)| *sum += f32::from(u8::from(*chosen)));
        }
        let slope: Vec<f32> = having.iter().map(|sum| weight * self.experts as f32 * sum / (count * count)).collect();
        let of_token = |visible: &bool| if *visible { slope.clone() } else { vec![0.0; self.experts] };
        let values: Vec<f32> = self.visible.iter().flat_map(of_token).collect();
        cast(Tensor::from_data(TensorData::new(values, like.dims()), (&like.device(), DType::F32)), like.dtype())
    }
}
