//! Does the device work at all? Each operation against the CPU, in f32 and in bf16, and how fast a matmul is.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use burn::tensor::{DType, Device};
use pemlc_trainer::device::DeviceChoice;
use serde::Serialize;

use crate::memory::{DeviceMemory, peak_host_mib};
use crate::operations::{OPERATIONS, Operation, matrix};
use crate::toolkit;

/// bf16 has 8 bits of mantissa: one rounding is 0.4 %, and an operation here rounds a few times.
const BF16_TOLERANCE: f32 = 3e-2;

/// One line of output.
#[derive(Serialize)]
struct Line<'a> {
    check: &'a str,
    dtype: &'a str,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    difference: Option<f32>,
    tolerance: f32,
    /// Kernel compilation included.
    milliseconds: u128,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Runs every check, prints a JSON line for each, and fails when one failed.
pub(crate) fn run(choice: DeviceChoice, size: usize) -> Result<()> {
    let (device, name) = &choice.open()?;
    let cpu = Device::flex();
    println!("{}", serde_json::json!({ "device": name }));
    if name != "cpu" {
        println!("{}", serde_json::json!({ "cuda_headers": toolkit::headers()? }));
    }
    let memory = DeviceMemory::watch(name);
    let mut failed = 0;
    for (label, dtype) in [("f32", DType::F32), ("bf16", DType::BF16)] {
        for operation in OPERATIONS {
            let tolerance = match dtype {
                DType::BF16 if operation.tolerance > 0.0 => BF16_TOLERANCE,
                _ => operation.tolerance,
            };
            let start = Instant::now();
            let outcome = difference(operation, &cpu, device, dtype);
            let ok = outcome.as_ref().is_ok_and(|difference| *difference <= tolerance);
            failed += usize::from(!ok);
            let line = Line {
                check: operation.name,
                dtype: label,
                ok,
                difference: outcome.as_ref().ok().copied(),
                tolerance,
                milliseconds: start.elapsed().as_millis(),
                error: outcome.err().map(|error| format!("{error:#}")),
            };
            println!("{}", serde_json::to_string(&line)?);
        }
        speed(device, label, dtype, size)?;
    }
    let peak_device_mib = memory.and_then(DeviceMemory::peak_mib);
    println!("{}", serde_json::json!({ "peak_device_mib": peak_device_mib, "peak_host_mib": peak_host_mib() }));
    ensure!(failed == 0, "{failed} checks failed");
    Ok(())
}

/// Largest difference between the device's result in `dtype` and the CPU's in f32, relative to the largest magnitude.
fn difference(operation: &Operation, cpu: &Device, device: &Device, dtype: DType) -> Result<f32> {
    let expected = values((operation.run)(cpu, DType::F32))?;
    // Burn reports a kernel that does not compile, or a library that does not load, by panicking.
    let actual = catch_unwind(AssertUnwindSafe(|| values((operation.run)(device, dtype))));
    let actual = match actual {
        Ok(values) => values?,
        Err(_) => bail!("it panicked; the panic's message is on stderr"),
    };
    relative_difference(&expected, &actual)
}

fn values(tensor: burn::tensor::Tensor<1>) -> Result<Vec<f32>> {
    tensor.try_into_vec_as::<f32>().map_err(|error| anyhow::anyhow!("reading the result: {error}"))
}

/// `max |a - b| / max |a|`. Fails on different lengths, on nothing at all, and on a value that is not finite.
fn relative_difference(expected: &[f32], actual: &[f32]) -> Result<f32> {
    ensure!(!expected.is_empty(), "the reference is empty");
    ensure!(expected.len() == actual.len(), "{} values instead of {}", actual.len(), expected.len());
    let mut scale = 0.0_f32;
    let mut difference = 0.0_f32;
    for (index, (a, b)) in expected.iter().zip(actual).enumerate() {
        ensure!(a.is_finite() && b.is_finite(), "value {index} is {b} instead of {a}");
        scale = scale.max(a.abs());
        difference = difference.max((a - b).abs());
    }
    Ok(if difference == 0.0 { 0.0 } else { difference / scale.max(f32::MIN_POSITIVE) })
}

/// Prints the rate of square matmuls, in 10^12 floating-point operations per second.
fn speed(device: &Device, label: &str, dtype: DType, size: usize) -> Result<()> {
    const REPEATS: usize = 20;
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let (a, b) = (matrix(device, dtype, [size, size], 1), matrix(device, dtype, [size, size], 2));
        // The first runs compile, and try several kernels.
        for _ in 0..3 {
            a.clone().matmul(b.clone()).sum().try_into_data().context("reading a product")?;
        }
        device.sync().context("waiting for the device")?;
        let start = Instant::now();
        for _ in 0..REPEATS {
            drop(a.clone().matmul(b.clone()));
            device.flush().context("handing over a product")?;
        }
        device.sync().context("waiting for the device")?;
        Ok::<_, anyhow::Error>(start.elapsed().as_secs_f64() / REPEATS as f64)
    }));
    match outcome {
        Ok(Ok(seconds)) => {
            let teraflops = 2.0 * (size as f64).powi(3) / seconds / 1e12;
            println!(
                "{}",
                serde_json::json!({ "matmul": size, "dtype": label, "milliseconds": seconds * 1e3, "tflop_per_second": teraflops })
            );
        }
        Ok(Err(error)) => {
            println!("{}", serde_json::json!({ "matmul": size, "dtype": label, "error": format!("{error:#}") }))
        }
        Err(_) => println!("{}", serde_json::json!({ "matmul": size, "dtype": label, "error": "it panicked" })),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_relative_to_the_largest_magnitude() {
        assert_eq!(relative_difference(&[1.0, -4.0], &[1.0, -3.0]).unwrap(), 0.25);
        assert_eq!(relative_difference(&[0.0], &[0.0]).unwrap(), 0.0);
        assert_eq!(relative_difference(&[1.0], &[f32::NAN]).unwrap_err().to_string(), "value 0 is NaN instead of 1");
        assert_eq!(relative_difference(&[1.0], &[]).unwrap_err().to_string(), "0 values instead of 1");
        assert_eq!(relative_difference(&[], &[]).unwrap_err().to_string(), "the reference is empty");
    }

    #[test]
    fn bf16_on_the_cpu_stays_within_the_tolerance_but_is_not_exact() {
        let cpu = Device::flex();
        for operation in OPERATIONS {
            let difference = difference(operation, &cpu, &cpu, DType::BF16).unwrap();
            let tolerance = if operation.tolerance > 0.0 { BF16_TOLERANCE } else { 0.0 };
            assert!(difference <= tolerance, "{}: {difference}", operation.name);
            let moves_only = operation.tolerance == 0.0;
            assert_eq!(difference == 0.0, moves_only, "{}: {difference}", operation.name);
        }
    }
}
