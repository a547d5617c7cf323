//! `cargo xtask schemas`: JSON Schemas of what is on disk, from the types.

use crate::shell::{capture, cargo};
use anyhow::{Context, bail};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const FOLDER: &str = "schemas";

pub(crate) fn run(check: bool) -> anyhow::Result<()> {
    if !check {
        print!("{}", generate(Path::new(FOLDER))?);
        return Ok(());
    }
    let scratch = Path::new("target/schemas");
    if scratch.exists() {
        fs::remove_dir_all(scratch)?;
    }
    generate(scratch)?;
    if read(scratch)? != read(Path::new(FOLDER))? {
        bail!("{FOLDER}/ is not what the types say: run `cargo xtask schemas`");
    }
    Ok(())
}

fn generate(folder: &Path) -> anyhow::Result<String> {
    capture(cargo().args(["run", "--quiet", "--package", "pemlc", "--", "schemas"]).arg(folder))
}

fn read(folder: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let entry = entry?;
        files.insert(entry.file_name().to_string_lossy().into_owned(), fs::read_to_string(entry.path())?);
    }
    Ok(files)
}
