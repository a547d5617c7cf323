//! The header of a safetensors file: eight bytes of length, then JSON. Checked against the file's size before it is believed.

use crate::tensors::element_count;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

/// Longest header that is read, in bytes. A model of a hundred thousand tensors stays far below it.
const LONGEST_HEADER: u64 = 100_000_000;

/// One tensor as the header describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HeaderEntry {
    /// Type as spelled in the file, for instance `BF16`.
    pub(crate) dtype: String,
    pub(crate) shape: Vec<usize>,
    /// Where its bytes are in the file; always inside it.
    pub(crate) bytes: Range<usize>,
}

#[derive(Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// Bytes per number of the types that safetensors knows and that fill whole bytes.
fn type_size(dtype: &str) -> Option<u64> {
    match dtype {
        "BOOL" | "U8" | "I8" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" => Some(1),
        "U16" | "I16" | "F16" | "BF16" => Some(2),
        "U32" | "I32" | "F32" => Some(4),
        "U64" | "I64" | "F64" | "C64" => Some(8),
        _ => None,
    }
}

/// Parses the header of a whole file's `bytes`. The error says what is wrong, without the file's name.
pub(crate) fn parse(bytes: &[u8]) -> Result<BTreeMap<String, HeaderEntry>, String> {
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(format!("not a safetensors file: {} bytes, at least 8 expected", bytes.len()));
    };
    let length = u64::from_le_bytes(*length);
    if length > LONGEST_HEADER {
        return Err(format!("not a safetensors file: header of {length} bytes, at most {LONGEST_HEADER} expected"));
    }
    let header = usize::try_from(length)
        .ok()
        .and_then(|length| rest.get(..length))
        .ok_or_else(|| format!("truncated: the header should be {length} bytes, the file ends after {}", rest.len()))?;
    let data = 8 + header.len();
    let mut json = serde_json::Deserializer::from_slice(header);
    let mut fault = None;
    let entries = Entries { data, file: bytes.len(), fault: &mut fault }.deserialize(&mut json);
    let entries = entries.and_then(|entries| json.end().map(|()| entries));
    let entries = entries.map_err(|error| fault.unwrap_or_else(|| format!("header is not valid JSON: {error}")))?;
    refuse_overlap(&entries)?;
    Ok(entries)
}

/// Reads entries one at a time: a tree of the whole header would take tens of times its size.
struct Entries<'a> {
    /// Where the tensors' bytes begin.
    data: usize,
    /// Bytes of the whole file.
    file: usize,
    /// What is wrong with a tensor, without the place in the text that a JSON error has.
    fault: &'a mut Option<String>,
}

impl<'de> DeserializeSeed<'de> for Entries<'_> {
    type Value = BTreeMap<String, HeaderEntry>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Entries<'_> {
    type Value = BTreeMap<String, HeaderEntry>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let entry = match map.next_value::<RawEntry>() {
                Ok(_) if entries.contains_key(&name) => Err("it is there twice".to_owned()),
                Ok(raw) => entry(raw, self.data, self.file),
                Err(error) => Err(error.to_string().split(" at line ").next().unwrap_or_default().to_owned()),
            };
            match entry {
                Ok(entry) => drop(entries.insert(name, entry)),
                Err(reason) => {
                    *self.fault = Some(format!("tensor `{name}`: {reason}"));
                    return Err(A::Error::custom("a tensor"));
                }
            }
        }
        Ok(entries)
    }
}

/// Tensors that share bytes would let a small file stand for any amount of memory.
fn refuse_overlap(entries: &BTreeMap<String, HeaderEntry>) -> Result<(), String> {
    let mut places: Vec<(&str, &Range<usize>)> = entries
        .iter()
        .map(|(name, entry)| (name.as_str(), &entry.bytes))
        .filter(|(_, bytes)| !bytes.is_empty())
        .collect();
    places.sort_unstable_by_key(|(name, bytes)| (bytes.start, *name));
    match places.windows(2).find(|pair| pair[1].1.start < pair[0].1.end) {
        None => Ok(()),
        Some(pair) => Err(format!("tensors `{}` and `{}` share bytes", pair[0].0, pair[1].0)),
    }
}

