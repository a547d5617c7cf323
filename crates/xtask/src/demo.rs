//! `cargo xtask demo`: the whole road on three small tasks.

use crate::setup;
use crate::shell::{cargo, run as shell};
use anyhow::{Context, bail};
use clap::Args;
use serde_json::Value;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

#[derive(Debug, Args)]
pub(crate) struct DemoArguments {
    /// Train the tiny model that lies in fixtures/ and check with tract alone, as happens without a network
    #[arg(long)]
    tiny: bool,
    /// Folder for the run and the artifact
    #[arg(long, default_value = "target/demo", value_name = "DIR")]
    output: PathBuf,
}

/// What this demo works with.
struct Plan {
    run_file: &'static str,
    model: PathBuf,
    /// The ONNX Runtime library; without it, tract alone.
    library: Option<PathBuf>,
}

pub(crate) fn run(arguments: &DemoArguments) -> anyhow::Result<()> {
    let plan = plan(arguments.tiny);
    shell(cargo().args(["build", "--release", "--locked", "--package", "pemlc"]))?;
    let binary = target_folder().join("release/pemlc");
    let (run, artifact) = (arguments.output.join("run"), arguments.output.join("artifact"));
    for folder in [&run, &artifact] {
        if folder.exists() {
            fs::remove_dir_all(folder)
                .with_context(|| format!("cannot remove the last demo's {}", folder.display()))?;
        }
    }
    let runtimes = if plan.library.is_some() { "ort-cpu,tract" } else { "tract" };
    let scorer = if plan.library.is_some() { "ort-cpu" } else { "tract" };
    let step = |configure: &dyn Fn(&mut Command)| {
        let mut command = Command::new(&binary);
        if let Some(library) = &plan.library {
            command.env(setup::ORT_VARIABLE, library);
        }
        configure(&mut command);
        shell(&mut command)
    };
    let times = [
        (
            "train",
            step(&|command| {
                let model = format!("model={:?}", plan.model.display().to_string());
                command.args(["train", plan.run_file, "--device", "cpu", "--set", &model, "--output"]).arg(&run);
            })?,
        ),
        (
            "export",
            step(&|command| {
                command.arg("export").args([&run, &artifact]).arg("--no-check");
            })?,
        ),
        (
            "check",
            step(&|command| {
                command.arg("check").arg(&artifact).args(["--runtime", runtimes, "--run"]).arg(&run);
            })?,
        ),
        (
            "evaluate",
            step(&|command| {
                command.arg("evaluate").arg(&artifact).arg("--run").arg(&run).args(["--runtime", scorer]);
            })?,
        ),
    ];
    println!("\n{}", summary(&read(&run.join("run.json"))?, &read(&artifact.join("pemlc.json"))?, &times)?);
    if plan.library.is_none() {
        println!("This was the tiny model with tract alone: its scores say nothing about real models.");
    }
    println!("report: {}", fs::canonicalize(run.join("report.html"))?.display());
    Ok(())
}

fn plan(tiny: bool) -> Plan {
    let small = Plan { run_file: "fixtures/demo/tiny.toml", model: setup_path("fixtures/tiny-model"), library: None };
    if tiny {
        return small;
    }
    let fetched = setup::onnx_runtime().and_then(|library| Ok((library, setup::model()?)));
    match fetched {
        Ok((library, model)) => Plan { run_file: "fixtures/demo/smollm2.toml", model, library: Some(library) },
        Err(error) => {
            eprintln!(
                "\nThe model and the ONNX Runtime library could not be fetched, so this demo falls back to the tiny model in fixtures/, \
                 checked with tract alone. The reason:\n{error:#}\n"
            );
            small
        }
    }
}

fn setup_path(relative: &str) -> PathBuf {
    crate::shell::repository().join(relative)
}

fn target_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from)
}

fn read(path: &Path) -> anyhow::Result<Value> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))
}

/// The table at the end: tasks, parity, sizes, times.
fn summary(run: &Value, artifact: &Value, times: &[(&str, Duration)]) -> anyhow::Result<String> {
    let mut text = format!("{:<16}{:>10}{:>10}{:>10}{:>12}\n", "task", "metric", "before", "after", "validation");
    for task in list(run, "tasks") {
        let number = |key: &str| task[key].as_f64().map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"));
        writeln!(
            text,
            "{:<16}{:>10}{:>10}{:>10}{:>12}",
            task["name"].as_str().unwrap_or_default(),
            task["metric"].as_str().unwrap_or_default(),
            number("base_score"),
            number("score"),
            task["validation_examples"].to_string()
        )?;
    }
    writeln!(text, "\n{:<16}{:>10}{:>10}{:>10}{:>12}", "runtime", "max abs", "argmax", "checks", "passed")?;
    for runtime in list(&artifact["validation"], "runtimes") {
        let checks = list(runtime, "checks");
        // That check wants a difference; all others want none.
        let parity = || checks.iter().filter(|check| check["check"] != "differs-from-base");
        let all = |key: &str| parity().filter_map(|check| check[key].as_f64()).collect::<Vec<_>>();
        let worst = all("max_abs").into_iter().fold(0.0, f64::max);
        let agreement = all("argmax_agreement").into_iter().fold(1.0, f64::min);
        writeln!(
            text,
            "{:<16}{:>10}{:>10}{:>10}{:>12}",
            runtime["runtime"].as_str().unwrap_or_default(),
            format!("{worst:.1e}"),
            format!("{:.1} %", agreement * 100.0),
            checks.len(),
            runtime["passed"].to_string()
        )?;
    }
    let bytes: u64 = list(artifact, "files").iter().filter_map(|file| file["bytes"].as_u64()).sum();
    let peak = run["costs"]["peak_memory_bytes"].as_f64().unwrap_or_default();
    writeln!(text, "\nvalidated: {}", artifact["validated"])?;
    writeln!(text, "trainable parameters: {}", run["costs"]["trainable_parameters"])?;
    writeln!(text, "artifact: {:.1} MB, peak memory of training: {:.0} MB", bytes as f64 / 1e6, peak / 1e6)?;
    let times: Vec<String> = times.iter().map(|(name, time)| format!("{name} {:.1} s", time.as_secs_f64())).collect();
    writeln!(text, "times: {}", times.join(", "))?;
    if artifact["validated"] != Value::Bool(true) {
        bail!("{text}\nthe artifact is not validated");
    }
    Ok(text)
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}
