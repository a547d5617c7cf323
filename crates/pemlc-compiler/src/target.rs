//! What an exported graph is written for: the opset of the standard operators, and whether a runtime's own operators may stand beside them.

use std::fmt;

/// Version of ONNX's standard operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[allow(missing_docs)]
pub enum Opset {
    #[default]
    V18,
    V21,
    V22,
    V23,
    V24,
}

impl Opset {
    /// Every opset that graphs can be written in.
    pub const ALL: [Self; 5] = [Self::V18, Self::V21, Self::V22, Self::V23, Self::V24];

    /// Its number.
    pub fn number(self) -> i64 {
        match self {
            Self::V18 => 18,
            Self::V21 => 21,
            Self::V22 => 22,
            Self::V23 => 23,
            Self::V24 => 24,
        }
    }

    /// The ONNX IR version that came with it (the table of versions in ONNX's `docs/Versioning.md`).
    pub fn ir_version(self) -> i64 {
        match self {
            Self::V18 => 8,
            Self::V21 | Self::V22 => 10,
            Self::V23 => 11,
            Self::V24 => 12,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.operators.name(), self.opset)
    }
}

impl fmt::Display for Opset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.number())
    }
}

/// Whose operators a graph may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Operators {
    /// Those of ONNX alone.
    #[default]
    Standard,
    /// Those of ONNX Runtime too (domain `com.microsoft`).
    Ort,
}

impl Operators {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Standard, Self::Ort];

    /// Name, as on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Standard => "onnx",
            Self::Ort => "ort",
        }
    }
}

/// What a graph is written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Target {
    /// Whose operators.
    pub operators: Operators,
    /// Opset of the standard ones.
    pub opset: Opset,
}

impl Target {
    /// Every target, its name being `onnx-24` or the like.
    pub fn all() -> impl Iterator<Item = Self> {
        Operators::ALL.into_iter().flat_map(|operators| Opset::ALL.map(|opset| Self { operators, opset }))
    }

    /// Names of the runtimes that know every operator of such graphs; empty when all do.
    pub fn runtimes(self) -> &'static [&'static str] {
        match (self.operators, self.opset) {
            (Operators::Standard, Opset::V18 | Opset::V21 | Opset::V22) => &[],
            (Operators::Standard, Opset::V23 | Opset::V24) => &["ort-cpu", "ort-cpu-unoptimized", "ort-cuda", "tract"],
            (Operators::Ort, _) => &["ort-cpu", "ort-cpu-unoptimized", "ort-cuda"],
        }
    }
}

/// Runtimes in all of `lists`, where an empty list stands for every runtime.
pub(crate) fn common_runtimes(lists: &[&[&'static str]]) -> Vec<String> {
    let mut limited = lists.iter().filter(|list| !list.is_empty());
    let Some(first) = limited.next() else { return Vec::new() };
    let rest: Vec<_> = limited.collect();
    first.iter().filter(|name| rest.iter().all(|list| list.contains(name))).map(|name| (*name).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtimes_are_those_that_know_everything() {
        assert!(common_runtimes(&[&[], &[]]).is_empty());
        assert_eq!(common_runtimes(&[&[], &["a", "b"]]), ["a", "b"]);
        assert_eq!(common_runtimes(&[&["c", "b"], &["a", "b"]]), ["b"]);
    }
}
