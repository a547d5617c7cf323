//! Headers of safetensors files that say what is not so.

use crate::json::{Change, changes};
use proptest::prelude::*;
use serde_json::Value;

/// A change of a header; the tensors' bytes stay.
#[derive(Debug, Clone)]
pub struct HeaderChange {
    changes: Vec<Change>,
    /// What the eight bytes in front of the header say, where not its length.
    length: Option<u64>,
    /// Whether every entry is there twice.
    twice: bool,
    /// Bytes cut off the end.
    cut: usize,
}

impl HeaderChange {
    /// The file `bytes` with its header changed; one without a header stays.
    pub fn apply(&self, bytes: &[u8]) -> Vec<u8> {
        let Some((length, rest)) = bytes.split_first_chunk::<8>() else { return bytes.to_vec() };
        let length = u64::from_le_bytes(*length) as usize;
        let Some((header, data)) = rest.split_at_checked(length) else { return bytes.to_vec() };
        let Ok(mut header) = serde_json::from_slice::<Value>(header) else { return bytes.to_vec() };
        self.changes.iter().for_each(|change| change.apply(&mut header));
        let mut text = header.to_string();
        if self.twice && text.len() > 2 && text.starts_with('{') {
            let inner = text[1..text.len() - 1].to_owned();
            text = format!("{{{inner},{inner}}}");
        }
        let length = self.length.unwrap_or(text.len() as u64);
        let mut file = [&length.to_le_bytes(), text.as_bytes(), data].concat();
        file.truncate(file.len().saturating_sub(self.cut));
        file
    }
}

/// Changed numbers, names and offsets; now and then a false length, repeated entries, a cut.
pub fn header_changes() -> impl Strategy<Value = HeaderChange> {
    let length = prop_oneof![Just(u64::MAX), Just(1 << 63), Just(0), 0..5_000u64];
    (
        changes(),
        proptest::option::weighted(0.05, length),
        proptest::bool::weighted(0.1),
        prop_oneof![9 => Just(0), 1 => 0..3_000usize],
    )
        .prop_map(|(changes, length, twice, cut)| HeaderChange { changes, length, twice, cut })
}
