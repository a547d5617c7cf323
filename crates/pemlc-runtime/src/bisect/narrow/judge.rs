//! Whether what a node gives is what its own inputs explain.

use crate::bisect::difference::{Difference, show_indices};
use crate::bisect::graph::Node;
use crate::bisect::reference::{self, Exact};
use crate::bisect::report::Element;
use crate::bisect::value::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Elements of each output that are held to the reference, beside the one that differs most and the first that differs.
const SAMPLES: usize = 24;
/// Elements of the node found that are looked at for the first wrong one.
const SCANNED: usize = 1 << 16;
/// Values by name, of both sides.
pub(super) type Values<'v> = BTreeMap<&'v str, [&'v Result<Value, String>; 2]>;

/// Everything that nodes read.
pub(super) struct Known<'v> {
    pub(super) constants: &'v BTreeMap<&'v str, Value>,
    pub(super) inputs: &'v BTreeMap<String, Value>,
    pub(super) values: &'v Values<'v>,
}

impl<'v> Known<'v> {
    pub(super) fn of(&self, name: &str, side: usize) -> Option<&'v Value> {
        let given = self.constants.get(name).or_else(|| self.inputs.get(name));
        given.or_else(|| self.values.get(name).and_then(|sides| sides[side].as_ref().ok()))
    }
}

/// A node's output on both sides held to the reference from each side's own inputs.
pub(super) struct Judged {
    /// For each side: an element that its inputs do not explain was seen.
    pub(super) unexplained: [bool; 2],
}

pub(super) type Inputs<'v> = [Vec<Option<&'v Value>>; 2];

impl Judged {
    /// `None` when there is no reference for the operator.
    pub(super) fn new(
        node: &Node,
        inputs: &Inputs<'_>,
        outputs: [&Value; 2],
        which: usize,
        difference: &Difference,
    ) -> Option<Self> {
        let count = outputs[0].len();
        let spread = (0..SAMPLES.min(count)).map(|sample| sample * count / SAMPLES.min(count));
        let places: BTreeSet<usize> = spread.chain([difference.worst]).chain(difference.first).collect();
        let mut unexplained = [false; 2];
        for side in [0, 1] {
            for place in places.iter().copied().filter(|place| *place < outputs[side].len()) {
                let exact = reference::element(node, &inputs[side], outputs[side], which, place)?;
                unexplained[side] |= !exact.explains(outputs[side].at(place), outputs[side]);
            }
        }
        Some(Self { unexplained })
    }
}

/// The first element that the reference does not explain, or else the first that differs.
pub(super) fn first_wrong(
    node: &Node,
    inputs: &Inputs<'_>,
    outputs: [&Value; 2],
    which: usize,
    difference: &Difference,
) -> Element {
    let exact = |side: usize, place: usize| reference::element(node, &inputs[side], outputs[side], which, place);
    let wrong = |place: &usize| {
        [0, 1].into_iter().any(|side| {
            exact(side, *place).is_some_and(|exact| !exact.explains(outputs[side].at(*place), outputs[side]))
        })
    };
    let count = outputs[0].len().min(outputs[1].len());
    let place = (0..count.min(SCANNED)).find(wrong).unwrap_or(difference.worst);
    let both = [exact(0, place), exact(1, place)];
    let expected = |exact: &Option<Exact>, side: usize| exact.map(|exact| (exact.number, exact.allowed(outputs[side])));
    Element {
        indices: show_indices(&outputs[0].shape, place),
        found: [outputs[0].at(place), outputs[1].at(place)],
        expected: [expected(&both[0], 0), expected(&both[1], 1)],
    }
}
