//! The built binary, run as a user runs it.
#![allow(dead_code)] // Each test file uses its own part of this.

pub(crate) mod peft;
pub(crate) mod tiny;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The binary, without what the surroundings might tell it.
pub(crate) fn pemlc() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pemlc"));
    command.env_remove("COLUMNS").env_remove("RUST_BACKTRACE").stdin(std::process::Stdio::null());
    command
}

/// Runs the binary with these arguments.
pub(crate) fn run<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Output {
    pemlc().args(arguments).output().expect("the binary starts")
}

/// Fails with everything that the binary said, unless it exited with 0.
pub(crate) fn succeed<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{}", describe(&output, Path::new("/nowhere")));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Exit code and both streams, with `folder` written as `[FOLDER]` and the repository as `[REPO]`.
pub(crate) fn describe(output: &Output, folder: &Path) -> String {
    let text = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).replace(&folder.display().to_string(), "[FOLDER]");
        text.replace(&repository().display().to_string(), "[REPO]")
    };
    let code = output.status.code().map_or_else(|| output.status.to_string(), |code| code.to_string());
    format!("exit code: {code}\n-- stdout\n{}-- stderr\n{}", text(&output.stdout), text(&output.stderr))
}

/// The repository's root.
pub(crate) fn repository() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the crate lies in crates/");
    root.to_owned()
}
