//! `cargo xtask cuda-check`: the CUDA build, which no test runs because it takes long.

use crate::shell::{cargo, run as shell};

pub(crate) fn run() -> anyhow::Result<()> {
    shell(cargo().args([
        "build",
        "--package",
        "pemlc",
        "--package",
        "pemlc-bench",
        "--features",
        "pemlc/cuda,pemlc-bench/cuda",
        "--locked",
    ]))?;
    println!("The CUDA build links. To run it on a machine with a GPU, see benches/cuda/README.md.");
    Ok(())
}
