//! One element of a node's output in f64, from the node's own inputs, and how far rounding may carry a runtime from it.
//!
//! The bound on a sum of n products is `4 sqrt(n) u` times the sum of their magnitudes (u: unit roundoff of the output's type), which
//! rounding errors that are independent exceed about once in a thousand (Higham and Mary, "A new approach to probabilistic rounding
//! error analysis", 2019); the bound that always holds has n in place of the root, and lets real faults through.

mod elementwise;
mod fused;
mod layout;
mod linear;
mod rows;

use super::graph::Node;
use super::value::Value;

/// An element's value, and the rounding that it may have suffered, in units of the unit roundoff.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Exact {
    pub(super) number: f64,
    pub(super) slack: f64,
}

impl Exact {
    /// A number that is moved, not computed.
    fn moved(number: f64) -> Self {
        Self { number, slack: 0.0 }
    }

    /// `number`, whose computation errs by `slack` unit roundoffs.
    fn rounded(number: f64, slack: f64) -> Self {
        Self { number, slack }
    }

    /// Whether `found`, of number type of `output`, is this number but for rounding.
    pub(super) fn explains(&self, found: f64, output: &Value) -> bool {
        if self.number.is_nan() || found.is_nan() {
            return self.number.is_nan() && found.is_nan();
        }
        let number_type = output.number_type;
        if !found.is_finite() || self.number.abs() > number_type.largest() {
            let beyond = number_type.largest() * (1.0 - 4.0 * number_type.unit_roundoff());
            return found == self.number || (found.signum() == self.number.signum() && self.number.abs() >= beyond);
        }
        (found - self.number).abs() <= self.allowed(output)
    }

    /// Largest difference that rounding explains.
    pub(super) fn allowed(&self, output: &Value) -> f64 {
        if self.slack == 0.0 {
            return 0.0;
        }
        self.slack * output.number_type.unit_roundoff() + number_floor(output)
    }
}

/// What is lost when small numbers are flushed to zero.
fn number_floor(output: &Value) -> f64 {
    4.0 * output.number_type.smallest()
}

/// `4 sqrt(n)`: see above.
fn of_sum(terms: usize) -> f64 {
    4.0 * (terms.max(1) as f64).sqrt()
}

/// The element at place `at` of the node's `which`-th output, which is shaped as `output`; `None` for operators without a reference
/// and for inputs that do not fit together.
pub(super) fn element(
    node: &Node,
    inputs: &[Option<&Value>],
    output: &Value,
    which: usize,
    at: usize,
) -> Option<Exact> {
    if at >= output.len() {
        return None;
    }
    let standard = node.domain.is_empty();
    if which == 0 && standard {
        let found = elementwise::element(node, inputs, output, at)
            .or_else(|| linear::element(node, inputs, output, at))
            .or_else(|| rows::element(node, inputs, output, at))
            .or_else(|| fused::element(node, inputs, output, at));
        if found.is_some() {
            return found;
        }
    }
    match standard {
        true => layout::element(node, inputs, output, which, at),
        false if which == 0 => rows::contrib(node, inputs, output, at)
            .or_else(|| linear::contrib(node, inputs, at))
            .or_else(|| fused::contrib(node, inputs, output, which, at)),
        false => fused::contrib(node, inputs, output, which, at),
    }
}

/// The input `index`, if the node has it.
fn input<'a>(inputs: &[Option<&'a Value>], index: usize) -> Option<&'a Value> {
    inputs.get(index).copied().flatten()
}

/// `axis` counted from the front.
fn axis(axis: i64, rank: usize) -> Option<usize> {
    let axis = if axis < 0 { axis + i64::try_from(rank).ok()? } else { axis };
    usize::try_from(axis).ok().filter(|axis| *axis <= rank)
}

#[cfg(test)]
mod tests;
