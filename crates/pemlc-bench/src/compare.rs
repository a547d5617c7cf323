//! Does a device agree with the CPU on the loss and on every gradient of one batch?

use anyhow::{Context, Result, ensure};
use burn::tensor::{Device, Tensor};
use clap::Args;
use pemlc_trainer::backbone::Backbone;
use pemlc_trainer::config::BaseDtype;
use pemlc_trainer::device::DeviceChoice;

use crate::adaptation;
use crate::batch::Batch;
use crate::width::{Dtype, Width};

/// What to compare.
#[derive(Args)]
pub(crate) struct Compare {
    /// auto, cpu or cuda:N
    #[arg(long, default_value = "auto")]
    device: String,
    /// Shape of the base model
    #[arg(long, default_value = "tiny")]
    width: Width,
    /// Number type of the base model's weights on the device; on the CPU they are f32
    #[arg(long, default_value = "f32")]
    dtype: Dtype,
    /// Rows of the batch
    #[arg(long, default_value_t = 3)]
    batch: usize,
    /// Tokens a row
    #[arg(long, default_value_t = 24)]
    sequence: usize,
}

/// Prints one JSON line for the loss and one for each gradient, and fails when one is too far away.
pub(crate) fn run(arguments: &Compare) -> Result<()> {
    ensure!(arguments.batch > 0 && arguments.sequence > 1, "batch must be positive, and sequence above 1");
    let (device, _) = DeviceChoice::parse(&arguments.device)?.open()?;
    // f32 products may use TF32 tensor cores, of 10 bits; bf16 has 8, and rounds in every layer.
    let tolerance = match arguments.dtype {
        Dtype::F32 => 1e-2,
        Dtype::Bf16 => 1e-1,
    };
    let (expected_loss, expected) = gradients(arguments, &Device::flex(), BaseDtype::F32)?;
    let (loss, found) = gradients(arguments, &device, BaseDtype::from(arguments.dtype))?;
    let mut failed = 0;
    let mut report = |name: &str, difference: f64, expected: f64| {
        // Written so that NaN fails.
        let ok = difference <= tolerance;
        failed += usize::from(!ok);
        println!(
            "{}",
            serde_json::json!({ "compare": name, "ok": ok, "difference": difference, "tolerance": tolerance, "cpu": expected })
        );
    };
    report("loss", (loss - expected_loss).abs() / expected_loss.abs(), expected_loss);
    for ((name, expected), (_, found)) in expected.iter().zip(&found) {
        let norm = norm(expected);
        report(name, distance(expected, found)? / norm, norm);
    }
    ensure!(expected.len() == found.len(), "{} gradients instead of {}", found.len(), expected.len());
    ensure!(failed == 0, "{failed} of {} differ by more than {tolerance}", expected.len() + 1);
    Ok(())
}

/// Values of each gradient, by what it is the gradient of.
type Gradients = Vec<(String, Vec<f32>)>;

/// Mean loss, and gradients.
fn gradients(arguments: &Compare, device: &Device, dtype: BaseDtype) -> Result<(f64, Gradients)> {
    let model = arguments.width.config();
    let backbone = Backbone::random(&model, 17, device, dtype);
    let adaptation = adaptation::random(&model, device);
    let data = Batch::new(arguments.batch, arguments.sequence, model.vocab_size);
    let scale = 1.0 / data.queries.len() as f32;
    let (loss, gradient) = backbone.gradient(&data.input(), &data.queries, &adaptation, scale);
    let mut named = Vec::new();
    for ((layer, projection), pairs) in gradient.deltas {
        for (a, b) in pairs {
            named.push((format!("layer {layer} {} A", projection.name()), values(a)?));
            named.push((format!("layer {layer} {} B", projection.name()), values(b)?));
        }
    }
    let (key, value, gate) = gradient.prefix.context("the backbone gave no gradient of the prefix")?;
    named.push(("prefix keys".to_owned(), values(key)?));
    named.push(("prefix values".to_owned(), values(value)?));
    named.push(("prefix log-gates".to_owned(), values(gate)?));
    Ok((loss / data.queries.len() as f64, named))
}

fn values<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>> {
    tensor.try_into_vec_as::<f32>().map_err(|error| anyhow::anyhow!("reading a gradient: {error}"))
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt()
}

fn distance(expected: &[f32], found: &[f32]) -> Result<f64> {
    ensure!(expected.len() == found.len(), "a gradient has {} values instead of {}", found.len(), expected.len());
    let differences: Vec<f32> = expected.iter().zip(found).map(|(a, b)| a - b).collect();
    Ok(norm(&differences))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(dtype: Dtype) -> Compare {
        Compare { device: "cpu".to_owned(), width: Width::Tiny, dtype, batch: 2, sequence: 8 }
    }

    #[test]
    fn the_cpu_agrees_with_itself() {
        run(&compare(Dtype::F32)).unwrap();
        run(&compare(Dtype::Bf16)).unwrap();
    }

    #[test]
    fn every_adapter_has_a_gradient_to_compare() {
        let (_, gradients) = gradients(&compare(Dtype::F32), &Device::flex(), BaseDtype::F32).unwrap();
        assert_eq!(gradients.len(), 2 * 7 * 2 + 3);
        for (name, values) in gradients {
            assert!(norm(&values) > 1e-3, "{name}");
        }
    }
}
