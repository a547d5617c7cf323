//! One command a file.

mod bisect;
pub(crate) mod check;
pub(crate) mod compare;
pub(crate) mod diff;
pub(crate) mod evaluate;
pub(crate) mod export;
pub(crate) mod import;
pub(crate) mod inspect;
pub(crate) mod methods;
pub(crate) mod report;
pub(crate) mod run;
pub(crate) mod schemas;
pub(crate) mod search;
pub(crate) mod snapshot;
pub(crate) mod tasks;
pub(crate) mod train;

use anyhow::Context;
use pemlc_artifact::artifact::ArtifactManifest;
use std::path::Path;

/// The manifest of the artifact at `dir`.
fn open_artifact(dir: &Path) -> anyhow::Result<ArtifactManifest> {
    ArtifactManifest::read(dir)
        .with_context(|| format!("{} is no artifact directory that `pemlc export` wrote", dir.display()))
}
