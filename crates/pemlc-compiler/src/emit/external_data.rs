//! `model.onnx.data`: weights one after another at aligned offsets, made and written one at a time.

use super::evaluate::{EvaluateError, evaluate};
use crate::ir::{Expression, Graph, Tensor, ValueId};
use pemlc_artifact::Checkpoint;
use pemlc_artifact::hash::FileHash;
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};

/// Offsets are multiples of this, so that consumers can map a tensor's pages.
const ALIGNMENT: u64 = 4096;
/// Constants of at most this many bytes stay inside `model.onnx`: shape inference wants to see them.
const INLINE_BYTES: usize = 1024;
/// Workers that make tensors. Each holds one; more would cost memory, not save time.
const MAX_WORKERS: usize = 3;

/// Why the weights cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The file system refused.
    #[error("cannot write {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// A weight cannot be made.
    #[error("weight `{name}`: {source}")]
    Weight {
        /// Name in the graph.
        name: String,
        /// Why.
        source: EvaluateError,
    },
    /// A worker ended early; its own error is elsewhere or it was killed.
    #[error("weight `{name}`: the thread that makes it ended early")]
    Worker {
        /// Name in the graph.
        name: String,
    },
}

/// Where a weight is in the data file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// The places of all initialisers that are not inline.
pub(super) fn plan(graph: &Graph) -> BTreeMap<ValueId, Place> {
    let mut end = 0u64;
    let mut places = BTreeMap::new();
    for (id, expression) in graph.initialisers() {
        if inline(expression).is_some() {
            continue;
        }
        let value_type = &graph.value(id).value_type;
        let elements = value_type.fixed_shape().map_or(0, |shape| shape.iter().product::<usize>());
        let place = Place { offset: end.next_multiple_of(ALIGNMENT), bytes: value_type.dtype.bytes(elements) as u64 };
        end = place.offset + place.bytes;
        places.insert(id, place);
    }
    places
}

/// The tensor of `expression`, if it belongs inside `model.onnx`.
pub(super) fn inline(expression: &Expression) -> Option<&Tensor> {
    match expression {
        Expression::Constant(tensor) if tensor.as_f32().is_none() => Some(tensor),
        Expression::Constant(tensor) if tensor.shape().iter().product::<usize>() * 4 <= INLINE_BYTES => Some(tensor),
        _ => None,
    }
}

/// Writes the weights of `graph` to `path` at `places` and hashes them on the way.
///
/// Workers make tensors while this thread writes; a rendezvous channel a worker keeps one finished tensor each in memory.
pub(super) fn write(
    graph: &Graph,
    places: &BTreeMap<ValueId, Place>,
    checkpoint: &Checkpoint,
    path: &Path,
) -> Result<FileHash, WriteError> {
    let io_error = |source| WriteError::Io { path: path.to_owned(), source };
    let file = File::create(path).map_err(io_error)?;
    let mut output = Output { file: BufWriter::with_capacity(1 << 20, file), hasher: Sha256::new(), position: 0 };
    let work: Vec<(ValueId, &Expression)> = graph.initialisers().filter(|(id, _)| places.contains_key(id)).collect();
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_WORKERS);
    std::thread::scope(|scope| {
        let results: Vec<Receiver<Result<Cow<'_, [f32]>, EvaluateError>>> = (0..workers)
            .map(|worker| {
                let (sender, receiver) = sync_channel(0);
                let own: Vec<&Expression> =
                    work.iter().skip(worker).step_by(workers).map(|(_, expression)| *expression).collect();
                scope.spawn(move || {
                    for expression in own {
                        // A closed channel means that the writer gave up.
                        if sender.send(evaluate(expression, checkpoint)).is_err() {
                            return;
                        }
                    }
                });
                receiver
            })
            .collect();
        for (index, (id, _)) in work.iter().enumerate() {
            let name = || graph.value(*id).name.clone();
            let values = results[index % workers]
                .recv()
                .map_err(|_| WriteError::Worker { name: name() })?
                .map_err(|source| WriteError::Weight { name: name(), source })?;
            output.pad_to(places[id].offset).map_err(io_error)?;
            output.floats(&values).map_err(io_error)?;
        }
        Ok(())
    })?;
    let bytes = output.position;
    let sha256 = output.hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let file = output.file.into_inner().map_err(|error| io_error(error.into_error()))?;
    file.sync_all().map_err(io_error)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(FileHash { path: name, sha256, bytes })
}

struct Output {
    file: BufWriter<File>,
    hasher: Sha256,
    position: u64,
}

impl Output {
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.position += bytes.len() as u64;
        self.file.write_all(bytes)
    }

    fn pad_to(&mut self, offset: u64) -> io::Result<()> {
        let padding = usize::try_from(offset.saturating_sub(self.position)).unwrap_or_default();
        self.bytes(&vec![0; padding])
    }

    fn floats(&mut self, values: &[f32]) -> io::Result<()> {
        let mut buffer = Vec::with_capacity(4 << 16);
        for chunk in values.chunks(1 << 16) {
            buffer.clear();
            buffer.extend(chunk.iter().flat_map(|value| value.to_le_bytes()));
            self.bytes(&buffer)?;
        }
        Ok(())
    }
}
