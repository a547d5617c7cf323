//! The runtimes that an artifact can be checked on.

use std::fmt;
use std::str::FromStr;

/// A runtime and, for ONNX Runtime, its execution provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RuntimeKind {
    /// ONNX Runtime, CPU execution provider.
    OrtCpu,
    /// The same with every graph optimisation off: what the file says, node by node.
    OrtCpuUnoptimized,
    /// ONNX Runtime, CUDA execution provider.
    OrtCuda,
    /// tract, on the CPU.
    Tract,
}

impl RuntimeKind {
    /// Every runtime.
    pub const ALL: [Self; 4] = [Self::OrtCpu, Self::OrtCpuUnoptimized, Self::OrtCuda, Self::Tract];

    /// The name used on the command line and in `pemlc.json`: `ort-cpu`, `ort-cpu-unoptimized`, `ort-cuda` or `tract`.
    pub fn name(self) -> &'static str {
        match self {
            Self::OrtCpu => "ort-cpu",
            Self::OrtCpuUnoptimized => "ort-cpu-unoptimized",
            Self::OrtCuda => "ort-cuda",
            Self::Tract => "tract",
        }
    }
}

impl fmt::Display for RuntimeKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A name that is no [`RuntimeKind`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown runtime `{0}`: expected ort-cpu, ort-cpu-unoptimized, ort-cuda or tract")]
pub struct UnknownRuntime(pub String);

impl FromStr for RuntimeKind {
    type Err = UnknownRuntime;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| UnknownRuntime(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for kind in RuntimeKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        let error = "ort".parse::<RuntimeKind>().map_err(|error| error.to_string());
        assert_eq!(
            error,
            Err("unknown runtime `ort`: expected ort-cpu, ort-cpu-unoptimized, ort-cuda or tract".to_owned())
        );
    }
}
