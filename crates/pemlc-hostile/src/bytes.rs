//! Damage to bytes, whatever they mean.

use proptest::prelude::*;
use proptest::sample::Index;

/// One change of a file.
#[derive(Debug, Clone)]
enum Edit {
    /// Bits turned over in one byte.
    Flip(Index, u8),
    /// Bytes overwritten: lengths and counts that are far too large, zeros, text that is not UTF-8.
    Overwrite(Index, Vec<u8>),
    /// Bytes put in.
    Insert(Index, Vec<u8>),
    /// Part of the file put in elsewhere.
    Repeat { from: Index, length: usize, to: Index },
    /// Bytes taken out.
    Remove(Index, usize),
    /// The end cut off.
    Truncate(Index),
}

/// A few changes of a file.
#[derive(Debug, Clone)]
pub struct Damage {
    edits: Vec<Edit>,
}

impl Damage {
    /// `bytes`, damaged.
    pub fn apply(&self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for edit in &self.edits {
            if bytes.is_empty() {
                break;
            }
            let place = |index: &Index| index.index(bytes.len());
            match edit {
                Edit::Flip(at, bits) => {
                    let at = place(at);
                    bytes[at] ^= bits;
                }
                Edit::Overwrite(at, with) => {
                    let at = place(at);
                    let end = (at + with.len()).min(bytes.len());
                    bytes[at..end].copy_from_slice(&with[..end - at]);
                }
                Edit::Insert(at, with) => {
                    let at = place(at);
                    bytes.splice(at..at, with.iter().copied());
                }
                Edit::Repeat { from, length, to } => {
                    let (from, to) = (place(from), place(to));
                    let part = bytes[from..(from + length).min(bytes.len())].to_vec();
                    bytes.splice(to..to, part);
                }
                Edit::Remove(at, length) => {
                    let at = place(at);
                    let end = (at + length).min(bytes.len());
                    bytes.drain(at..end);
                }
                Edit::Truncate(at) => {
                    let at = place(at);
                    bytes.truncate(at);
                }
            }
        }
        bytes
    }
}

/// Up to eight changes, most of them small, so that much of the file stays good and is read on.
pub fn damage() -> impl Strategy<Value = Damage> {
    let hostile = prop_oneof![
        any::<u64>().prop_map(|number| number.to_le_bytes().to_vec()),
        any::<u32>().prop_map(|number| number.to_le_bytes().to_vec()),
        Just(vec![0xff; 8]),
        Just(vec![0; 8]),
        Just(vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]),
        Just(b"\xc3\x28".to_vec()),
        Just(b"99999999999999999999".to_vec()),
        Just(b"-1".to_vec()),
        Just(b"1e999".to_vec()),
        Just(b"NaN".to_vec()),
        Just(b"null".to_vec()),
        Just(b"[[[[[[[[[[[[[[[[".to_vec()),
        Just(b"{\"a\":{\"a\":".to_vec()),
        Just(b"\"\\ud800\"".to_vec()),
        proptest::collection::vec(any::<u8>(), 1..12),
    ];
    let edit = prop_oneof![
        4 => (any::<Index>(), any::<u8>()).prop_map(|(at, bits)| Edit::Flip(at, bits)),
        4 => (any::<Index>(), hostile.clone()).prop_map(|(at, with)| Edit::Overwrite(at, with)),
        2 => (any::<Index>(), hostile).prop_map(|(at, with)| Edit::Insert(at, with)),
        2 => (any::<Index>(), 1..400usize, any::<Index>())
            .prop_map(|(from, length, to)| Edit::Repeat { from, length, to }),
        2 => (any::<Index>(), 1..60usize).prop_map(|(at, length)| Edit::Remove(at, length)),
        1 => any::<Index>().prop_map(Edit::Truncate),
    ];
    proptest::collection::vec(edit, 1..8).prop_map(|edits| Damage { edits })
}
