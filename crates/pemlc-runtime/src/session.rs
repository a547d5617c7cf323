//! One trait over the runtimes.

use crate::{CacheShape, Inputs, Outputs, RuntimeError, RuntimeKind, ort_cpu, ort_cuda, ort_session, tract};
use std::path::{Path, PathBuf};

/// A graph, loaded by one runtime.
pub trait Session {
    /// Runs the graph once.
    ///
    /// # Errors
    /// When the inputs do not fit together, when the runtime fails, and when an output has an unexpected shape.
    fn run(&mut self, inputs: &Inputs) -> Result<Outputs, RuntimeError>;

    /// The runtime.
    fn kind(&self) -> RuntimeKind;

    /// The version of the library that runs.
    fn version(&self) -> String;

    /// The execution provider that ran the graph, for ONNX Runtime, as its profile of the first run shows; `None` before that run.
    fn execution_provider(&self) -> Option<String>;

    /// The cache's fixed dimensions, as the graph declares them.
    fn cache_shape(&self) -> CacheShape;

    /// Whether the graph reads [`Inputs::task_id`]; one that answers as one task does not.
    fn takes_task_id(&self) -> bool {
        true
    }
}

/// How to open a graph.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// Threads of one operator; all physical cores when absent. tract always takes one.
    pub threads: Option<usize>,
    /// The ONNX Runtime library; [`crate::locate_ort`] finds one when absent.
    pub ort_library: Option<PathBuf>,
    /// Which GPU [`RuntimeKind::OrtCuda`] takes.
    pub cuda_device: i32,
}

/// Loads `model` (a `model.onnx` with its external data beside it) with one runtime.
///
/// # Errors
/// When the runtime or its execution provider is not available, refuses the graph, or the graph's inputs and outputs are not
/// `input_ids`, `attention_mask`, `position_ids`, `task_id`, `past_key_values.*`, `logits` and `present.*`.
pub fn open(kind: RuntimeKind, model: &Path, options: &OpenOptions) -> Result<Box<dyn Session>, RuntimeError> {
    open_decoder(kind, model, &Decoder::TaskPerRow, options)
}

/// Fails unless the library and the execution provider of `kind` are there. No graph is read; `model` is the one that will be.
pub(crate) fn probe(kind: RuntimeKind, model: &Path, options: &OpenOptions) -> Result<(), RuntimeError> {
    let provider = match kind {
        RuntimeKind::Tract => return Ok(()),
        RuntimeKind::OrtCpu | RuntimeKind::OrtCpuUnoptimized => ort_cpu::provider(),
        RuntimeKind::OrtCuda => ort_cuda::provider(options)?,
    };
    ort_session::build(kind, provider, model, options).map(drop)
}

/// How a decoder is told its task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decoder {
    /// By `task_id`, one a row.
    TaskPerRow,
    /// Not at all: it answers as one task.
    Pinned,
    /// By an `.onnx_adapter` file, which only ONNX Runtime reads; absent, by nothing.
    Adapted(Option<PathBuf>),
}

impl Decoder {
    pub(crate) fn takes_task_id(&self) -> bool {
        *self == Self::TaskPerRow
    }
}

/// As [`open`], for a decoder of any kind.
pub(crate) fn open_decoder(
    kind: RuntimeKind,
    model: &Path,
    decoder: &Decoder,
    options: &OpenOptions,
) -> Result<Box<dyn Session>, RuntimeError> {
    Ok(match kind {
        RuntimeKind::OrtCpu | RuntimeKind::OrtCpuUnoptimized => Box::new(ort_cpu::open(kind, model, decoder, options)?),
        RuntimeKind::OrtCuda => Box::new(ort_cuda::open(model, decoder, options)?),
        RuntimeKind::Tract => Box::new(tract::open(model, decoder)?),
    })
}

/// Decoder layers, after checking that `inputs` and `outputs` are exactly those of `decoder`.
pub(crate) fn layers(inputs: &[&str], outputs: &[&str], decoder: &Decoder) -> Result<usize, String> {
    let layers = inputs.iter().filter(|name| name.starts_with("past_key_values.") && name.ends_with(".key")).count();
    let cache = |prefix: &str| {
        let names = |layer| ["key", "value"].map(|part| format!("{prefix}.{layer}.{part}"));
        (0..layers).flat_map(names).collect::<Vec<_>>()
    };
    let mut expected = ["input_ids", "attention_mask", "position_ids"].map(str::to_owned).to_vec();
    expected.extend(decoder.takes_task_id().then(|| "task_id".to_owned()));
    expected.extend(cache("past_key_values"));
    compare("input", inputs, &expected)?;
    let mut expected = vec!["logits".to_owned()];
    expected.extend(cache("present"));
    compare("output", outputs, &expected)?;
    if layers == 0 { Err("no input past_key_values.0.key".to_owned()) } else { Ok(layers) }
}

fn compare(what: &str, found: &[&str], expected: &[String]) -> Result<(), String> {
    if let Some(missing) = expected.iter().find(|name| !found.contains(&name.as_str())) {
        return Err(format!("{what} {missing} is missing"));
    }
    match found.iter().find(|name| !expected.iter().any(|expected| expected == *name)) {
        Some(unknown) => Err(format!("{what} {unknown} is not known")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Decoder, layers};

    #[test]
    fn a_graph_without_task_id_is_no_artifact() {
        let inputs = [
            "input_ids",
            "attention_mask",
            "position_ids",
            "task_id",
            "past_key_values.0.key",
            "past_key_values.0.value",
        ];
        let outputs = ["logits", "present.0.key", "present.0.value"];
        let pinned = layers(&inputs, &outputs, &Decoder::Pinned);
        assert_eq!(pinned, Err("input task_id is not known".to_owned()));
        let layers = |inputs: &[&str], outputs: &[&str]| layers(inputs, outputs, &Decoder::TaskPerRow);
        assert_eq!(layers(&inputs, &outputs), Ok(1));
        let without: Vec<&str> = inputs.into_iter().filter(|name| *name != "task_id").collect();
        assert_eq!(layers(&without, &outputs), Err("input task_id is missing".to_owned()));
        assert_eq!(layers(&inputs[..4], &outputs), Err("output present.0.key is not known".to_owned()));
        let extra: Vec<&str> = inputs.into_iter().chain(["token_type_ids"]).collect();
        assert_eq!(layers(&extra, &outputs), Err("input token_type_ids is not known".to_owned()));
    }
}
