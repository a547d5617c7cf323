//! Small named tensors in safetensors files: adapters, prompts, probes.

use crate::{atomic, bounded_read, safetensors_header};
use half::{bf16, f16};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// Values of a small tensor.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum Values {
    F32(Vec<f32>),
    I64(Vec<i64>),
}

impl Values {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::I64(values) => values.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn type_name(&self) -> &'static str {
        match self {
            Self::F32(_) => "f32",
            Self::I64(_) => "i64",
        }
    }

    fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::F32(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Self::I64(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        }
    }
}

/// A small tensor held in memory, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedTensor {
    /// Shape.
    pub shape: Vec<usize>,
    /// Values.
    pub values: Values,
}

impl NamedTensor {
    /// An f32 tensor.
    pub fn f32(shape: impl Into<Vec<usize>>, values: Vec<f32>) -> Self {
        Self { shape: shape.into(), values: Values::F32(values) }
    }

    /// An i64 tensor.
    pub fn i64(shape: impl Into<Vec<usize>>, values: Vec<i64>) -> Self {
        Self { shape: shape.into(), values: Values::I64(values) }
    }
}

/// Tensors by name, in name order.
pub type TensorMap = BTreeMap<String, NamedTensor>;

/// Why a tensor file cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum TensorError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path}: {reason}")]
    Malformed { path: PathBuf, reason: String },
    #[error("{path}: tensor `{name}` is missing")]
    Missing { path: PathBuf, name: String },
    #[error("{path}: tensor `{name}` is {found}, expected {expected}")]
    Mismatch { path: PathBuf, name: String, found: String, expected: String },
}

/// Writes `tensors` atomically. The same tensors give the same bytes.
pub fn write(path: &Path, tensors: &TensorMap) -> Result<(), TensorError> {
    write_with_metadata(path, tensors, &[])
}

/// As [`write()`], with text entries for the file's `__metadata__`.
pub(crate) fn write_with_metadata(
    path: &Path,
    tensors: &TensorMap,
    metadata: &[(&str, &str)],
) -> Result<(), TensorError> {
    let mut header = serde_json::Map::new();
    if !metadata.is_empty() {
        let entries: HashMap<_, _> = metadata.iter().copied().collect();
        header.insert("__metadata__".to_owned(), serde_json::json!(entries));
    }
    let mut offset = 0usize;
    // Eight-byte numbers first, so that every tensor is aligned to its own size.
    let (wide, narrow): (Vec<_>, Vec<_>) =
        tensors.iter().partition(|(_, tensor)| matches!(tensor.values, Values::I64(_)));
    let ordered: Vec<_> = wide.into_iter().chain(narrow).collect();
    for (name, tensor) in &ordered {
        let count = element_count(&tensor.shape);
        if count != Some(tensor.values.len()) {
            return Err(TensorError::Malformed {
                path: path.to_path_buf(),
                reason: format!("tensor `{name}`: shape {:?} but {} values", tensor.shape, tensor.values.len()),
            });
        }
        let (dtype, size) = match tensor.values {
            Values::F32(_) => ("F32", 4),
            Values::I64(_) => ("I64", 8),
        };
        let end = offset + size * tensor.values.len();
        let entry = serde_json::json!({"dtype": dtype, "shape": tensor.shape, "data_offsets": [offset, end]});
        header.insert((*name).clone(), entry);
        offset = end;
    }
    let mut header = serde_json::Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    atomic::write_with(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        ordered.iter().try_for_each(|(_, tensor)| file.write_all(&tensor.values.to_bytes()))
    })
    .map_err(|source| TensorError::Io { path: path.to_path_buf(), source })
}

/// Reads every tensor of `path` (F32, F16 and BF16 become f32; I32 and I64 become i64).
pub fn read(path: &Path) -> Result<TensorMap, TensorError> {
    let bytes = bounded_read::read(path, bounded_read::TENSORS);
    let bytes = bytes.map_err(|source| TensorError::Io { path: path.to_path_buf(), source })?;
    let malformed = |reason| TensorError::Malformed { path: path.to_path_buf(), reason };
    let mut tensors = TensorMap::new();
    for (name, entry) in safetensors_header::parse(&bytes).map_err(malformed)? {
        // The header parser promises ranges inside the file.
        let data = bytes.get(entry.bytes).unwrap_or_default();
        let values = match entry.dtype.as_str() {
            "F32" => Values::F32(numbers(data, f32::from_le_bytes)),
            "F16" => Values::F32(numbers(data, |bytes| f16::from_le_bytes(bytes).to_f32())),
            "BF16" => Values::F32(numbers(data, |bytes| bf16::from_le_bytes(bytes).to_f32())),
            "I32" => Values::I64(numbers(data, |bytes| i64::from(i32::from_le_bytes(bytes)))),
            "I64" => Values::I64(numbers(data, i64::from_le_bytes)),
            other => {
                return Err(malformed(format!("tensor `{name}` is {other}; F32, F16, BF16, I32 and I64 can be read")));
            }
        };
        tensors.insert(name, NamedTensor { shape: entry.shape, values });
    }
    Ok(tensors)
}

fn numbers<const N: usize, T>(data: &[u8], number: impl Fn([u8; N]) -> T) -> Vec<T> {
    data.as_chunks::<N>().0.iter().map(|bytes| number(*bytes)).collect()
}

