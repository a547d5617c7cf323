//! Runs an exported artifact under runtimes that this project did not write, and holds every one of them to the trainer's own answers.
//!
//! - [`open`] gives a [`Session`] on a graph: ONNX Runtime on the CPU, ONNX Runtime on CUDA, or tract. What was asked for runs, or an
//!   error says why not; nothing falls back.
//! - [`generate()`] and [`score()`] use a session as a client would.
//! - [`bisect()`] narrows a difference between two runtimes to the first node that one of them computes wrongly.
//! - [`check()`] compares an artifact directory with its probes on several runtimes; [`record`] writes what it found into `pemlc.json`.
// Not forbidden: the slicing macro of ndarray allows it within its expansion.
#![deny(unsafe_code)]

mod bisect;
mod check;
mod error;
mod generate;
mod io;
mod kind;
mod locate;
mod ort_cpu;
mod ort_cuda;
mod ort_environment;
mod ort_profile;
mod ort_session;
mod raw;
mod score;
mod scorer;
mod session;
mod tract;

pub use bisect::{
    BisectError, Bisection, Culprit, Difference, Element, Growth, Hidden, Operand, Side, Step, Verdict, bisect,
    default_sides,
};
pub use check::{CheckError, CheckOptions, DEFAULT_DRAWN, DEFAULT_RUNTIMES, DEFAULT_TOLERANCE, Drawn, check, record};
pub use error::RuntimeError;
pub use generate::{GenerateOptions, Generated, generate};
pub use io::{CacheShape, CacheType, Inputs, KeyValue, Outputs, Padding, Row};
pub use kind::{RuntimeKind, UnknownRuntime};
pub use locate::{ORT_LIBRARY, ORT_VERSION, cache_dir, locate_ort};
pub use raw::{RawSession, RawTensor};
pub use score::{ScoreRow, TokenScore, score};
pub use scorer::Scorer;
pub use session::{OpenOptions, Session, open};
