//! What the symbols of a graph are taken for.

use serde::Serialize;
use std::collections::BTreeMap;

/// One run: rows, tokens, tokens already in the cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sizes {
    /// Rows.
    pub batch: u64,
    /// New tokens of a row.
    pub sequence: u64,
    /// Tokens of a row in the cache.
    pub past: u64,
    /// Any symbol by its exact name; goes before the above.
    pub symbols: BTreeMap<String, u64>,
}

impl Sizes {
    /// The size of a symbol: by its exact name, or by the words that exporters use.
    pub(super) fn get(&self, symbol: &str) -> Option<u64> {
        if let Some(size) = self.symbols.get(symbol) {
            return Some(*size);
        }
        let name = symbol.to_ascii_lowercase();
        let has = |word: &str| name.contains(word);
        if has("batch") {
            Some(self.batch)
        } else if has("total") || (has("past") && (has("plus") || has("and") || has("sequence_length_with"))) {
            self.past.checked_add(self.sequence)
        } else if has("past") {
            Some(self.past)
        } else if has("seq") {
            Some(self.sequence)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_are_known_by_their_words() {
        let symbols = BTreeMap::from([("num_images".to_owned(), 3), ("batch_of_images".to_owned(), 5)]);
        let sizes = Sizes { batch: 8, sequence: 64, past: 10, symbols };
        let names = [
            "batch_size",
            "batch_of_images",
            "sequence_length",
            "past_sequence_length",
            "total_sequence_length",
            "num_images",
            "heads",
        ];
        let found = names.map(|name| sizes.get(name));
        assert_eq!(found, [Some(8), Some(5), Some(64), Some(10), Some(74), Some(3), None]);
        assert_eq!(sizes.get("past_seq_plus_seq"), Some(74));
    }
}
