//! An initialiser as `dtype[shape] #hash`, the hash being the first eight digits of the SHA-256 of its bytes, wherever they are.

use super::elements;
use super::text::{Context, Hashes, name};
use super::types::data_type;
use sha2::{Digest, Sha256};
use std::path::Path;
use tract_onnx::pb::TensorProto;
use tract_onnx::pb::tensor_proto::DataLocation;

/// Small integer tensors (shapes, axes, tables) are shown instead of hashed.
const MAX_SHOWN: usize = 8;

/// See the module. What is wrong with the tensor is told in its place.
pub(super) fn describe(tensor: &TensorProto, context: Context<'_>) -> String {
    let dims: Vec<String> = tensor.dims.iter().map(i64::to_string).collect();
    let described = format!("{}[{}]", data_type(tensor.data_type), dims.join(", "));
    let external_data = tensor.data_location == Some(DataLocation::External as i32);
    if let (false, Some(values)) = (external_data, small_integers(tensor)) {
        return format!("{described} = {values:?}");
    }
    match context.hashes {
        Hashes::Absent => return described,
        Hashes::Without(parts) if parts.iter().any(|part| tensor.name.contains(part)) => {
            return format!("{described} #(elided)");
        }
        _ => {}
    }
    if external_data {
        return match external(tensor, context.directory) {
            Ok(hash) => format!("{described} #{hash}"),
            Err(reason) => format!("{described} <{}>", name(&reason)),
        };
    }
    format!("{described} #{}", short(Sha256::digest(inline_bytes(tensor)).as_slice()))
}

/// The first digits of a hash.
pub(super) fn short(hash: &[u8]) -> String {
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

/// The short hash of a tensor in an external file.
fn external(tensor: &TensorProto, directory: &Path) -> Result<String, String> {
    let fields = tensor.external_data.iter().map(|entry| (entry.key.as_str(), entry.value.as_str()));
    let place = elements::Place::from_fields(fields)?;
    elements::hash(&mut place.open(directory)?).map(|hash| short(&hash))
}
