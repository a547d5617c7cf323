//! `pemlc-bench`: does a device work, does it agree with the CPU, and how fast does it train? Random weights throughout, so that it
//! needs no file and no network. Every result is one JSON line on stdout.
#![forbid(unsafe_code)]

mod memory;
mod operations;
mod smoke;
mod toolkit;

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
    }
}
