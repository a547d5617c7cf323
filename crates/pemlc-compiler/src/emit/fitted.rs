//! The lines of quantised weights. A weight is three initialisers, integers, scales and offsets, which are made at different times by different
//! workers: what they have in common is fitted once.

use super::quantise::{Line, bytes};
use crate::evaluate::EvaluateError;
use crate::ir::{Expression, Part, Quantisation};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// The lines of a block of rows, or that they could not be fitted.
type Block = Arc<OnceLock<Option<Vec<Line>>>>;

/// See the module.
#[derive(Debug)]
pub(super) struct Fitted {
    /// Of each initialiser, the weight that it is a part of.
    weights: Vec<Option<usize>>,
    /// Of each weight, the initialiser that comes last, and the blocks so far by their first row.
    blocks: Vec<(usize, Mutex<HashMap<usize, Block>>)>,
}

impl Fitted {
    /// Nothing fitted, for `initialisers` in the order in which they are written.
    pub(super) fn new<'a>(initialisers: impl Iterator<Item = &'a Expression>) -> Self {
        let mut found = Self { weights: Vec::new(), blocks: Vec::new() };
        let mut known: HashMap<(u64, Quantisation), Vec<(usize, &Expression)>> = HashMap::new();
        for (index, expression) in initialisers.enumerate() {
            let Expression::Quantise { quantisation, rows, .. } = expression else {
                found.weights.push(None);
                continue;
            };
            let alike = known.entry((rows.digest(), *quantisation)).or_default();
            let weight = match alike.iter().find(|(_, other)| *other == &**rows) {
                Some((weight, _)) => *weight,
                None => {
                    alike.push((found.blocks.len(), rows));
                    found.blocks.push((index, Mutex::default()));
                    found.blocks.len() - 1
                }
            };
            found.blocks[weight].0 = index;
            found.weights.push(Some(weight));
        }
        found
    }

    /// Whether the initialiser `index` is a part of a quantised weight.
    pub(super) fn is_quantised(&self, index: usize) -> bool {
        self.weights[index].is_some()
    }

    /// The bytes of `part` of the block of rows that begins at `first`, for the initialiser `index`. `values` are the numbers of those rows.
    pub(super) fn bytes(
        &self,
        index: usize,
        first: usize,
        (part, quantisation, columns): (Part, Quantisation, usize),
        values: impl Fn() -> Vec<f32>,
    ) -> Result<Vec<u8>, EvaluateError> {
        let fit = |values: &[f32]| Line::of_rows(values, quantisation, first, columns);
        let cell = match self.weights[index] {
            Some(weight) => {
                let mut blocks = self.blocks[weight].1.lock().unwrap_or_else(PoisonError::into_inner);
                Arc::clone(blocks.entry(first).or_default())
            }
            None => Block::default(),
        };
        if part != Part::Values
            && let Some(Some(lines)) = cell.get()
        {
            return Ok(bytes(&[], lines, part, quantisation, columns));
        }
        let values = values();
        match cell.get_or_init(|| fit(&values).ok()) {
            Some(lines) => Ok(bytes(&values, lines, part, quantisation, columns)),
            // Made anew for whoever asks.
            None => fit(&values).map(|_| Vec::new()),
        }
    }

    /// Forgets the lines of a weight of which `index` was the last initialiser.
    pub(super) fn written(&self, index: usize) {
        if let Some((last, blocks)) = self.weights[index].map(|weight| &self.blocks[weight])
            && *last == index
        {
            blocks.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }
}
