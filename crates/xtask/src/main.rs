//! What a developer runs: `cargo xtask setup`, `demo`, `test`, `schemas`, `burn-check`, `cuda-check`, `bench`.
#![forbid(unsafe_code)]

mod bench;
mod burn;
mod cache;
mod cuda;
mod demo;
mod schemas;
mod setup;
mod shell;
mod test;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// What a developer of pemlc runs.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Fetch the ONNX Runtime library into the cache folder, unless it is there, and print its path
    Setup {
        /// Also fetch SmolLM2-135M-Instruct, which the demo trains
        #[arg(long)]
        model: bool,
    },
    /// Train three small tasks, export, check and evaluate; about ten minutes on two cores
    Demo(demo::DemoArguments),
    /// Format, clippy, documentation and tests: what CI runs
    Test(test::TestArguments),
    /// Write schemas/ from the types
    Schemas {
        /// Compare instead of writing
        #[arg(long)]
        check: bool,
    },
    /// Import exported graphs with burn's own importer and compare; about ten minutes the first time
    BurnCheck,
    /// Compile and link with the cuda feature; needs no CUDA toolkit and no GPU
    CudaCheck,
    /// Say how each benchmark is run
    Bench,
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            for cause in error.chain().skip(1) {
                eprintln!("  caused by: {cause}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> anyhow::Result<()> {
    std::env::set_current_dir(shell::repository())?;
    match task {
        Task::Setup { model } => setup::run(model),
        Task::Demo(arguments) => demo::run(&arguments),
        Task::Test(arguments) => test::run(&arguments),
        Task::Schemas { check } => schemas::run(check),
        Task::BurnCheck => burn::run(),
        Task::CudaCheck => cuda::run(),
        Task::Bench => bench::run(),
    }
}
