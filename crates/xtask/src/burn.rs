//! `cargo xtask burn-check`: exported graphs through burn's own importer. A workspace of its own, and minutes to build, so that no test runs it.

use crate::shell::{cargo, repository, run as shell};
use anyhow::Context;
use std::fs;
use std::path::Path;
use std::process::Command;

/// A run, and what it is exported as: name and arguments.
struct Plan {
    name: &'static str,
    run_file: &'static str,
    settings: &'static [&'static str],
    exports: &'static [(&'static str, &'static [&'static str])],
}

const PLANS: [Plan; 2] = [
    Plan {
        name: "shared-and-private",
        run_file: "fixtures/demo/tiny.toml",
        settings: &["training.steps=60", "lora.sharing=\"both\"", "lora.rank=4"],
        exports: &[
            ("gather", &["--task-switch", "gather", "--also", "per-task"]),
            ("masked", &["--task-switch", "masked"]),
        ],
    },
    Plan {
        name: "one-task",
        run_file: "tests/burn-import/one-task.toml",
        settings: &["training.steps=60"],
        exports: &[("one-task", &[])],
    },
];

pub(crate) fn run() -> anyhow::Result<()> {
    shell(cargo().args(["build", "--locked", "--package", "pemlc"]))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), Into::into);
    let (pemlc, folder) = (target.join("debug/pemlc"), target.join("burn-check"));
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove the last {}", folder.display()))?;
    }
    let graphs = folder.join("graphs");
    fs::create_dir_all(&graphs).with_context(|| format!("cannot make {}", graphs.display()))?;
    for plan in PLANS {
        let run = folder.join(plan.name);
        let mut train = Command::new(&pemlc);
        train.args(["train", plan.run_file, "--device", "cpu", "--output"]).arg(&run);
        for setting in plan.settings {
            train.args(["--set", setting]);
        }
        shell(&mut train)?;
        for (name, arguments) in plan.exports {
            shell(
                Command::new(&pemlc).arg("export").arg(&run).arg(graphs.join(name)).arg("--no-check").args(*arguments),
            )?;
        }
    }
    import(&graphs, &target.join("burn-import"))
}

fn import(graphs: &Path, target: &Path) -> anyhow::Result<()> {
    let mut command = cargo();
    command.args(["run", "--locked", "--manifest-path", "tests/burn-import/Cargo.toml"]);
    shell(command.env("PEMLC_BURN_GRAPHS", graphs.canonicalize()?).env("CARGO_TARGET_DIR", target))?;
    Ok(())
}
