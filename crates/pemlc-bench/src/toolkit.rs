//! The CUDA headers that NVRTC reads at run time. Looking for them first turns a panic inside burn into an error that helps.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

/// Headers that generated kernels include, and one that only another of them includes.
const HEADERS: [&str; 4] = ["cuda_fp16.h", "cuda_bf16.h", "mma.h", "crt/mma.h"];

/// The folder of the headers: `$CUDA_PATH/include`, or where burn looks when the variable is not set. Fails when headers are missing.
pub(crate) fn headers() -> Result<PathBuf> {
    let root = std::env::var_os("CUDA_PATH")
        .map(PathBuf::from)
        .or_else(|| ["/usr/local/cuda", "/opt/cuda"].iter().map(PathBuf::from).find(|folder| folder.exists()));
    // What burn falls back to, when a distribution's package has put the compiler there.
    let folder = root.unwrap_or_else(|| PathBuf::from("/usr")).join("include");
    complete(&folder)?;
    Ok(folder)
}

fn complete(folder: &Path) -> Result<()> {
    let missing: Vec<_> = HEADERS.into_iter().filter(|header| !folder.join(header).exists()).collect();
    ensure!(
        missing.is_empty(),
        "CUDA headers missing in {}: {}. Set CUDA_PATH to a CUDA toolkit, the folder that holds `include`; docs/cuda.md lists packages that \
         have them",
        folder.display(),
        missing.join(", ")
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_missing_headers_are_named() {
        let error = complete(Path::new("/no/such/folder/include")).unwrap_err().to_string();
        assert!(
            error.starts_with(
                "CUDA headers missing in /no/such/folder/include: cuda_fp16.h, cuda_bf16.h, mma.h, crt/mma.h."
            ),
            "{error}"
        );
    }
}
