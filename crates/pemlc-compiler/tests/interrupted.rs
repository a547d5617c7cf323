//! Exports that a full disk or a kill ends midway, each in a process of its own.
#![cfg(target_os = "linux")]

#[allow(unreachable_pub, reason = "shared by several test files")]
mod support;

use pemlc_artifact::artifact::ArtifactManifest;
use pemlc_artifact::hash::first_difference;
use pemlc_compiler::{ExportOptions, export};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::fixture::{Fixture, PrefixKind, Spec};

/// Says to the child where the run is; the artifact goes beside it.
const RUN: &str = "PEMLC_INTERRUPTED_RUN";
/// Asks the child to write this file once the model is written, and then to wait for its end.
const PAUSE: &str = "PEMLC_INTERRUPTED_PAUSE";

/// Not a test of its own: what the children run.
#[test]
#[ignore = "run by the other tests of this file"]
fn child() {
    let Some(run) = std::env::var_os(RUN).map(PathBuf::from) else { return };
    let pause = std::env::var_os(PAUSE);
    let progress = &mut |step: &str| {
        if let Some(marker) = pause.as_ref().filter(|_| step.starts_with("model written")) {
            fs::write(marker, "").unwrap();
            std::thread::sleep(Duration::from_secs(600));
        }
    };
    if let Err(error) = export(&run, None, &run.with_file_name("out"), &ExportOptions::default(), progress) {
        eprintln!("export: {error}");
        std::process::exit(3);
    }
}

fn fixture() -> Fixture {
    Fixture::new(Spec { shared: true, private: true, prefix: Some(PrefixKind::Encoder), ..Spec::default() })
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_full_disk_is_an_error_that_leaves_nothing() {
    let fixture = fixture();
    let before = names(fixture.folder.path());
    // Files may have 8 KiB: the weights do not fit. Without the trap the shell's child would be killed instead.
    let script = "trap '' XFSZ; ulimit -f 16; exec \"$0\" --exact child --ignored --nocapture";
    let output = Command::new("/bin/sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .env(RUN, fixture.run())
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{error}");
    assert!(error.contains("cannot write") && error.contains("model.onnx.data"), "{error}");
    assert_eq!(names(fixture.folder.path()), before);
}

#[test]
fn a_killed_export_leaves_no_artifact_and_the_next_one_tidies_up() {
    let fixture = fixture();
    let before = names(fixture.folder.path());
    let markers = tempfile::tempdir().unwrap();
    let marker = markers.path().join("written");
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored"])
        .env(RUN, fixture.run())
        .env(PAUSE, &marker)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while !marker.exists() && start.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let paused = marker.exists();
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(paused, "the export never wrote its model");

    let out = fixture.folder.path().join("out");
    assert!(!out.exists());
    let left: Vec<String> = names(fixture.folder.path()).into_iter().filter(|name| !before.contains(name)).collect();
    let [building] = left.as_slice() else { panic!("{left:?}") };
    assert!(building.starts_with(".pemlc-building-"), "{building}");
    assert!(ArtifactManifest::read(&fixture.folder.path().join(building)).is_err(), "it looks finished");

    let exported = export(&fixture.run(), None, &out, &ExportOptions::default(), &mut |_| {}).unwrap();
    assert_eq!(first_difference(&out, &exported.manifest.files), None);
    assert!(!fixture.folder.path().join(building).exists());
}
