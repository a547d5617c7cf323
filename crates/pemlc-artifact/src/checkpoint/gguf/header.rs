//! The part of a GGUF file before its weights: `GGUF`, version, counts, key-value pairs, tensor descriptions. Little-endian.
//! Nothing that the file claims is believed before it is compared with the file's size.

use super::super::StoredType;
use super::value::Value;
use std::collections::BTreeMap;
use std::ops::Range;

/// Arrays of arrays of arrays ... deeper than this are refused.
const DEEPEST_ARRAY: usize = 4;
/// Longest key or tensor name, in bytes.
const LONGEST_NAME: usize = 1 << 16;

pub(super) struct Header {
    pub(super) values: BTreeMap<String, Value>,
    /// By GGUF name.
    pub(super) tensors: BTreeMap<String, TensorInfo>,
}

pub(super) struct TensorInfo {
    /// Row-major, slowest dimension first (the file has them the other way round).
    pub(super) shape: Vec<usize>,
    /// The type, or its name when it cannot be read.
    pub(super) stored: Result<StoredType, String>,
    /// Where its bytes are in the file; always inside it when the type can be read.
    pub(super) bytes: Range<usize>,
}

/// A place in the file that moves on as things are read.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn at(bytes: &'a [u8], position: usize) -> Self {
        Self { bytes, position }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let end = self.position.checked_add(count);
        let bytes = end.and_then(|end| self.bytes.get(self.position..end)).ok_or_else(|| {
            format!("truncated: {count} bytes at {} go beyond the end at {}", self.position, self.bytes.len())
        })?;
        self.position += count;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        // `take` gives exactly N bytes.
        self.take(N).map(|bytes| bytes.first_chunk().copied().unwrap_or([0; N]))
    }

    pub(super) fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn string(&mut self) -> Result<&'a [u8], String> {
        let length = self.u64()?;
        let length = usize::try_from(length).map_err(|_| format!("a string of {length} bytes"))?;
        self.take(length)
    }

    fn name(&mut self) -> Result<String, String> {
        let bytes = self.string()?;
        if bytes.len() > LONGEST_NAME {
            return Err(format!("a name of {} bytes, at most {LONGEST_NAME} expected", bytes.len()));
        }
        String::from_utf8(bytes.to_vec()).map_err(|_| "a name is not UTF-8".to_owned())
    }

    fn value(&mut self, kind: u32, depth: usize) -> Result<Value, String> {
        Ok(match kind {
            0 => Value::Unsigned(self.array::<1>().map(|[byte]| u64::from(byte))?),
            1 => Value::Signed(self.array::<1>().map(|[byte]| i64::from(byte as i8))?),
            2 => Value::Unsigned(self.array().map(|bytes| u64::from(u16::from_le_bytes(bytes)))?),
            3 => Value::Signed(self.array().map(|bytes| i64::from(i16::from_le_bytes(bytes)))?),
            4 => Value::Unsigned(u64::from(self.u32()?)),
            5 => Value::Signed(self.array().map(|bytes| i64::from(i32::from_le_bytes(bytes)))?),
            6 => Value::Float(shortest(self.array().map(f32::from_le_bytes)?)),
            7 => Value::Bool(self.array::<1>()? != [0]),
            8 => {
                let length = self.string()?.len();
                Value::String(self.position - length..self.position)
            }
            9 => self.array_value(depth)?,
            10 => Value::Unsigned(self.u64()?),
            11 => Value::Signed(self.array().map(i64::from_le_bytes)?),
            12 => Value::Float(self.array().map(f64::from_le_bytes)?),
            other => return Err(format!("unknown metadata type {other}")),
        })
    }

    /// Steps over an array and remembers where it is.
    fn array_value(&mut self, depth: usize) -> Result<Value, String> {
        let element = self.u32()?;
        let count = self.u64()?;
        let start = self.position;
        let size = match element {
            0 | 1 | 7 => Some(1),
            2 | 3 => Some(2),
            4..=6 => Some(4),
            10..=12 => Some(8),
            _ => None,
        };
        if let Some(size) = size {
            let bytes = usize::try_from(count).ok().and_then(|count| count.checked_mul(size));
            self.take(bytes.ok_or_else(|| format!("an array of {count} elements"))?)?;
        } else if element == 9 && depth >= DEEPEST_ARRAY {
            return Err(format!("arrays nested deeper than {DEEPEST_ARRAY}"));
        } else {
            // Every element takes at least eight bytes, so a false count ends at the end of the file.
            for _ in 0..count {
                self.value(element, depth + 1)?;
            }
        }
        Ok(Value::Array { element, count, start })
    }
}

/// The double that prints as `value` does: files mean 1e-5, not 9.999999747378752e-6.
fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

