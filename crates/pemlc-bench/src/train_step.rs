//! How fast a device trains: whole steps of the trainer, with random weights and tokens.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;
use pemlc_trainer::backbone::Backbone;
use pemlc_trainer::bench::{StepShape, step_speed};
use pemlc_trainer::config::BaseDtype;
use pemlc_trainer::device::DeviceChoice;

use crate::memory::{DeviceMemory, peak_host_mib};
use crate::width::{Dtype, Width};

/// What to train, and for how long.
#[derive(Args)]
pub(crate) struct TrainStep {
    /// Shape of the base model
    #[arg(long)]
    width: Width,
    /// Number type of the base model's weights; adapters are f32
    #[arg(long, default_value = "bf16")]
    dtype: Dtype,
    /// auto, cpu or cuda:N
    #[arg(long, default_value = "auto")]
    device: String,
    /// Rows of the batch
    #[arg(long, default_value_t = 4)]
    batch: usize,
    /// Tokens a row
    #[arg(long, default_value_t = 64)]
    sequence: usize,
    /// Rank of LoRA, which is on all seven projections
    #[arg(long, default_value_t = 8)]
    rank: usize,
    /// Prefix rows in every layer; 0 is none
    #[arg(long, default_value_t = 8)]
    prefix: usize,
    /// Steps that are timed
    #[arg(long, default_value_t = 10)]
    steps: usize,
    /// Steps before them, in which kernels are compiled and tried
    #[arg(long, default_value_t = 3)]
    warmup: usize,
}

/// Trains, and prints one JSON line.
pub(crate) fn run(arguments: &TrainStep) -> Result<()> {
    let TrainStep { batch, sequence, rank, prefix, steps, warmup, .. } = *arguments;
    ensure!(
        batch > 0 && sequence > 1 && rank > 0 && steps > 0,
        "--batch, --rank and --steps must be positive, and --sequence above 1"
    );
    let dtype = BaseDtype::from(arguments.dtype);
    let (device, name) = DeviceChoice::parse(&arguments.device)?.open()?;
    let memory = DeviceMemory::watch(&name);
    let start = Instant::now();
    let backbone = Backbone::random(&arguments.width.config(), 17, &device, dtype);
    device.sync().context("waiting for the device")?;
    let load_seconds = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let speed = step_speed(&backbone, &StepShape { batch, sequence, rank, prefix, steps, warmup })?;
    let report = serde_json::json!({
        "program": concat!("pemlc-bench ", env!("CARGO_PKG_VERSION")),
        "device": name,
        "width": arguments.width.name(),
        "dtype": dtype.name(),
        "batch": batch,
        "sequence": sequence,
        "rank": rank,
        "prefix": prefix,
        "steps": steps,
        "base_parameters": backbone.parameters(),
        "trainable_parameters": speed.trainable_parameters,
        "loss_first": speed.losses.first(),
        "loss_last": speed.losses.last(),
        "load_seconds": load_seconds,
        "all_steps_seconds": start.elapsed().as_secs_f64(),
        "seconds_per_step": speed.seconds_per_step,
        "tokens_per_second": speed.tokens_per_second,
        "peak_device_mib": memory.and_then(DeviceMemory::peak_mib),
        "peak_host_mib": peak_host_mib(),
    });
    println!("{report}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_that_cannot_be_trained_are_refused() {
        let arguments = TrainStep {
            width: Width::Tiny,
            dtype: Dtype::F32,
            device: "cpu".to_owned(),
            batch: 2,
            sequence: 1,
            rank: 4,
            prefix: 2,
            steps: 1,
            warmup: 0,
        };
        let error = run(&arguments).unwrap_err().to_string();
        assert_eq!(error, "--batch, --rank and --steps must be positive, and --sequence above 1");
        run(&TrainStep { sequence: 8, ..arguments }).unwrap();
    }
}
