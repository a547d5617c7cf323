//! Output whose reader has gone, as in `pemlc methods | head -1`, or that cannot be written.
#![cfg(unix)]

mod common;

use common::{describe, pemlc, tiny};
use std::path::Path;
use std::process::Stdio;

/// The end of a pipe that nobody reads.
fn unread() -> Stdio {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

#[test]
fn a_reader_that_has_gone_is_no_error() {
    let output = pemlc().arg("methods").stdout(unread()).output().expect("the binary starts");
    assert_eq!(describe(&output, Path::new("/nowhere")), "exit code: 0\n-- stdout\n-- stderr\n");
    let help = pemlc().arg("--help").stdout(unread()).output().expect("the binary starts");
    assert_eq!(describe(&help, Path::new("/nowhere")), "exit code: 0\n-- stdout\n-- stderr\n");
}

#[test]
fn the_exit_code_says_how_it_ended_whoever_reads() {
    let mut command = pemlc();
    command.args(["inspect", "/nowhere/model.onnx"]).stdout(unread()).stderr(unread());
    assert_eq!(command.status().expect("the binary starts").code(), Some(1));
}

#[cfg(target_os = "linux")]
#[test]
fn output_that_cannot_be_written_is_an_error() {
    let full = std::fs::File::options().write(true).open("/dev/full").expect("a device of Linux");
    let output = pemlc().arg("methods").stdout(full).output().expect("the binary starts");
    let text = describe(&output, Path::new("/nowhere"));
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("error: cannot write to standard output: "), "{text}");
}

#[test]
fn an_export_is_checked_though_nobody_reads() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (run, artifact) = (folder.path().join("run"), folder.path().join("artifact"));
    let file = tiny::run_file(folder.path(), 3);
    let mut train = pemlc();
    train.arg("train").arg(file).args(["--device", "cpu", "--output"]).arg(&run).stdout(unread()).stderr(unread());
    assert_eq!(train.status().expect("the binary starts").code(), Some(0));
    let mut export = pemlc();
    export.arg("export").args([&run, &artifact]).args(["--runtime", "tract", "--drawn", "1"]);
    let status = export.stdout(unread()).stderr(unread()).status().expect("the binary starts");
    assert_eq!(status.code(), Some(0));
    let manifest = std::fs::read_to_string(artifact.join("pemlc.json")).expect("the manifest");
    assert!(manifest.contains("\"validated\": true"), "{manifest}");
}
