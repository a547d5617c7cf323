//! Metadata values. Arrays and strings stay in the file: a value is where it is, so a hostile length allocates nothing.

use super::super::CheckpointError;
use super::header::Cursor;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

/// One metadata value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    String(Range<usize>),
    Array {
        /// Type number of the elements.
        element: u32,
        count: u64,
        /// Where the first element is.
        start: usize,
    },
}

impl Value {
    fn kind(&self) -> &'static str {
        match self {
            Self::Unsigned(_) | Self::Signed(_) => "an integer",
            Self::Float(_) => "a float",
            Self::Bool(_) => "a bool",
            Self::String(_) => "a string",
            Self::Array { .. } => "an array",
        }
    }
}

/// A file's metadata by key.
pub(super) struct Metadata<'a> {
    pub(super) path: &'a Path,
    bytes: &'a [u8],
    values: &'a BTreeMap<String, Value>,
}

impl<'a> Metadata<'a> {
    pub(super) fn new(path: &'a Path, bytes: &'a [u8], values: &'a BTreeMap<String, Value>) -> Self {
        Self { path, bytes, values }
    }

    pub(super) fn malformed(&self, reason: String) -> CheckpointError {
        CheckpointError::malformed(self.path, reason)
    }

    /// The error of a key that must be there.
    pub(super) fn missing(&self, key: &str) -> CheckpointError {
        self.malformed(format!("metadata key `{key}` is missing"))
    }

    fn mismatch(&self, key: &str, value: &Value, expected: &str) -> CheckpointError {
        self.malformed(format!("metadata key `{key}` holds {}, expected {expected}", value.kind()))
    }

    /// A non-negative integer.
    pub(super) fn integer(&self, key: &str) -> Result<Option<u64>, CheckpointError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Unsigned(value)) => Ok(Some(*value)),
            Some(Value::Signed(value)) if *value >= 0 => Ok(Some(value.unsigned_abs())),
            Some(other) => Err(self.mismatch(key, other, "a non-negative integer")),
        }
    }

    pub(super) fn float(&self, key: &str) -> Result<Option<f64>, CheckpointError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Float(value)) => Ok(Some(*value)),
            Some(other) => Err(self.mismatch(key, other, "a float")),
        }
    }

    pub(super) fn bool(&self, key: &str) -> Result<Option<bool>, CheckpointError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(other) => Err(self.mismatch(key, other, "a bool")),
        }
    }

    pub(super) fn string(&self, key: &str) -> Result<Option<&'a str>, CheckpointError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::String(range)) => {
                let bytes = self.bytes.get(range.clone()).unwrap_or_default();
                let text = std::str::from_utf8(bytes);
                text.map(Some).map_err(|_| self.malformed(format!("metadata key `{key}` is not UTF-8")))
            }
            Some(other) => Err(self.mismatch(key, other, "a string")),
        }
    }

    /// An array of strings.
    pub(super) fn strings(&self, key: &str) -> Result<Option<Vec<&'a str>>, CheckpointError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Array { element: 8, count, start }) => {
                let mut cursor = Cursor::at(self.bytes, *start);
                let mut texts = Vec::new();
                for index in 0..*count {
                    let text = cursor.string().map_err(|reason| self.malformed(reason))?;
                    let text = std::str::from_utf8(text)
                        .map_err(|_| self.malformed(format!("element {index} of `{key}` is not UTF-8")))?;
                    texts.push(text);
                }
                Ok(Some(texts))
            }
            Some(other) => Err(self.mismatch(key, other, "an array of strings")),
        }
    }

    /// An array of 32-bit integers.
    pub(super) fn integers(&self, key: &str) -> Result<Option<Vec<i64>>, CheckpointError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Array { element: element @ (4 | 5), count, start }) => {
                let mut cursor = Cursor::at(self.bytes, *start);
                let mut numbers = Vec::new();
                for _ in 0..*count {
                    let bits = cursor.u32().map_err(|reason| self.malformed(reason))?;
                    numbers.push(if *element == 4 { i64::from(bits) } else { i64::from(bits as i32) });
                }
                Ok(Some(numbers))
            }
            Some(other) => Err(self.mismatch(key, other, "an array of 32-bit integers")),
        }
    }
}
