//! Initialisers: matched by name, then by type, shape and content.

use super::values::{self, ValueDifference};
use super::{Change, ChangeKind, Difference, Sides};
use crate::inspect::Chunks;
use crate::inspect::model::Weight;
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// Which initialisers of two graphs are the same: a number for each pair, by name in the first and in the second.
#[derive(Debug, Default)]
pub(super) struct Matches<'a> {
    pub(super) before: HashMap<&'a str, usize>,
    pub(super) after: HashMap<&'a str, usize>,
}

/// Compares the initialisers, and returns how they belong together.
pub(super) fn compare<'a>(
    sides: &Sides<'_>,
    difference: &mut Difference,
    before: &'a [Weight],
    after: &'a [Weight],
    prefix: &str,
) -> Matches<'a> {
    let mut matches = Matches::default();
    let mut by_name: HashMap<&str, &Weight> = after.iter().rev().map(|weight| (weight.name.as_str(), weight)).collect();
    let mut removed = Vec::new();
    for (pair, weight) in before.iter().enumerate() {
        match by_name.remove(weight.name.as_str()) {
            Some(other) => {
                matches.before.insert(&weight.name, pair);
                matches.after.insert(&other.name, pair);
                changed(sides, difference, weight, other, &format!("{prefix}weight {}", weight.name));
            }
            None => removed.push((pair, weight)),
        }
    }
    let added: Vec<&Weight> = after
        .iter()
        .filter(|weight| by_name.get(weight.name.as_str()).is_some_and(|own| std::ptr::eq(*own, *weight)))
        .collect();
    let mut by_content: HashMap<Content, Vec<&Weight>> = HashMap::new();
    if !removed.is_empty() {
        for weight in added.iter().rev() {
            by_content.entry(content(weight, &sides.after.directory)).or_default().push(weight);
        }
    }
    let mut renamed = HashSet::new();
    for (pair, weight) in removed {
        let same = if added.is_empty() { None } else { by_content.get_mut(&content(weight, &sides.before.directory)) };
        let subject = format!("{prefix}weight {}", weight.name);
        let change = match same.and_then(Vec::pop) {
            Some(other) => {
                matches.before.insert(&weight.name, pair);
                matches.after.insert(&other.name, pair);
                renamed.insert(other.name.as_str());
                Change::new(subject, ChangeKind::Renamed, Some(weight.name.clone()), Some(other.name.clone()))
            }
            None => Change::new(subject, ChangeKind::Removed, Some(weight_type(weight)), None),
        };
        difference.weights.push(change);
    }
    for weight in added.into_iter().filter(|weight| !renamed.contains(weight.name.as_str())) {
        let subject = format!("{prefix}weight {}", weight.name);
        difference.weights.push(Change::new(subject, ChangeKind::Added, None, Some(weight_type(weight))));
    }
    matches
}

/// Compares two tensors that belong together; whether they differ.
pub(super) fn changed(sides: &Sides<'_>, difference: &mut Difference, before: &Weight, after: &Weight, subject: &str) {
    let types = (weight_type(before), weight_type(after));
    let mut change = Change::new(subject.to_owned(), ChangeKind::Changed, Some(types.0.clone()), Some(types.1.clone()));
    let comparable = before.dims == after.dims && before.stored == after.stored;
    if comparable && !sides.options.ignore_weights {
        let directories = (sides.before.directory.as_path(), sides.after.directory.as_path());
        match values::compare((before, directories.0), (after, directories.1), sides.options.tolerance) {
            Ok(values) => change.values = Some(values.unwrap_or_else(ValueDifference::not_numbers)),
            Err(reason) => {
                // What cannot be read cannot be called equal.
                change.after = Some(format!("{} <{reason}>", types.1));
                difference.weights.push(change);
                return;
            }
        }
    }
    let different = change.values.as_ref().is_some_and(|values| values.different > 0);
    if types.0 == types.1 && !different {
        difference.same.weights += 1;
        let unequal = change.values.is_some_and(|values| values.unequal > 0);
        difference.same.within_tolerance += usize::from(unequal);
        return;
    }
    difference.weights.push(change);
}

impl ValueDifference {
    /// Of tensors that hold no numbers, and differ.
    fn not_numbers() -> Self {
        Self { max_abs: None, max_rel: None, different: 1, unequal: 1, elements: 1, rounded_once: None }
    }
}

/// `dtype[shape]`, and whether it is sparse.
pub(super) fn weight_type(weight: &Weight) -> String {
    let dims: Vec<String> = weight.dims.iter().map(i64::to_string).collect();
    let sparse = weight.stored.map(|stored| format!(" sparse, {stored} stored")).unwrap_or_default();
    format!("{}[{}]{sparse}", weight.dtype, dims.join(", "))
}

/// What makes two initialisers the same. One that cannot be read is like no other.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Content {
    Read(String, Vec<u8>),
    Unreadable(String, String),
}

fn content(weight: &Weight, directory: &Path) -> Content {
    let hash = || {
        let mut chunks = Chunks::open(weight, directory)?;
        let mut hasher = Sha256::new();
        loop {
            let piece = chunks.next()?;
            if piece.is_empty() {
                return Ok::<Vec<u8>, String>(hasher.finalize().to_vec());
            }
            hasher.update(piece);
        }
    };
    match hash() {
        Ok(hash) => Content::Read(weight_type(weight), hash),
        Err(_) => Content::Unreadable(directory.display().to_string(), weight.name.clone()),
    }
}
