//! Which layer a node belongs to, as its name tells.

use serde::{Serialize, Serializer};
use std::fmt;

/// A layer: the words before its number, and the number, so that 10 sorts after 9. None for nodes outside of layers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Layer(Option<(String, u64)>);

impl Layer {
    /// The first number in a name that stands for a layer: `layers.3.mlp`, `/model/layers.3/mlp`, `h.3.attn`, `block_3/add`.
    pub(super) fn of(label: &str) -> Self {
        let words: Vec<&str> = label.split(['.', '/', '_', ':']).filter(|word| !word.is_empty()).collect();
        let found = words.windows(2).find_map(|pair| {
            let [word, number] = pair else { return None };
            let named = matches!(
                word.to_ascii_lowercase().as_str(),
                "layer" | "layers" | "h" | "block" | "blocks" | "stage" | "stages"
            );
            let number = number.parse().ok().filter(|_| named && number.len() < 10)?;
            Some(((*word).to_owned(), number))
        });
        Self(found)
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |(word, number)| write!(f, "{word}.{number}"))
    }
}

impl Serialize for Layer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_several_exporters() {
        let layers = [
            "layers.3.attention.q_proj",
            "/model/layers.12/mlp/Mul_1",
            "transformer.h.0.ln_1",
            "block_7/add",
            "rotary.cos",
            "layers",
        ];
        let found = layers.map(|label| Layer::of(label).to_string());
        assert_eq!(found, ["layers.3", "layers.12", "h.0", "block.7", "", ""]);
        assert!(Layer::of("layers.9.x") < Layer::of("layers.10.x"));
    }
}
