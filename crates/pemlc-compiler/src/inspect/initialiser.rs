//! An initialiser as `dtype[shape] #hash`, the hash being the first eight digits of the SHA-256 of its bytes, wherever they are.

use super::types::data_type;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};
use tract_onnx::pb::TensorProto;
use tract_onnx::pb::tensor_proto::DataLocation;

/// Small integer tensors (shapes, axes, tables) are shown instead of hashed.
const MAX_SHOWN: usize = 8;

/// See the module. What is wrong with the tensor is told in its place.
pub(super) fn describe(tensor: &TensorProto, directory: &Path) -> String {
    let dims: Vec<String> = tensor.dims.iter().map(i64::to_string).collect();
    let described = format!("{}[{}]", data_type(tensor.data_type), dims.join(", "));
    if tensor.data_location == Some(DataLocation::External as i32) {
        return match external(tensor, directory) {
            Ok(hash) => format!("{described} #{hash}"),
            Err(reason) => format!("{described} <{}>", super::name(&reason)),
        };
    }
    if let Some(values) = small_integers(tensor) {
        return format!("{described} = {values:?}");
    }
    format!("{described} #{}", short(Sha256::digest(inline_bytes(tensor)).as_slice()))
}

fn short(hash: &[u8]) -> String {
    hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

fn small_integers(tensor: &TensorProto) -> Option<Vec<i64>> {
    if tensor.data_type != 7 || tensor.raw_data.len() > MAX_SHOWN * 8 || tensor.int64_data.len() > MAX_SHOWN {
        return None;
    }
    let raw = tensor.raw_data.chunks_exact(8).filter_map(|bytes| bytes.try_into().ok().map(i64::from_le_bytes));
    Some(raw.chain(tensor.int64_data.iter().copied()).collect())
}

/// The values inside the file as little-endian bytes: one of these fields holds them.
fn inline_bytes(tensor: &TensorProto) -> Vec<u8> {
    let mut bytes = tensor.raw_data.clone();
    bytes.extend(tensor.float_data.iter().flat_map(|value| value.to_le_bytes()));
    bytes.extend(tensor.int32_data.iter().flat_map(|value| value.to_le_bytes()));
    bytes.extend(tensor.int64_data.iter().flat_map(|value| value.to_le_bytes()));
    bytes.extend(tensor.double_data.iter().flat_map(|value| value.to_le_bytes()));
    bytes.extend(tensor.uint64_data.iter().flat_map(|value| value.to_le_bytes()));
    for string in &tensor.string_data {
        bytes.extend((string.len() as u64).to_le_bytes());
        bytes.extend(string);
    }
    bytes
}

/// The short hash of a tensor in an external file, read a piece at a time; only files inside `directory` are opened.
fn external(tensor: &TensorProto, directory: &Path) -> Result<String, String> {
    let field =
        |key: &str| tensor.external_data.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str());
    let number = |key: &str| {
        field(key).map(|text| text.parse::<u64>().map_err(|_| format!("{key} `{text}` is no number"))).transpose()
    };
    let location = field("location").ok_or("external data without a location")?;
    let offset = number("offset")?.unwrap_or(0);
    let path = inside(directory, location)?;
    let unreadable = |error: io::Error| format!("cannot read {location}: {error}");
    let mut file = File::open(&path).map_err(unreadable)?;
    let size = file.metadata().map_err(unreadable)?.len();
    let length = number("length")?.unwrap_or_else(|| size.saturating_sub(offset));
    if offset.checked_add(length).is_none_or(|end| end > size) {
        return Err(format!("{length} bytes at {offset} are outside {location}, which has {size}"));
    }
    file.seek(SeekFrom::Start(offset)).map_err(unreadable)?;
    let mut hasher = Sha256::new();
    let mut remaining = file.take(length);
    let mut buffer = vec![0; 1 << 18];
    loop {
        match remaining.read(&mut buffer).map_err(unreadable)? {
            0 => return Ok(short(hasher.finalize().as_slice())),
            count => hasher.update(&buffer[..count]),
        }
    }
}

/// `location` as a path, if it stays inside `directory` once links are followed.
fn inside(directory: &Path, location: &str) -> Result<PathBuf, String> {
    let relative = Path::new(location);
    let outside = || format!("external data in `{location}`, outside the model's folder");
    if !relative.components().all(|component| matches!(component, Component::Normal(_) | Component::CurDir)) {
        return Err(outside());
    }
    let unreadable = |error: io::Error| format!("cannot read {location}: {error}");
    let root = directory.canonicalize().map_err(unreadable)?;
    let path = root.join(relative).canonicalize().map_err(unreadable)?;
    if path.starts_with(&root) && path.is_file() { Ok(path) } else { Err(outside()) }
}
