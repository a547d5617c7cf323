//! Opens an exported graph in tract, and in ONNX Runtime where its library is given.

use pemlc_runtime::{OpenOptions, RuntimeKind, Session};
use std::path::Path;

/// The runtimes to hold an export to. ONNX Runtime joins when its library is found; CI makes its absence an error.
pub fn kinds() -> Vec<RuntimeKind> {
    let mut kinds = vec![RuntimeKind::Tract];
    match pemlc_runtime::locate_ort() {
        Ok(_) => kinds.extend([RuntimeKind::OrtCpu, RuntimeKind::OrtCpuUnoptimized]),
        Err(error) => {
            let required = ["CI", "PEMLC_REQUIRE_ORT"].iter().any(|name| std::env::var_os(name).is_some());
            assert!(!required, "ONNX Runtime is required here: {error}");
            eprintln!("skipped on ONNX Runtime: {error}");
        }
    }
    kinds
}

/// `model.onnx` of `directory` on those of them that can run it.
pub fn sessions_on(directory: &Path, runs_on: impl Fn(RuntimeKind) -> bool) -> Vec<Box<dyn Session>> {
    let model = directory.join("model.onnx");
    let open = |kind| pemlc_runtime::open(kind, &model, &OpenOptions::default()).unwrap();
    kinds().into_iter().filter(|kind| runs_on(*kind)).map(open).collect()
}
