//! The bytes of a weight, wherever they are, a piece at a time.

use super::model::{Storage, Weight};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

/// Bytes read at once; a multiple of every element's size.
const PIECE: usize = 1 << 18;

/// Where external data lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// File, relative to the model's folder.
    pub(crate) location: String,
    /// First byte.
    pub(crate) offset: u64,
    /// Number of bytes; without it, all that follow.
    pub(crate) length: Option<u64>,
}

impl Place {
    /// Reads the fields of `TensorProto.external_data`.
    pub(super) fn from_fields<'a>(fields: impl Iterator<Item = (&'a str, &'a str)> + Clone) -> Result<Self, String> {
        let field = |key: &str| fields.clone().find(|(name, _)| *name == key).map(|(_, value)| value);
        let number = |key: &str| {
            field(key).map(|text| text.parse::<u64>().map_err(|_| format!("{key} `{text}` is no number"))).transpose()
        };
        let location = field("location").ok_or("external data without a location")?.to_owned();
        Ok(Self { location, offset: number("offset")?.unwrap_or(0), length: number("length")? })
    }

    /// Opens it; only files inside `directory` are.
    pub(super) fn open(&self, directory: &Path) -> Result<Payload<'static>, String> {
        let Self { location, offset, .. } = self;
        let path = inside(directory, location)?;
        let unreadable = |error: io::Error| format!("cannot read {location}: {error}");
        let mut file = File::open(&path).map_err(unreadable)?;
        let size = file.metadata().map_err(unreadable)?.len();
        let length = self.length.unwrap_or_else(|| size.saturating_sub(*offset));
        if offset.checked_add(length).is_none_or(|end| end > size) {
            return Err(format!("{length} bytes at {offset} are outside {location}, which has {size}"));
        }
        file.seek(SeekFrom::Start(*offset)).map_err(unreadable)?;
        Ok(Payload { reader: Box::new(file.take(length)), bytes: length })
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

/// A weight's bytes, as `raw_data` would hold them.
pub(crate) struct Payload<'a> {
    reader: Box<dyn Read + 'a>,
    bytes: u64,
}

/// The SHA-256 of all bytes.
pub(super) fn hash(payload: &mut Payload<'_>) -> Result<Vec<u8>, String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; PIECE];
    loop {
        let count = fill(&mut payload.reader, &mut buffer)?;
        hasher.update(&buffer[..count]);
        if count < PIECE {
            return Ok(hasher.finalize().to_vec());
        }
    }
}

/// Reads until `buffer` is full or the data ends.
fn fill(reader: &mut dyn Read, buffer: &mut [u8]) -> Result<usize, String> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(format!("cannot read the data: {error}")),
        }
    }
    Ok(filled)
}

/// A weight's bytes in pieces of whole elements, once their number is what type and shape say.
pub(crate) struct Chunks<'a> {
    payload: Payload<'a>,
    buffer: Vec<u8>,
}

impl<'a> Chunks<'a> {
    /// Opens `weight`, whose external data is in `directory`. An error says in words what is wrong with it.
    pub(crate) fn open(weight: &'a Weight, directory: &Path) -> Result<Self, String> {
        let payload = match &weight.storage {
            Storage::Inline(bytes) => Payload { reader: Box::new(bytes.as_slice()), bytes: bytes.len() as u64 },
            Storage::External(place) => place.open(directory)?,
            Storage::Broken(reason) => return Err(reason.clone()),
        };
        match weight.bytes() {
            Some(expected) if expected != payload.bytes => {
                Err(format!("it takes {expected} bytes, but {} are there", payload.bytes))
            }
            Some(_) => {
                let size = usize::try_from(payload.bytes).unwrap_or(PIECE).clamp(1, PIECE);
                Ok(Self { payload, buffer: vec![0; size] })
            }
            None => Err("its size is not known".to_owned()),
        }
    }

    /// The next piece, empty at the end.
    pub(crate) fn next(&mut self) -> Result<&[u8], String> {
        let count = fill(&mut self.payload.reader, &mut self.buffer)?;
        Ok(&self.buffer[..count])
    }

    /// Sets the size of the pieces, so that those of two weights of other types hold as many elements.
    pub(crate) fn piece(&mut self, bytes: usize) {
        self.buffer.resize(bytes, 0);
    }
}
