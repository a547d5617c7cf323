//! `model.onnx.data`: weights one after another at aligned offsets, made and written a block at a time. Several graphs may share it: equal
//! weights are there once.

use super::fitted::Fitted;
use super::round::{refuse_not_finite, round};
use crate::evaluate::{EvaluateError, Matrix};
use crate::ir::{DType, Expression, Graph, Tensor, ValueId};
use pemlc_artifact::Checkpoint;
use pemlc_artifact::hash::FileHash;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};

/// Offsets are multiples of this, so that consumers can map a tensor's pages.
const ALIGNMENT: u64 = 4096;
/// Offsets of what lies inside another weight are multiples of this, as runtimes align what they hold in memory.
const PART_ALIGNMENT: u64 = 64;
/// Constants of at most this many bytes stay inside `model.onnx`: shape inference wants to see them.
const INLINE_BYTES: usize = 1024;
/// Workers that make blocks.
const MAX_WORKERS: usize = 8;
/// Bytes after which the disk is asked to write what it was given, so that it does not begin when everything is made.
const WRITE_BEHIND: u64 = 128 << 20;

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

/// A weight to write.
#[derive(Debug)]
struct Weight<'a> {
    name: &'a str,
    expression: &'a Expression,
    dtype: DType,
    place: Place,
}

/// What the data file holds, in order.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    weights: Vec<Weight<'a>>,
    /// Of each graph, where its initialisers are that are not inline.
    pub(super) places: Vec<BTreeMap<ValueId, Place>>,
}

/// Lays out the weights of all graphs. Equal expressions share a place, and a part of a weight lies inside it.
pub(super) fn plan<'a>(graphs: &[&'a Graph]) -> Plan<'a> {
    let mut plan = Plan { weights: Vec::new(), places: Vec::new() };
    let mut known: HashMap<u64, Vec<usize>> = HashMap::new();
    let mut end = 0u64;
    for graph in graphs {
        let mut places = BTreeMap::new();
        for (id, expression) in graph.initialisers() {
            if inline(expression).is_some() {
                continue;
            }
            let digest = expression.digest();
            let there = planned(expression, digest, &plan.weights, &known).map(|weight| weight.place);
            if let Some(place) = there.or_else(|| inside(expression, &plan.weights, &known)) {
                places.insert(id, place);
                continue;
            }
            let value = graph.value(id);
            let elements = value.value_type.fixed_shape().map_or(0, |shape| shape.iter().product::<usize>());
            let dtype = value.value_type.dtype;
            let place = Place { offset: end.next_multiple_of(ALIGNMENT), bytes: dtype.bytes(elements) as u64 };
            end = place.offset + place.bytes;
            known.entry(digest).or_default().push(plan.weights.len());
            plan.weights.push(Weight { name: &value.name, expression, dtype, place });
            places.insert(id, place);
        }
        plan.places.push(places);
    }
    plan
}

/// The weight of `weights` that is `expression`, found by the digests in `known`.
fn planned<'a, 'b>(
    expression: &Expression,
    digest: u64,
    weights: &'b [Weight<'a>],
    known: &HashMap<u64, Vec<usize>>,
) -> Option<&'b Weight<'a>> {
    let mut candidates = known.get(&digest)?.iter().filter_map(|index| weights.get(*index));
    candidates.find(|weight| weight.expression == expression)
}

