//! What is known of a value without running the graph.

use super::dim::Dim;
use crate::inspect::model::{Dimension, TensorType, Weight};
use crate::inspect::number::DataType;
use std::rc::Rc;

/// A longer list of dimensions is unknown, and so is what a tensor of more whole numbers holds.
pub(super) const MAX_RANK: usize = 32;

/// Where a value's type is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The file says it all.
    Declared,
    /// The file says some of it, the rest follows from the operators.
    Completed,
    /// It follows from the operators.
    Inferred,
    /// Some or all of it is not known.
    #[default]
    Unknown,
}

/// Number type, shape, and for small tensors of whole numbers what they hold.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fact {
    pub(crate) dtype: DataType,
    pub(crate) shape: Option<Rc<[Dim]>>,
    pub(crate) contents: Option<Rc<[Dim]>>,
    /// Whether it is an initialiser or a constant: the same in every run.
    pub(crate) weight: bool,
    pub(crate) source: Source,
}

impl Fact {
    pub(crate) fn new(dtype: DataType, shape: Option<Vec<Dim>>) -> Self {
        Self { dtype, shape: shape.filter(|shape| shape.len() <= MAX_RANK).map(Into::into), ..Self::default() }
    }

    /// The same with what it holds: one number an element.
    pub(crate) fn holding(mut self, contents: Option<Vec<Dim>>) -> Self {
        self.contents = contents.filter(|contents| contents.len() <= MAX_RANK).map(Into::into);
        self
    }

    pub(crate) fn of_weight(weight: &Weight) -> Self {
        let dims: Vec<Dim> = weight.dims.iter().take(MAX_RANK + 1).map(|size| Dim::Fixed(*size)).collect();
        let contents = weight.small_integers(MAX_RANK as u64);
        let mut fact = Self::new(weight.dtype, Some(dims))
            .holding(contents.map(|values| values.into_iter().map(Dim::Fixed).collect()));
        (fact.weight, fact.source) = (true, Source::Declared);
        fact
    }

    pub(crate) fn of_type(declared: &TensorType) -> Self {
        let dimension = |dimension: &Dimension| match dimension {
            Dimension::Fixed(size) if *size >= 0 => Dim::Fixed(*size),
            Dimension::Symbol(symbol) => Dim::parse(symbol),
            _ => Dim::Unknown,
        };
        let dims = declared.shape.as_ref().map(|shape| shape.iter().take(MAX_RANK + 1).map(dimension).collect());
        let mut fact = Self::new(declared.dtype, dims);
        fact.source = if fact.is_complete() { Source::Declared } else { Source::Unknown };
        fact
    }

    /// Whether number type and every dimension are known.
    fn is_complete(&self) -> bool {
        self.dtype != DataType::default() && self.shape.as_ref().is_some_and(|shape| shape.iter().all(Dim::is_known))
    }

    /// This, inferred, put together with what the file declares, which wins.
    pub(crate) fn declared_as(mut self, declared: Option<&TensorType>) -> Self {
        let Some(declared) = declared else {
            self.source = if self.is_complete() { Source::Inferred } else { Source::Unknown };
            return self;
        };
        let mut fact = Self::of_type(declared);
        if fact.source == Source::Declared {
            (fact.contents, fact.weight) = (self.contents, self.weight);
            return fact;
        }
        let shape = match (fact.shape.take(), self.shape) {
            (Some(own), Some(inferred)) if own.len() == inferred.len() => {
                let known = |(own, inferred): (&Dim, &Dim)| if own.is_known() { own.clone() } else { inferred.clone() };
                Some(own.iter().zip(inferred.iter()).map(known).collect())
            }
            (Some(own), _) => Some(own),
            (None, inferred) => inferred,
        };
        let dtype = if fact.dtype == DataType::default() { self.dtype } else { fact.dtype };
        let mut fact = Self { dtype, shape, contents: self.contents, weight: self.weight, source: Source::Unknown };
        if fact.is_complete() {
            fact.source = Source::Completed;
        }
        fact
    }

    pub(crate) fn rank(&self) -> Option<usize> {
        self.shape.as_ref().map(|shape| shape.len())
    }

    /// A dimension, counted from the end where negative.
    pub(crate) fn dim(&self, axis: i64) -> Dim {
        let shape = self.shape.as_deref().unwrap_or_default();
        axis_index(axis, shape.len()).and_then(|axis| shape.get(axis)).cloned().unwrap_or_default()
    }

    /// The product of all dimensions.
    pub(crate) fn elements(&self) -> Dim {
        self.shape.as_ref().map_or(Dim::Unknown, |shape| product(shape))
    }
}

pub(crate) fn product(shape: &[Dim]) -> Dim {
    shape.iter().fold(Dim::Fixed(1), |product, dim| product.times(dim))
}

/// The place of `axis` among `rank` dimensions.
pub(crate) fn axis_index(axis: i64, rank: usize) -> Option<usize> {
    let rank = i64::try_from(rank).ok()?;
    let axis = if axis < 0 { axis.checked_add(rank)? } else { axis };
    (0..rank).contains(&axis).then_some(usize::try_from(axis).ok()?)
}
