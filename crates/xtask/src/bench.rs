//! `cargo xtask bench`: where the benchmarks are.

use anyhow::Context;
use std::fs;
use std::path::{Path, PathBuf};

/// Prints every `README.md` under `benches/`: each one holds its commands and the tables that they printed.
pub(crate) fn run() -> anyhow::Result<()> {
    let mut readmes = Vec::new();
    collect(Path::new("benches"), &mut readmes)?;
    readmes.sort();
    for path in readmes {
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        println!("==> {}\n\n{text}", path.display());
    }
    Ok(())
}

fn collect(folder: &Path, readmes: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, readmes)?;
        } else if path.file_name().is_some_and(|name| name == "README.md") {
            readmes.push(path);
        }
    }
    Ok(())
}
