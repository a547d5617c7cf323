//! Times optimiser steps: `step_speed MODEL [batch] [sequence] [rank] [prefix] [steps] [dtype] [device]`, one JSON object on stdout.

use pemlc_artifact::Checkpoint;
use pemlc_trainer::backbone::Backbone;
use pemlc_trainer::bench::{StepShape, step_speed};
use pemlc_trainer::config::BaseDtype;
use pemlc_trainer::device::DeviceChoice;
use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let model = arguments
        .first()
        .ok_or("usage: step_speed MODEL [batch] [sequence] [rank] [prefix] [steps] [dtype] [device]")?;
    let number = |index: usize, default: usize| -> Result<usize, Box<dyn Error>> {
        Ok(arguments.get(index).map_or(Ok(default), |text| text.parse())?)
    };
    let shape = StepShape {
        batch: number(1, 4)?,
        sequence: number(2, 64)?,
        rank: number(3, 8)?,
        prefix: number(4, 8)?,
        steps: number(5, 5)?,
        warmup: 1,
    };
    let dtype = match arguments.get(6).map(String::as_str) {
        None | Some("f32") => BaseDtype::F32,
        Some("bf16") => BaseDtype::Bf16,
        Some(other) => return Err(format!("unknown dtype {other:?}: f32 or bf16").into()),
    };
    let (device, device_name) = DeviceChoice::parse(arguments.get(7).map_or("cpu", String::as_str))?.open()?;
    let backbone = {
        let checkpoint = Checkpoint::open(Path::new(model))?;
        Backbone::load(&checkpoint, &device, dtype)?
    };
    let speed = step_speed(&backbone, &shape)?;
    let mut line = serde_json::to_value(&speed)?;
    line["device"] = device_name.into();
    line["dtype"] = dtype.name().into();
    line["shape"] = serde_json::json!({
        "batch": shape.batch, "sequence": shape.sequence, "rank": shape.rank, "prefix": shape.prefix, "steps": shape.steps,
    });
    println!("{line}");
    Ok(())
}