/// The place of a part of a weight that is there already.
fn inside(expression: &Expression, weights: &[Weight<'_>], known: &HashMap<u64, Vec<usize>>) -> Option<Place> {
    let (whole, parts) = expression.whole()?;
    let weight = planned(&whole, whole.digest(), weights, known)?;
    let count = *whole.value_type().ok()?.fixed_shape()?.first()? as u64;
    let part = weight.place.bytes / count.max(1);
    let place = Place { offset: weight.place.offset + parts.start as u64 * part, bytes: parts.len() as u64 * part };
    (part * count == weight.place.bytes && place.offset.is_multiple_of(PART_ALIGNMENT)).then_some(place)
}

/// The tensor of `expression`, if it belongs inside `model.onnx`.
pub(super) fn inline(expression: &Expression) -> Option<&Tensor> {
    match expression {
        Expression::Constant(tensor) if tensor.as_f32().is_none() => Some(tensor),
        Expression::Constant(tensor) if tensor.shape().iter().product::<usize>() * 4 <= INLINE_BYTES => Some(tensor),
        _ => None,
    }
}

type Made = Result<Vec<u8>, EvaluateError>;

/// Writes the plan's weights to `path` and hashes them on the way.
///
/// Workers make blocks in turn while this thread writes. A worker holds one block that is being made and one that is waiting, so memory
/// does not grow with the model; what a weight read of the checkpoint is given back once it is written.
pub(super) fn write(plan: &Plan<'_>, checkpoint: &Checkpoint, path: &Path) -> Result<FileHash, WriteError> {
    let io_error = |source| WriteError::Io { path: path.to_owned(), source };
    let file = File::create(path).map_err(io_error)?;
    let behind = file.try_clone().map_err(io_error)?;
    let mut output = Output { file: BufWriter::with_capacity(1 << 20, file), hasher: Sha256::new(), position: 0 };
    // Made by whichever worker comes first: some cost a walk over the whole weight.
    let matrices: Vec<OnceLock<Result<Matrix<'_>, EvaluateError>>> =
        plan.weights.iter().map(|_| OnceLock::new()).collect();
    let matrix = |index: usize| -> Result<&Matrix<'_>, EvaluateError> {
        let weight = &plan.weights[index];
        match matrices[index].get_or_init(|| Matrix::new(weight.expression, checkpoint)) {
            Ok(matrix) => Ok(matrix),
            // The error stays where it is: another is made for the caller.
            Err(_) => Err(Matrix::new(weight.expression, checkpoint)
                .err()
                .unwrap_or_else(|| EvaluateError::Type(weight.name.to_owned()))),
        }
    };
    let fitted = Fitted::new(plan.weights.iter().map(|weight| weight.expression));
    let make = |index: usize, rows: Range<usize>| -> Made {
        let matrix = matrix(index)?;
        let values = || matrix.block(rows.clone(), 0..matrix.columns);
        match plan.weights[index].expression {
            Expression::Quantise { part, quantisation, .. } => {
                fitted.bytes(index, rows.start, (*part, *quantisation, matrix.columns), values)
            }
            expression => {
                let (values, dtype) = (values(), plan.weights[index].dtype);
                // Constants of the compiler's own may be infinite; narrower types look for themselves.
                if dtype == DType::F32 && !matches!(expression, Expression::Constant(_)) {
                    refuse_not_finite(&values, rows.start, matrix.columns)?;
                }
                round(&values, dtype, rows.start, matrix.columns)
            }
        }
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_WORKERS);
    std::thread::scope(|scope| {
        let results: Vec<Receiver<Made>> = (0..workers)
            .map(|worker| {
                let (sender, receiver) = sync_channel(1);
                let (plan, matrix, make, fitted) = (&plan, &matrix, &make, &fitted);
                scope.spawn(move || {
                    let mut turn = 0;
                    for index in 0..plan.weights.len() {
                        let blocks = match matrix(index) {
                            Ok(matrix) if fitted.is_quantised(index) => matrix.small_row_blocks(),
                            Ok(matrix) => matrix.row_blocks(),
                            // One turn, to tell of it.
                            Err(_) => std::iter::once(0..0).collect(),
                        };
                        for rows in blocks {
                            let mine = turn % workers == worker;
                            turn += 1;
                            // A closed channel means that the writer gave up.
                            if mine && sender.send(make(index, rows)).is_err() {
                                return;
                            }
                        }
                    }
                });
                receiver
            })
            .collect();
        let mut disk = WriteBehind::new(scope, &behind);
        let mut turn = 0;
        for (index, weight) in plan.weights.iter().enumerate() {
            output.pad_to(weight.place.offset).map_err(io_error)?;
            let end = weight.place.offset + weight.place.bytes;
            while output.position < end {
                let made = results[turn % workers].recv();
                let made = made.map_err(|_| WriteError::Worker { name: weight.name.to_owned() })?;
                let made = made.map_err(|source| WriteError::Weight { name: weight.name.to_owned(), source })?;
                output.bytes(&made).map_err(io_error)?;
                disk.written(output.position);
                turn += 1;
            }
            fitted.written(index);
            for name in plan.weights[index].expression.checkpoint_names() {
                checkpoint.release(name);
            }
        }
        disk.finish().map_err(io_error)
    })?;
    let bytes = output.position;
    let sha256 = output.hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let file = output.file.into_inner().map_err(|error| io_error(error.into_error()))?;
    file.sync_all().map_err(io_error)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(FileHash { path: name, sha256, bytes })
}

/// A thread that has the disk write what the file was given so far.
struct WriteBehind<'scope> {
    asked: u64,
    ask: SyncSender<()>,
    thread: ScopedJoinHandle<'scope, io::Result<()>>,
}

impl<'scope> WriteBehind<'scope> {
    fn new<'env>(scope: &'scope Scope<'scope, 'env>, file: &'env File) -> Self {
        let (ask, asked) = sync_channel(1);
        // An error is told once, to whoever asks first: it must not be lost here.
        let thread = scope.spawn(move || asked.iter().try_for_each(|()| file.sync_data()));
        Self { asked: 0, ask, thread }
    }

    /// Says how many bytes the file has.
    fn written(&mut self, position: u64) {
        // While it is busy, and after an error, nothing is asked of it.
        if position - self.asked >= WRITE_BEHIND && self.ask.try_send(()).is_ok() {
            self.asked = position;
        }
    }

    fn finish(self) -> io::Result<()> {
        drop(self.ask);
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that syncs the file ended early")))
    }
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn graph(expression: Expression) -> Graph {
        let mut graph = Graph::new("g");
        let id = graph.initialiser("rows", expression).unwrap();
        graph.output(id);
        graph
    }

    #[test]
    fn a_part_of_a_weight_has_no_bytes_of_its_own() {
        let stack = Arc::new(Tensor::f32_from_fn(vec![3, 2, 64], |i| i as f32));
        let narrow = |base| Expression::Cast { to: DType::F16, base: Box::new(base) };
        let part = |start: usize, end| {
            let base = Box::new(Expression::Constant(Arc::clone(&stack)));
            Expression::Slice { base, start, end }
        };
        let whole = || Expression::Constant(Arc::clone(&stack));
        let graphs = [whole(), part(1, 3), narrow(part(1, 2)), narrow(whole()), narrow(part(2, 3))].map(graph);
        let plan = plan(&graphs.iter().collect::<Vec<_>>());
        let places: Vec<(u64, u64)> =
            plan.places.iter().flat_map(|places| places.values().map(|place| (place.offset, place.bytes))).collect();
        // The third came before the weight that it is a part of.
        assert_eq!(places, [(0, 1536), (512, 1024), (4096, 256), (8192, 768), (8704, 256)]);
        assert_eq!(plan.weights.len(), 3);
    }
}