fn entry(raw: RawEntry, data: usize, file: usize) -> Result<HeaderEntry, String> {
    let (start, end) = raw.data_offsets;
    let available = (file - data) as u64;
    if start > end || end > available {
        return Err(format!("bytes {start}..{end} are outside the file's {available} bytes of data: is it truncated?"));
    }
    if let Some(size) = type_size(&raw.dtype) {
        let expected = raw.shape.iter().try_fold(size, |product, dimension| product.checked_mul(*dimension));
        if expected != Some(end - start) {
            return Err(format!("{} {:?} does not fill its {} bytes", raw.dtype, raw.shape, end - start));
        }
    }
    let shape = raw.shape.iter().map(|dimension| usize::try_from(*dimension)).collect::<Result<_, _>>();
    let shape: Vec<usize> = shape.map_err(|_| format!("shape {:?} is too large", raw.shape))?;
    if element_count(&shape).is_none() {
        return Err(format!("shape {shape:?} is too large"));
    }
    // Both are at most the file's length, which is a usize.
    Ok(HeaderEntry { dtype: raw.dtype, shape, bytes: data + start as usize..data + end as usize })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    #[test]
    fn says_what_is_wrong() {
        let of = |header: &str, data| parse(&file(header, data)).unwrap_err();
        insta::assert_snapshot!(
            [
                parse(b"abc").unwrap_err(),
                parse(&[255; 16]).unwrap_err(),
                parse(&[9, 0, 0, 0, 0, 0, 0, 0, b'{']).unwrap_err(),
                of("[]", 0),
                of(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, 4),
                of(r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#, 8),
                of(r#"{"a":{"dtype":"F32","shape":[9223372036854775807,4],"data_offsets":[0,8]}}"#, 8),
                of(r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,8]}}"#, 8),
                of(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#, 8),
                of(r#"{"a":{"dtype":"F32","shape":[0,9223372036854775807,4],"data_offsets":[0,0]}}"#, 8),
                of(r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{}}"#, 8),
                of(r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#, 8),
                of(r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[3,7]}}"#, 8),
                of(r#"{} {}"#, 8),
            ]
            .join("\n"), @"
not a safetensors file: 3 bytes, at least 8 expected
not a safetensors file: header of 18446744073709551615 bytes, at most 100000000 expected
truncated: the header should be 9 bytes, the file ends after 1
header is not valid JSON: invalid type: sequence, expected a map at line 1 column 0
tensor `a`: bytes 0..8 are outside the file's 4 bytes of data: is it truncated?
tensor `a`: F32 [3] does not fill its 8 bytes
tensor `a`: F32 [9223372036854775807, 4] does not fill its 8 bytes
tensor `a`: invalid value: integer `-1`, expected u64
tensor `a`: bytes 8..0 are outside the file's 8 bytes of data: is it truncated?
tensor `a`: shape [0, 9223372036854775807, 4] is too large
tensor `a`: missing field `dtype`
tensor `a`: it is there twice
tensors `a` and `b` share bytes
header is not valid JSON: trailing characters at line 1 column 4
");
    }

    proptest! {
        #[test]
        fn never_panics_on_noise(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn entries_stay_inside_the_file(
            dtype in "F32|BF16|I64|F4|X",
            shape in proptest::collection::vec(any::<u64>().prop_map(|n| n >> (n % 64)), 0..4),
            start in 0u64..80,
            end in prop_oneof![0u64..80, any::<u64>()],
            data in 0usize..80,
            cut in 0usize..40,
        ) {
            let mut bytes =
                file(&format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{start},{end}]}}}}"#), data);
            bytes.truncate(bytes.len().saturating_sub(cut));
            if let Ok(entries) = parse(&bytes) {
                for entry in entries.values() {
                    prop_assert!(bytes.get(entry.bytes.clone()).is_some());
                }
            }
        }
    }
}
