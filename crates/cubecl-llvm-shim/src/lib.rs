//! Stands in for `cubecl-llvm`, whose build downloads an LLVM toolchain.
//!
//! `cubecl-cuda` always compiles two ways from a kernel to PTX and picks one: CUDA C++ through NVRTC (the feature `cuda-cpp`), or LLVM.
//! pemlc uses NVRTC alone, so this crate offers only the names that `cubecl-cuda` mentions. Its compiler refuses every kernel, with an
//! error that says what to switch on; no module or artifact of it can exist.
#![forbid(unsafe_code)]

mod compiler;
pub mod nvptx;
pub mod shared;

pub use compiler::{LlvmTarget, NvptxModule, PlironArtifact, PlironCompiler, PlironOptions};