/// Product of `shape`, if it and the products of parts of it fit, in whatever order they are multiplied.
pub(crate) fn element_count(shape: &[usize]) -> Option<usize> {
    let sizes = shape.iter().filter(|size| **size > 0);
    let product = sizes.copied().try_fold(1usize, usize::checked_mul)?;
    Some(if shape.contains(&0) { 0 } else { product })
}

/// A file's tensors while they are taken out one by one under the shapes that are expected of them.
pub(crate) struct Taking<'a> {
    pub(crate) path: &'a Path,
    pub(crate) tensors: TensorMap,
}

impl<'a> Taking<'a> {
    pub(crate) fn open(path: &'a Path) -> Result<Self, TensorError> {
        Ok(Self { path, tensors: read(path)? })
    }

    /// Shape of `name`.
    pub(crate) fn shape(&self, name: &str) -> Result<&[usize], TensorError> {
        match self.tensors.get(name) {
            Some(tensor) => Ok(&tensor.shape),
            None => Err(TensorError::Missing { path: self.path.to_path_buf(), name: name.to_owned() }),
        }
    }

    /// Removes `name`, which must be f32 of this shape.
    pub(crate) fn f32(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, TensorError> {
        match self.take(name, shape, "f32")? {
            Values::F32(values) => Ok(values),
            Values::I64(_) => Err(self.mismatch(name, "i64".to_owned(), "f32".to_owned())),
        }
    }

    /// Removes `name`, which must be i64 of this shape.
    pub(crate) fn i64(&mut self, name: &str, shape: &[usize]) -> Result<Vec<i64>, TensorError> {
        match self.take(name, shape, "i64")? {
            Values::I64(values) => Ok(values),
            Values::F32(_) => Err(self.mismatch(name, "f32".to_owned(), "i64".to_owned())),
        }
    }

    /// Refuses tensors that nobody took: a misspelt name must not be dropped silently.
    pub(crate) fn finish(self) -> Result<(), TensorError> {
        match self.tensors.keys().next() {
            None => Ok(()),
            Some(name) => Err(self.malformed(format!("tensor `{name}` is not expected here"))),
        }
    }

    pub(crate) fn malformed(&self, reason: String) -> TensorError {
        TensorError::Malformed { path: self.path.to_path_buf(), reason }
    }

    fn take(&mut self, name: &str, shape: &[usize], kind: &str) -> Result<Values, TensorError> {
        let tensor = self
            .tensors
            .remove(name)
            .ok_or_else(|| TensorError::Missing { path: self.path.to_path_buf(), name: name.to_owned() })?;
        if tensor.shape != shape {
            let found = format!("{} {:?}", tensor.values.type_name(), tensor.shape);
            return Err(self.mismatch(name, found, format!("{kind} {shape:?}")));
        }
        Ok(tensor.values)
    }

    fn mismatch(&self, name: &str, found: String, expected: String) -> TensorError {
        TensorError::Mismatch { path: self.path.to_path_buf(), name: name.to_owned(), found, expected }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read_and_safetensors_agrees() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let tensors = TensorMap::from([
            ("a".to_owned(), NamedTensor::f32([2, 1], vec![1.5, f32::NEG_INFINITY])),
            ("b".to_owned(), NamedTensor::i64([3], vec![1, -2, i64::MAX])),
            ("scalar".to_owned(), NamedTensor::f32([], vec![7.0])),
            ("none".to_owned(), NamedTensor::f32([0, 4], vec![])),
        ]);
        write_with_metadata(&path, &tensors, &[("format", "pt")]).unwrap();
        assert_eq!(read(&path).unwrap(), tensors);
        let bytes = std::fs::read(&path).unwrap();
        let other = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(other.len(), 4);
        assert_eq!(other.tensor("a").unwrap().data(), [0, 0, 0xc0, 0x3f, 0, 0, 0x80, 0xff]);
    }

    #[test]
    fn half_precision_is_widened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let view = |dtype, data| safetensors::tensor::TensorView::new(dtype, vec![1], data).unwrap();
        let tensors = [
            ("f16", view(safetensors::Dtype::F16, &[0x00, 0x3e])),
            ("bf16", view(safetensors::Dtype::BF16, &[0xc0, 0x3f])),
            ("i32", view(safetensors::Dtype::I32, &[0xfe, 0xff, 0xff, 0xff])),
        ];
        std::fs::write(&path, safetensors::serialize(tensors, None).unwrap()).unwrap();
        let read = read(&path).unwrap();
        assert_eq!(read["f16"], NamedTensor::f32([1], vec![1.5]));
        assert_eq!(read["bf16"], NamedTensor::f32([1], vec![1.5]));
        assert_eq!(read["i32"], NamedTensor::i64([1], vec![-2]));
    }

    #[test]
    fn shapes_must_hold_the_values() {
        let tensors = TensorMap::from([("a".to_owned(), NamedTensor::f32([2, 2], vec![1.0]))]);
        let error = write(Path::new("unwritten"), &tensors).unwrap_err();
        insta::assert_snapshot!(error, @"unwritten: tensor `a`: shape [2, 2] but 1 values");
    }

    proptest! {
        #[test]
        fn any_truncation_is_an_error(cut in 1usize..200) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a.safetensors");
            write(&path, &TensorMap::from([("a".to_owned(), NamedTensor::f32([8], vec![1.0; 8]))])).unwrap();
            let bytes = std::fs::read(&path).unwrap();
            std::fs::write(&path, &bytes[..bytes.len().saturating_sub(cut)]).unwrap();
            prop_assert!(read(&path).is_err());
        }
    }
}