/// Parses the header of a whole file's `bytes`. The error says what is wrong, without the file's name.
pub(super) fn parse(bytes: &[u8]) -> Result<Header, String> {
    let mut cursor = Cursor::at(bytes, 0);
    if cursor.take(4).ok() != Some(b"GGUF") {
        return Err("neither a folder nor a GGUF file".to_owned());
    }
    match cursor.u32()? {
        2 | 3 => {}
        version if version.swap_bytes() <= 3 && version != 0 => return Err("a big-endian GGUF file".to_owned()),
        version => return Err(format!("GGUF version {version}; 2 and 3 can be read")),
    }
    let tensor_count = cursor.u64()?;
    let value_count = cursor.u64()?;
    let mut values = BTreeMap::new();
    for _ in 0..value_count {
        let key = cursor.name()?;
        let kind = cursor.u32()?;
        let value = cursor.value(kind, 0).map_err(|reason| format!("metadata key `{key}`: {reason}"))?;
        if values.contains_key(&key) {
            return Err(format!("metadata key `{key}` occurs twice"));
        }
        values.insert(key, value);
    }
    let mut described = BTreeMap::new();
    for _ in 0..tensor_count {
        let name = cursor.name()?;
        let info = description(&mut cursor).map_err(|reason| format!("tensor `{name}`: {reason}"))?;
        if described.insert(name.clone(), info).is_some() {
            return Err(format!("tensor `{name}` occurs twice"));
        }
    }
    let alignment = match values.get("general.alignment") {
        None => 32,
        Some(Value::Unsigned(alignment @ 1..=65_536)) if alignment.is_power_of_two() => *alignment as usize,
        Some(_) => return Err("`general.alignment` is not a power of two up to 65536".to_owned()),
    };
    let data = cursor.position.checked_next_multiple_of(alignment).ok_or("the header has no end")?;
    let mut tensors = BTreeMap::new();
    for (name, (shape, kind, offset)) in described {
        let stored = stored_type(kind);
        let bytes = match &stored {
            Ok(stored) => range(*stored, &shape, data, offset, bytes.len())
                .map_err(|reason| format!("tensor `{name}`: {reason}"))?,
            Err(_) => 0..0,
        };
        tensors.insert(name, TensorInfo { shape, stored, bytes });
    }
    refuse_overlap(&tensors)?;
    Ok(Header { values, tensors })
}

/// Tensors that share bytes would let a small file stand for any amount of memory.
fn refuse_overlap(tensors: &BTreeMap<String, TensorInfo>) -> Result<(), String> {
    let places = tensors.iter().map(|(name, tensor)| (name.as_str(), &tensor.bytes));
    let mut places: Vec<(&str, &Range<usize>)> = places.filter(|(_, bytes)| !bytes.is_empty()).collect();
    places.sort_unstable_by_key(|(name, bytes)| (bytes.start, *name));
    match places.windows(2).find(|pair| pair[1].1.start < pair[0].1.end) {
        None => Ok(()),
        Some(pair) => Err(format!("tensors `{}` and `{}` share bytes", pair[0].0, pair[1].0)),
    }
}

/// Shape, type number and offset.
fn description(cursor: &mut Cursor<'_>) -> Result<(Vec<usize>, u32, u64), String> {
    let dimensions = cursor.u32()?;
    if !(1..=4).contains(&dimensions) {
        return Err(format!("{dimensions} dimensions, 1 to 4 expected"));
    }
    let mut shape = Vec::new();
    for _ in 0..dimensions {
        let size = cursor.u64()?;
        shape.push(usize::try_from(size).map_err(|_| format!("a dimension of {size}"))?);
    }
    shape.reverse();
    Ok((shape, cursor.u32()?, cursor.u64()?))
}

/// Where a tensor's bytes are; checked against the file's length.
fn range(stored: StoredType, shape: &[usize], data: usize, offset: u64, file: usize) -> Result<Range<usize>, String> {
    if crate::tensors::element_count(shape).is_none() {
        return Err(format!("shape {shape:?} is too large"));
    }
    let columns = shape.last().copied().unwrap_or(1);
    let rows = crate::tensors::element_count(shape.split_last().map_or(&[], |(_, rows)| rows));
    let Some(row_bytes) = stored.row_bytes(columns) else {
        return Err(format!("rows of {columns} numbers are not whole {stored:?} blocks of {}", stored.block().0));
    };
    let start = usize::try_from(offset).ok().and_then(|offset| data.checked_add(offset));
    let size = rows.and_then(|rows| rows.checked_mul(row_bytes));
    let end = start.zip(size).and_then(|(start, size)| start.checked_add(size));
    match (start, end) {
        (Some(start), Some(end)) if end <= file => Ok(start..end),
        _ => Err(format!(
            "{stored:?} {shape:?} at offset {offset} goes beyond the file's {file} bytes: is it truncated?"
        )),
    }
}

/// The type with ggml's number `kind`, or its name.
fn stored_type(kind: u32) -> Result<StoredType, String> {
    let name = match kind {
        0 => return Ok(StoredType::F32),
        1 => return Ok(StoredType::F16),
        2 => return Ok(StoredType::Q4_0),
        3 => return Ok(StoredType::Q4_1),
        8 => return Ok(StoredType::Q8_0),
        14 => return Ok(StoredType::Q6_K),
        30 => return Ok(StoredType::BF16),
        6 => "Q5_0",
        7 => "Q5_1",
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        12 => "Q4_K",
        13 => "Q5_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        other => return Err(format!("ggml type {other}")),
    };
    Err(name.to_owned())
}
