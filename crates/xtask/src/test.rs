//! `cargo xtask test`: what CI runs, in the order that fails fastest; test results come last.

use crate::setup;
use crate::shell::{cargo, run as shell};
use clap::{Args, ValueEnum};

#[derive(Debug, Args)]
pub(crate) struct TestArguments {
    /// Run one part alone
    #[arg(long, value_enum)]
    only: Option<Part>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// cargo fmt --check
    Format,
    /// cargo clippy, warnings denied
    Clippy,
    /// cargo doc, warnings denied
    Doc,
    /// cargo test, doctests included
    Test,
}

pub(crate) fn run(arguments: &TestArguments) -> anyhow::Result<()> {
    let wanted = |part: Part| arguments.only.is_none_or(|only| only == part);
    // Fetched first: without it nothing below would be worth its time.
    let library = wanted(Part::Test).then(setup::onnx_runtime).transpose()?;
    if wanted(Part::Format) {
        shell(cargo().args(["fmt", "--all", "--check"]))?;
    }
    if wanted(Part::Clippy) {
        shell(cargo().args(["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]))?;
    }
    if wanted(Part::Doc) {
        let mut doc = cargo();
        doc.args(["doc", "--workspace", "--no-deps", "--document-private-items", "--locked"]);
        shell(doc.env("RUSTDOCFLAGS", "-D warnings"))?;
    }
    if let Some(library) = library {
        let mut test = cargo();
        test.args(["test", "--workspace", "--locked"]);
        shell(test.env(setup::ORT_VARIABLE, library).env("PEMLC_REQUIRE_ORT", "1"))?;
    }
    Ok(())
}
