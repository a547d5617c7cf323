//! One optimiser step.

use crate::adaptation::Adaptation;
use crate::backbone::{Backbone, Input, Query};
use crate::method::{Methods, Moment};
use crate::optimizer::{self, AdamW, GradientMap, Rule};
use crate::parameters::{Group, ParameterSet};
use burn::tensor::Tensor;
use pemlc_data::Batch;

/// What a step needs beside what it changes.
pub(crate) struct Stepper<'a> {
    pub(crate) backbone: &'a Backbone,
    pub(crate) methods: &'a Methods,
    /// Which parameters it steps.
    pub(crate) steps: fn(Group) -> bool,
    /// Steps before this one.
    pub(crate) done: u64,
}

/// What a step was.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Taken {
    /// Mean nats per answer token.
    pub(crate) loss: f64,
    /// Global norm of the gradients before clipping.
    pub(crate) norm: f64,
    /// Padding excluded.
    pub(crate) tokens: u64,
}

impl Stepper<'_> {
    /// One step on the mean loss over all target tokens of `batches`, each with its number within the run. The error is what is not
    /// finite, with its value; nothing is changed then.
    pub(crate) fn step(
        &self,
        set: &mut ParameterSet,
        optimizer: &mut AdamW,
        batches: &[(u64, Batch)],
        seed: u64,
        clip: f64,
        rule: impl Fn(Group) -> Rule,
    ) -> Result<Taken, (&'static str, f64)> {
        let targets: usize = batches.iter().map(|(_, batch)| batch.targets.len()).sum();
        let scale = 1.0 / targets.max(1) as f32;
        let mut total = GradientMap::new();
        let (mut loss, mut tokens) = (0.0, 0);
        for (index, (number, batch)) in batches.iter().enumerate() {
            let leaves = set.leaves_of(self.steps);
            let moment = Moment::Training { seed, batch: *number };
            if index == 0
                && let Some(penalty) = self.methods.penalty(&leaves, &moment).filter(Tensor::is_tracked)
            {
                optimizer::accumulate(&mut total, leaves.gradients(&mut penalty.backward()));
            }
            let adaptation = self.backbone.project_hidden(self.methods.adaptation(&leaves, &moment));
            let (batch_loss, gradient) = self.gradient(batch, &adaptation, scale);
            loss += batch_loss;
            tokens += batch.attention_mask.iter().sum::<i64>() as u64;
            if let Some(mut gradients) = adaptation.backward(gradient) {
                optimizer::accumulate(&mut total, leaves.gradients(&mut gradients));
            }
        }
        loss *= f64::from(scale);
        if !loss.is_finite() {
            return Err(("loss", loss));
        }
        let norm = optimizer::global_norm(&total);
        if !norm.is_finite() {
            return Err(("gradient norm", norm));
        }
        let gradients = optimizer::clip(total, norm, clip);
        optimizer.step(set, gradients.clone(), rule);
        self.methods.observe(self.done + 1, &gradients, set);
        Ok(Taken { loss, norm, tokens })
    }

    fn gradient(
        &self,
        batch: &Batch,
        adaptation: &Adaptation,
        scale: f32,
    ) -> (f64, crate::adaptation::AdaptationGradient) {
        let input = Input {
            rows: batch.rows,
            length: batch.length,
            input_ids: &batch.input_ids,
            attention_mask: &batch.attention_mask,
            task_ids: &batch.task_ids,
        };
        let query = |target: &pemlc_data::Target| Query {
            position: target.row * batch.length + target.position,
            token: target.token,
        };
        let queries: Vec<Query> = batch.targets.iter().map(query).collect();
        self.backbone.gradient(&input, &queries, adaptation, scale)
    }
}
