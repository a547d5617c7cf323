//! Devices, chosen at run time.

use burn::tensor::Device;

/// The device that a user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first CUDA device if there is one, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// CUDA device `N`.
    Cuda(usize),
}

/// Why a device cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DeviceError {
    /// Not a device's name.
    #[error("unknown device {0:?}: expected `auto`, `cpu` or `cuda:N`")]
    Unknown(String),
    /// This binary has no CUDA.
    #[error("{0} was asked for, but this binary was built without the feature `cuda`")]
    NotBuilt(String),
    /// The machine has no such device.
    #[error("{wanted} was asked for, but {found} CUDA devices were found")]
    Missing {
        /// What was asked for.
        wanted: String,
        /// How many there are.
        found: usize,
    },
}

impl DeviceChoice {
    /// Reads `auto`, `cpu`, `cuda` (which is `cuda:0`) or `cuda:N`.
    pub fn parse(text: &str) -> Result<Self, DeviceError> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|index| index.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| DeviceError::Unknown(text.to_owned())),
        }
    }

    /// Opens the device. Never falls back: a device that was asked for by name is there, or this fails.
    pub fn open(self) -> Result<(Device, String), DeviceError> {
        match self {
            Self::Cpu => Ok((Device::flex(), "cpu".to_owned())),
            Self::Cuda(index) => Ok((cuda(index)?, format!("cuda:{index}"))),
            Self::Auto => match cuda(0) {
                Ok(device) => Ok((device, "cuda:0".to_owned())),
                Err(_) => Self::Cpu.open(),
            },
        }
    }
}

impl std::fmt::Display for DeviceChoice {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => formatter.write_str("auto"),
            Self::Cpu => formatter.write_str("cpu"),
            Self::Cuda(index) => write!(formatter, "cuda:{index}"),
        }
    }
}

/// burn panics when it is handed a CUDA device that is not there, so devices are counted first.
#[cfg(feature = "cuda")]
fn cuda(index: usize) -> Result<Device, DeviceError> {
    let found = Device::enumerate(burn::tensor::DeviceType::Cuda).len();
    if index >= found {
        return Err(DeviceError::Missing { wanted: format!("cuda:{index}"), found });
    }
    Ok(Device::cuda(index))
}

#[cfg(not(feature = "cuda"))]
fn cuda(index: usize) -> Result<Device, DeviceError> {
    Err(DeviceError::NotBuilt(format!("cuda:{index}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_devices() {
        assert_eq!(DeviceChoice::parse("cuda:3"), Ok(DeviceChoice::Cuda(3)));
        assert_eq!(DeviceChoice::parse("cuda"), Ok(DeviceChoice::Cuda(0)));
        insta::assert_snapshot!(
            DeviceChoice::parse("cuda:-1").unwrap_err(),
            @r#"unknown device "cuda:-1": expected `auto`, `cpu` or `cuda:N`"#
        );
    }
}
