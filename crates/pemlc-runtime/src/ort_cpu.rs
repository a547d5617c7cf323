//! ONNX Runtime on the CPU.

use crate::ort_session::OrtSession;
use crate::session::Decoder;
use crate::{OpenOptions, RuntimeError, RuntimeKind, ort_environment};
use ort::ep::{CPU, ExecutionProvider, ExecutionProviderDispatch};
use std::path::Path;

pub(crate) fn open(
    kind: RuntimeKind,
    model: &Path,
    decoder: &Decoder,
    options: &OpenOptions,
) -> Result<OrtSession, RuntimeError> {
    ort_environment::environment(options)?;
    OrtSession::open(kind, provider(), CPU::NAME, model, decoder, options)
}

pub(crate) fn provider() -> ExecutionProviderDispatch {
    CPU::default().with_arena_allocator(true).build().error_on_failure()
}
