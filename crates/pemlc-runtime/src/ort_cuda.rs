//! ONNX Runtime on CUDA. It runs on CUDA or fails: ONNX Runtime by itself would fall back to the CPU and say nothing.

use crate::ort_session::OrtSession;
use crate::session::Decoder;
use crate::{OpenOptions, RuntimeError, RuntimeKind, ort_environment};
use ort::ep::{CUDA, ExecutionProvider, ExecutionProviderDispatch};
use std::path::Path;

const RUNTIME: RuntimeKind = RuntimeKind::OrtCuda;

pub(crate) fn open(model: &Path, decoder: &Decoder, options: &OpenOptions) -> Result<OrtSession, RuntimeError> {
    OrtSession::open(RUNTIME, provider(options)?, CUDA::NAME, model, decoder, options)
}

/// The CUDA execution provider, or why there is none.
pub(crate) fn provider(options: &OpenOptions) -> Result<ExecutionProviderDispatch, RuntimeError> {
    ort_environment::environment(options)?;
    if !matches!(CUDA::is_available(), Ok(true)) {
        let message =
            "the ONNX Runtime library in use was built without CUDA: take libonnxruntime.so out of the PyPI package \
                       onnxruntime-gpu, with the files beside it, and set PEMLC_ORT_DYLIB to its path"
                .to_owned();
        return Err(RuntimeError::Provider { runtime: RUNTIME, message });
    }
    // TF32 rounds inputs of matrix products to 10 bits, which no f32 tolerance survives.
    Ok(CUDA::default().with_device_id(options.cuda_device).with_tf32(false).build().error_on_failure())
}
