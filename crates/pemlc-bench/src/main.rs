//! `pemlc-bench`: does a device work, does it agree with the CPU, and how fast does it train? Random weights throughout, so that it
//! needs no file and no network. Every result is one JSON line on stdout.
#![forbid(unsafe_code)]

mod adaptation;
mod batch;
mod compare;
mod memory;
mod operations;
mod smoke;
mod toolkit;
mod train_step;
mod width;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use pemlc_trainer::device::DeviceChoice;

/// Checks and measures a device for training
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run each operation that training needs, and compare it with the CPU
    Smoke {
        /// auto, cpu or cuda:N
        #[arg(long, default_value = "auto")]
        device: String,
        /// Side of the square matrices whose product is timed
        #[arg(long, default_value_t = 1024)]
        matmul: usize,
    },
    /// Compare the loss and the gradients of one batch of a random model with the CPU's
    Compare(compare::Compare),
    /// Time training steps of a random model
    TrainStep(train_step::TrainStep),
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    match arguments.command {
        Command::Smoke { device, matmul } => smoke::run(DeviceChoice::parse(&device)?, matmul),
        Command::Compare(arguments) => compare::run(&arguments),
        Command::TrainStep(arguments) => train_step::run(&arguments),
    }
}
