//! The compiler that refuses, and the types around it.

use core::convert::Infallible;
use core::ffi::c_char;
use core::fmt;

use cubecl_core::ir::nvidia::SmArch;
use cubecl_core::prelude::KernelDefinition;
use cubecl_environment::backtrace::BackTrace;
use cubecl_server::compiler::{CompilationError, Compiler};
use cubecl_server::kernel::BufferIOAttr;

use crate::nvptx::ptx_version::PtxVersion;

const REFUSAL: &str = "this program was built without cubecl's LLVM path: kernels are compiled with NVRTC only. \
                       Build cubecl with its feature `cuda-cpp`, so that NVRTC is the default backend";

/// What LLVM would compile for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LlvmTarget {
    /// NVIDIA's PTX.
    #[default]
    Nvptx,
}

/// The compiler: refuses every kernel.
#[derive(Clone, Debug, Default)]
pub struct PlironCompiler {
    /// What it would compile for.
    pub target: LlvmTarget,
}

/// The options `cubecl-cuda` sets; none is read.
#[derive(Clone, Debug, Default)]
pub struct PlironOptions {
    /// AMD architecture: never set.
    pub arch: Option<Infallible>,
    /// NVIDIA architecture.
    pub sm_arch: Option<SmArch>,
    /// PTX version to emit.
    pub ptx_version: Option<PtxVersion>,
    /// Whether scalars travel in the parameter block of the kernel.
    pub grid_constants: bool,
    /// The original has more options than `cubecl-cuda` names.
    pub others: (),
}

/// A compiled module. [`NvptxModule::never`] keeps one from being made.
#[derive(Clone, Debug)]
pub struct NvptxModule {
    /// PTX, ending in NUL.
    pub ptx: Vec<c_char>,
    /// Name of the kernel's entry point.
    pub entrypoint: String,
    /// Text of the intermediate representation.
    pub ir: String,
    /// Shared memory a launch reserves, in bytes.
    pub shared_memory_size: usize,
    /// How the kernel uses each of its buffers.
    pub io: Vec<BufferIOAttr>,
    /// No value of this type exists.
    pub never: Infallible,
}

/// What the compiler would return.
#[derive(Clone, Debug)]
pub enum PlironArtifact {
    /// PTX for the CUDA driver.
    NvptxCode(NvptxModule),
    /// The original's other targets.
    Other(Infallible),
}

impl fmt::Display for PlironArtifact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NvptxCode(module) => f.write_str(&module.ir),
            Self::Other(never) => match *never {},
        }
    }
}

impl Compiler for PlironCompiler {
    type Representation = PlironArtifact;
    type CompilationOptions = PlironOptions;

    fn compile(&mut self, _: KernelDefinition, _: &PlironOptions) -> Result<PlironArtifact, CompilationError> {
        Err(CompilationError::Generic { reason: REFUSAL.to_string(), backtrace: BackTrace::capture() })
    }

    fn extension(&self) -> &'static str {
        "ll"
    }

    fn lang_tag(&self) -> &'static str {
        "llvm"
    }
}
