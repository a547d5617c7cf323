//! `pemlc report`, and the page that other commands refresh.

use crate::Outcome;
use crate::arguments::ReportArguments;
use crate::report::{self, Material};
use anyhow::Context;
use std::path::{Path, PathBuf};

pub(crate) fn run(arguments: &ReportArguments) -> anyhow::Result<Outcome> {
    let path = write(&arguments.run, arguments.artifact.as_deref(), arguments.output.as_deref())?;
    println!("{}", path.display());
    Ok(Outcome::Done)
}

/// Writes the page of `run`, with the check of `artifact` when there is one, to `output` or the run's `report.html`.
pub(crate) fn write(run: &Path, artifact: Option<&Path>, output: Option<&Path>) -> anyhow::Result<PathBuf> {
    let material = Material::read(run, artifact)?;
    let path = output.map_or_else(|| run.join("report.html"), Path::to_owned);
    pemlc_artifact::atomic::write(&path, report::page(&material).as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
