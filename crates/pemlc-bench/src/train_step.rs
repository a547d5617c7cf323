//! How fast a device trains: whole steps on one batch, with random weights.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use burn::tensor::Device;
use clap::Args;
use pemlc_trainer::backbone::Backbone;
use pemlc_trainer::config::BaseDtype;
use pemlc_trainer::device::DeviceChoice;

use crate::adapters::Adapters;
use crate::batch::Batch;
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
    /// Prefix rows in every layer
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
        "batch, rank and steps must be positive, and sequence above 1"
    );
    let dtype = BaseDtype::from(arguments.dtype);
    let (device, name) = DeviceChoice::parse(&arguments.device)?.open()?;
    let memory = DeviceMemory::watch(&name);
    let model = arguments.width.config();
    let start = Instant::now();
    let backbone = Backbone::random(&model, 17, &device, dtype);
    let mut adapters = Adapters::new(&model, rank, prefix, 0.0, &device);
    wait(&device)?;
    let load_seconds = start.elapsed().as_secs_f64();

    let data = Batch::new(batch, sequence, model.vocab_size);
    let scale = 1.0 / data.queries.len() as f32;
    let mut losses = Vec::with_capacity(warmup + steps);
    let mut start = Instant::now();
    let mut warmup_seconds = 0.0;
    for step in 0..warmup + steps {
        if step == warmup {
            wait(&device)?;
            warmup_seconds = start.elapsed().as_secs_f64();
            start = Instant::now();
        }
        let (loss, gradient) = backbone.gradient(&data.input(), &data.queries, &adapters.adaptation(), scale);
        adapters.step(gradient, step + 1)?;
        losses.push(loss / data.queries.len() as f64);
    }
    wait(&device)?;
    let seconds = start.elapsed().as_secs_f64() / steps as f64;
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
        "trainable_parameters": adapters.count(),
        "loss_first": losses.first(),
        "loss_last": losses.last(),
        "load_seconds": load_seconds,
        "warmup_seconds": warmup_seconds,
        "seconds_per_step": seconds,
        "tokens_per_second": (batch * sequence) as f64 / seconds,
        "peak_device_mib": memory.and_then(DeviceMemory::peak_mib),
        "peak_host_mib": peak_host_mib(),
    });
    println!("{report}");
    ensure!(losses.iter().all(|loss| loss.is_finite()), "a loss is not finite: {losses:?}");
    Ok(())
}

fn wait(device: &Device) -> Result<()> {
    device.sync().context("waiting for the device")
}
