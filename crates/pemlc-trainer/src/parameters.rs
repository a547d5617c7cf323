//! The trained parameters: one named set, which methods read, the optimiser steps and checkpoints store.

use burn::tensor::{DType, Device, Gradients, Tensor, TensorData};
use pemlc_artifact::tensors::{NamedTensor, TensorMap};
use std::collections::BTreeMap;

/// What a parameter belongs to; each group has its own learning rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// Low-rank deltas.
    Lora,
    /// Prefix rows, and the weights of their encoder.
    Prefix,
    /// Additive constants on attention logits.
    LogGate,
    /// Logits of the encoder's mixed operations.
    Architecture,
    /// Never stepped: numbers that belong to a run and are not worth computing again.
    Constant,
}

/// One parameter, always f32, outside autodiff.
#[derive(Debug, Clone)]
pub(crate) struct Parameter {
    pub(crate) group: Group,
    pub(crate) shape: Vec<usize>,
    /// Flat, so that one type holds every rank.
    pub(crate) value: Tensor<1>,
}

/// Parameters by name.
#[derive(Debug, Clone)]
pub struct ParameterSet {
    device: Device,
    pub(crate) parameters: BTreeMap<String, Parameter>,
}

impl ParameterSet {
    /// An empty set on `device`.
    pub fn new(device: &Device) -> Self {
        Self { device: device.clone(), parameters: BTreeMap::new() }
    }

    /// Where it is.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Adds or replaces `name`, whose `values` fill `shape` in row-major order.
    pub fn insert(&mut self, name: impl Into<String>, group: Group, shape: &[usize], values: Vec<f32>) {
        let value = vector(values, &self.device);
        self.parameters.insert(name.into(), Parameter { group, shape: shape.to_vec(), value });
    }

    /// Adds or replaces `name`, a vector on the set's device.
    pub(crate) fn put(&mut self, name: impl Into<String>, group: Group, value: Tensor<1>) {
        let shape = value.dims().to_vec();
        self.parameters.insert(name.into(), Parameter { group, shape, value });
    }

    /// The flat values of `name`, where they are.
    pub(crate) fn vector(&self, name: &str) -> Option<Tensor<1>> {
        self.parameters.get(name).map(|parameter| parameter.value.clone())
    }

    /// Removes every parameter for which `keep` answers false.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.parameters.retain(|name, _| keep(name));
    }

    /// How many trainable numbers there are.
    pub fn count(&self) -> u64 {
        let trainable = self.parameters.values().filter(|parameter| parameter.group != Group::Constant);
        trainable.map(|parameter| parameter.shape.iter().product::<usize>() as u64).sum()
    }

    /// Whether there is a parameter `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.parameters.contains_key(name)
    }

    /// The parameters as leaves of a new autodiff graph; constants stay outside it.
    pub fn leaves(&self) -> Leaves {
        self.leaves_of(|_| true)
    }

    /// The parameters as leaves of a new autodiff graph; constants, and groups that are not `wanted`, stay outside it.
    pub(crate) fn leaves_of(&self, wanted: fn(Group) -> bool) -> Leaves {
        self.leaves_by(|parameter| match parameter.group {
            Group::Constant => parameter.value.clone(),
            group if !wanted(group) => parameter.value.clone(),
            _ => parameter.value.clone().autodiff().require_grad(),
        })
    }

    /// The parameters outside autodiff.
    pub fn constants(&self) -> Leaves {
        self.leaves_by(|parameter| parameter.value.clone())
    }

    fn leaves_by(&self, value: impl Fn(&Parameter) -> Tensor<1>) -> Leaves {
        let leaf = |parameter: &Parameter| Leaf { value: value(parameter), shape: parameter.shape.clone() };
        Leaves(self.parameters.iter().map(|(name, parameter)| (name.clone(), leaf(parameter))).collect())
    }

    /// Copies to the host.
    pub fn to_map(&self) -> TensorMap {
        let named = |parameter: &Parameter| NamedTensor::f32(parameter.shape.clone(), host(parameter.value.clone()));
        self.parameters.iter().map(|(name, parameter)| (name.clone(), named(parameter))).collect()
    }

    /// Values of `name`.
    ///
    /// # Panics
    /// When there is no such parameter: methods ask for what they inserted.
    pub fn values(&self, name: &str) -> Vec<f32> {
        match self.parameters.get(name) {
            Some(parameter) => host(parameter.value.clone()),
            None => unknown(name),
        }
    }
}

/// A set's parameters as tensors, for one forward pass.
#[derive(Debug, Clone)]
pub struct Leaves(BTreeMap<String, Leaf>);

#[derive(Debug, Clone)]
struct Leaf {
    value: Tensor<1>,
    shape: Vec<usize>,
}

impl Leaves {
    /// The parameter `name` under its shape, to which leading dimensions of 1 are added up to rank `D`.
    ///
    /// # Panics
    /// When there is no such parameter, or it has more than `D` dimensions: methods ask for what they inserted.
    pub fn get<const D: usize>(&self, name: &str) -> Tensor<D> {
        let Some(leaf) = self.0.get(name) else { unknown(name) };
        assert!(leaf.shape.len() <= D, "`{name}` has shape {:?}, rank {D} was asked for", leaf.shape);
        let mut shape = [1; D];
        shape[D - leaf.shape.len()..].copy_from_slice(&leaf.shape);
        leaf.value.clone().reshape(shape)
    }

    /// Takes the gradient of each leaf out of `gradients`; a leaf that the loss does not depend on has none.
    pub(crate) fn gradients(&self, gradients: &mut Gradients) -> BTreeMap<String, Tensor<1>> {
        let tracked = self.0.iter().filter(|(_, leaf)| leaf.value.is_tracked());
        tracked.filter_map(|(name, leaf)| Some((name.clone(), leaf.value.grad_remove(gradients)?))).collect()
    }
}

fn unknown(name: &str) -> ! {
    panic!("no parameter `{name}`")
}

/// An f32 vector on `device`.
pub(crate) fn vector(values: Vec<f32>, device: &Device) -> Tensor<1> {
    let length = values.len();
    Tensor::from_data(TensorData::new(values, [length]), (device, DType::F32))
}

/// A tensor's values as f32, row-major.
pub(crate) fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    match tensor.try_into_vec_as::<f32>() {
        Ok(values) => values,
        // Only a device that failed gets here, and every later call would fail too.
        Err(error) => panic!("reading a tensor from its device: {error}"),
    }
}
