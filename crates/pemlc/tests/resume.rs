//! Ctrl-C, then kill -9, then a run to the end: bitwise the adapters of a run that nothing disturbed.
#![cfg(unix)]

mod common;

use common::{pemlc, tiny};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const STEPS: u32 = 300;

fn train(file: &Path, output: &Path, resume: bool) -> Command {
    let mut command = pemlc();
    command.arg("train").arg(file).args(["--device", "cpu", "--output"]).arg(output);
    if resume {
        command.arg("--resume");
    }
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// The newest checkpoint's name and time, if there is any.
fn newest(output: &Path) -> Option<(std::time::SystemTime, std::ffi::OsString)> {
    let entries = std::fs::read_dir(output.join("checkpoints")).ok()?;
    entries
        .filter_map(Result::ok)
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.file_name())))
        .max()
}

/// Starts training and waits until it has written a checkpoint that was not there before.
fn start(file: &Path, output: &Path, resume: bool) -> Child {
    let before = newest(output);
    let mut child = train(file, output, resume).spawn().expect("the binary starts");
    let deadline = Instant::now() + Duration::from_secs(120);
    while newest(output) == before {
        assert!(Instant::now() < deadline, "no checkpoint within two minutes");
        assert!(child.try_wait().expect("a child").is_none(), "training ended before its first checkpoint");
        std::thread::sleep(Duration::from_millis(2));
    }
    child
}

/// Bytes of every file below `folder`, by path.
fn contents(folder: &Path) -> BTreeMap<std::path::PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder).expect("the folder exists") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(contents(&path));
        } else {
            files.insert(path.clone(), std::fs::read(&path).expect("the file is read"));
        }
    }
    files
}

fn trained(output: &Path) -> BTreeMap<std::path::PathBuf, Vec<u8>> {
    let files = ["adapters", "prompt"].iter().flat_map(|name| contents(&output.join(name)));
    files.map(|(path, bytes)| (path.strip_prefix(output).expect("below the run").to_owned(), bytes)).collect()
}

#[test]
fn an_interrupted_run_ends_as_an_uninterrupted_one() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = tiny::run_file(folder.path(), STEPS);
    let (whole, broken) = (folder.path().join("whole"), folder.path().join("broken"));
    let output = train(&file, &whole, false).output().expect("the binary starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let child = start(&file, &broken, false);
    let signal = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill starts");
    assert!(signal.success());
    let output = child.wait_with_output().expect("a child");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(130), "{errors}");
    assert!(errors.contains("pemlc train") && errors.contains("--resume"), "{errors}");
    assert!(!broken.join("run.json").exists(), "an interrupted run looks finished");

    let mut child = start(&file, &broken, true);
    child.kill().expect("the child is killed");
    child.wait().expect("a child");
    assert!(!broken.join("run.json").exists(), "it finished before it was killed: the test needs more steps");

    let output = train(&file, &broken, true).output().expect("the binary starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (expected, found) = (trained(&whole), trained(&broken));
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (path, bytes) in &expected {
        assert!(found.get(path) == Some(bytes), "{} differs", path.display());
    }
}
