//! Arithmetic on what small tensors of whole numbers hold: the shapes that graphs compute for `Reshape` and `Expand`.

use super::dim::Dim;
use super::fact::Fact;

/// `operator` applied element by element; a single number meets every element of the other.
pub(super) fn binary(operator: &str, one: &Fact, other: &Fact) -> Option<Vec<Dim>> {
    let (one, other) = (one.contents.as_deref()?, other.contents.as_deref()?);
    let count = match (one.len(), other.len()) {
        (left, right) if left == right => left,
        (1, count) | (count, 1) => count,
        _ => return None,
    };
    let at =
        |dims: &[Dim], place: usize| dims.get(if dims.len() == 1 { 0 } else { place }).cloned().unwrap_or_default();
    let apply = |place: usize| {
        let (left, right) = (at(one, place), at(other, place));
        match operator {
            "Add" => left.plus(&right),
            "Sub" => left.minus(&right),
            "Mul" => left.times(&right),
            _ => left.divided_by(&right),
        }
    };
    Some((0..count).map(apply).collect())
}
