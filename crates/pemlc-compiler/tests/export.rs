//! What an export leaves, and what it refuses.

#[allow(unreachable_pub, reason = "shared by several test files")]
mod support;

use pemlc_artifact::artifact::ArtifactManifest;
use pemlc_artifact::destination::DestinationError;
use pemlc_artifact::hash::{first_difference, hash_directory};
use pemlc_artifact::run::RunManifest;
use pemlc_artifact::tensors::{self, Values};
use pemlc_compiler::passes::{PipelineOptions, Precision};
use pemlc_compiler::{ExportError, ExportOptions, export};
use std::fs;
use std::path::Path;
use support::fixture::{Fixture, PrefixKind, Spec};

fn everything() -> Spec {
    Spec { shared: true, private: true, prefix: Some(PrefixKind::Encoder), ..Spec::default() }
}

fn try_export(fixture: &Fixture, base: Option<&Path>, force: bool) -> Result<ArtifactManifest, ExportError> {
    export(
        &fixture.run(),
        base,
        &fixture.folder.path().join("out"),
        &ExportOptions { force, ..ExportOptions::default() },
        &mut |_| {},
    )
    .map(|exported| exported.manifest)
}

/// The error of an export that must fail, with the fixture's folder elided; nothing may be left behind.
fn refused(fixture: &Fixture, base: Option<&Path>) -> String {
    let error = try_export(fixture, base, false).unwrap_err().to_string();
    let mut left: Vec<String> = fs::read_dir(fixture.folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name != "model" && name != "run" && name != "other")
        .collect();
    left.sort();
    assert!(left.is_empty(), "left behind: {left:?}");
    error.replace(&fixture.folder.path().display().to_string(), "FOLDER")
}

#[test]
fn the_artifact_directory_is_complete() {
    let fixture = Fixture::new(everything());
    fs::write(fixture.run().join("probes.safetensors"), "probes").unwrap();
    let manifest = try_export(&fixture, None, false).unwrap();
    let out = fixture.folder.path().join("out");
    assert_eq!(ArtifactManifest::read(&out).unwrap(), manifest);
    assert_eq!(first_difference(&out, &manifest.files), None);
    let on_disk = hash_directory(&out, &|path| path == "pemlc.json").unwrap();
    assert_eq!(on_disk, manifest.files);
    let names: Vec<&str> = manifest.files.iter().map(|file| file.path.as_str()).collect();
    insta::assert_snapshot!(names.join("\n"));
    assert!(!manifest.validated && manifest.validation.is_none());
    let difference = manifest.encoder_difference.unwrap();
    assert!(difference <= 1e-5, "{difference}");
    assert_eq!((manifest.opset, manifest.ir_version, manifest.tasks.len()), (18, 8, 3));
}

#[test]
fn the_model_card() {
    let fixture = Fixture::new(Spec { shared: true, ..Spec::default() });
    let card = fs::read_to_string(fixture.export().join("README.md")).unwrap();
    insta::assert_snapshot!(card.replace(env!("CARGO_PKG_VERSION"), "VERSION"));
}

#[test]
fn a_number_type_of_a_later_opset_is_refused() {
    let fixture = Fixture::new(Spec { shared: true, ..Spec::default() });
    let out = fixture.folder.path().join("out");
    let pipeline = PipelineOptions { precision: Precision::Int4, ..PipelineOptions::default() };
    let options = ExportOptions { pipeline, ..ExportOptions::default() };
    let error = export(&fixture.run(), None, &out, &options, &mut |_| {}).unwrap_err();
    let expected = "--dtype int4 needs opset 21, 18 was asked for: leave out --opset, or use --target ort";
    assert_eq!(error.to_string(), expected);
    assert!(!out.exists());
}

#[test]
fn an_existing_directory_is_replaced_only_by_force() {
    let fixture = Fixture::new(Spec { shared: true, ..Spec::default() });
    let out = fixture.folder.path().join("out");
    fs::create_dir_all(&out).unwrap();
    fs::write(out.join("precious"), "x").unwrap();
    let error = try_export(&fixture, None, false).unwrap_err();
    assert!(matches!(&error, ExportError::Output(DestinationError::NotEmpty(path)) if *path == out), "{error}");
    assert_eq!(fs::read_to_string(out.join("precious")).unwrap(), "x");
    // Nor is anything deleted that is no artifact.
    let error = try_export(&fixture, None, true).unwrap_err().to_string();
    assert!(error.contains("out holds no pemlc.json, so it is nothing that --force may delete"), "{error}");
    fs::remove_file(out.join("precious")).unwrap();
    try_export(&fixture, None, true).unwrap();
    fs::write(out.join("added"), "x").unwrap();
    try_export(&fixture, None, true).unwrap();
    assert!(!out.join("added").exists() && out.join("pemlc.json").exists());
}

#[test]
fn what_is_read_is_never_replaced() {
    let fixture = Fixture::new(Spec { shared: true, ..Spec::default() });
    let options = ExportOptions { force: true, ..ExportOptions::default() };
    for out in [fixture.run(), fixture.folder.path().to_owned(), fixture.model().to_owned()] {
        let error = export(&fixture.run(), None, &out, &options, &mut |_| {}).unwrap_err();
        assert!(matches!(error, ExportError::Output(DestinationError::Foreign { .. })), "{error}");
    }
    // An artifact that the run was moved into.
    let out = fixture.folder.path().join("out");
    try_export(&fixture, None, false).unwrap();
    fs::rename(fixture.run(), out.join("run")).unwrap();
    let error = export(&out.join("run"), None, &out, &options, &mut |_| {}).unwrap_err().to_string();
    assert!(error.ends_with("out/run, which is an input: choose another output directory"), "{error}");
    assert!(out.join("run/run.json").is_file());
}

#[cfg(unix)]
#[test]
fn linked_parts_of_a_run_are_copied() {
    let fixture = Fixture::new(everything());
    let (adapters, elsewhere) = (fixture.run().join("adapters"), fixture.folder.path().join("elsewhere"));
    fs::rename(&adapters, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &adapters).unwrap();
    let out = fixture.export();
    assert!(out.join("adapters/shared/adapter_config.json").is_file() && !out.join("adapters").is_symlink());
}

#[test]
fn the_example_of_a_card_has_the_caches_type_and_tasks_their_scoring() {
    let fixture = Fixture::new(Spec { shared: true, ..Spec::default() });
    let mut run = RunManifest::read(&fixture.run()).unwrap();
    run.tasks[1].separator = Some("\n".to_owned());
    run.tasks[1].normalize = Some("tokens".to_owned());
    run.write(&fixture.run()).unwrap();
    let pipeline = PipelineOptions { precision: Precision::F16, ..PipelineOptions::default() };
    let options = ExportOptions { pipeline, ..ExportOptions::default() };
    let out = fixture.folder.path().join("out");
    export(&fixture.run(), None, &out, &options, &mut |_| {}).unwrap();
    let card = fs::read_to_string(out.join("README.md")).unwrap();
    assert!(card.contains("np.float16)") && !card.contains("np.float32)"), "{card}");
    let scoring = "An answer stands behind `\"\\n\"`.\n\nAnswers are compared by their log-likelihood over the number of their tokens.";
    assert!(card.contains(scoring), "{card}");
}

#[test]
fn a_scale_that_f32_cannot_hold_is_refused() {
    let fixture = Fixture::new(Spec { shared: true, ..Spec::default() });
    let config = fixture.run().join("adapters/shared/adapter_config.json");
    let mut settings: serde_json::Value = serde_json::from_str(&fs::read_to_string(&config).unwrap()).unwrap();
    settings["lora_alpha"] = 1e40.into();
    fs::write(&config, settings.to_string()).unwrap();
    let mut manifest = RunManifest::read(&fixture.run()).unwrap();
    manifest.lora.as_mut().unwrap().alpha = 1e40;
    manifest.write(&fixture.run()).unwrap();
    let error = refused(&fixture, None);
    assert!(error.starts_with("FOLDER/run/adapters/shared: the delta of `layers.0."), "{error}");
    assert!(error.contains("(scale inf) holds"), "{error}");
}

#[test]
fn numbers_that_are_none_are_refused_in_f32_too() {
    let fixture = Fixture::new(Spec { shared: true, ..Spec::default() });
    let weights = fixture.run().join("adapters/shared/adapter_model.safetensors");
    let mut changed = tensors::read(&weights).unwrap();
    let name = "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight";
    if let Values::F32(values) = &mut changed.get_mut(name).unwrap().values {
        values[0] = f32::INFINITY;
    }
    tensors::write(&weights, &changed).unwrap();
    insta::assert_snapshot!(refused(&fixture, None), @"
    FOLDER/run/adapters/shared/adapter_model.safetensors: 1 tensors do not fit adapter_config.json and the base model:
      base_model.model.model.layers.1.mlp.up_proj.lora_B.weight holds inf
    ");
    // Weights of the base model are numbers too.
    let fixture = Fixture::new(Spec { shared: true, ..Spec::default() });
    let weights = fixture.model().join("model.safetensors");
    let mut changed = tensors::read(&weights).unwrap();
    if let Values::F32(values) = &mut changed.get_mut("model.layers.0.mlp.up_proj.weight").unwrap().values {
        values[17] = f32::NAN;
    }
    tensors::write(&weights, &changed).unwrap();
    let mut manifest = RunManifest::read(&fixture.run()).unwrap();
    manifest.base.files = pemlc_artifact::Checkpoint::open(&fixture.model()).unwrap().file_hashes().unwrap();
    manifest.write(&fixture.run()).unwrap();
    insta::assert_snapshot!(refused(&fixture, None), @"weight `layers.0.mlp.up_proj.weight`: the value at row 1, column 1 is NaN: the base model's file or the training is broken");
}

#[test]
fn another_base_model_is_refused() {
    let fixture = Fixture::new(Spec { shared: true, ..Spec::default() });
    let other = fixture.folder.path().join("other");
    fs::create_dir_all(&other).unwrap();
    for entry in fs::read_dir(fixture.model()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), other.join(entry.file_name())).unwrap();
    }
    // The same files elsewhere are the same model.
    try_export(&fixture, Some(&other), false).unwrap();
    fs::remove_dir_all(fixture.folder.path().join("out")).unwrap();
    let weights = other.join("model.safetensors");
    let mut changed = tensors::read(&weights).unwrap();
    if let Values::F32(values) = &mut changed.get_mut("model.norm.weight").unwrap().values {
        values[0] += 1.0;
    }
    tensors::write(&weights, &changed).unwrap();
    let error = refused(&fixture, Some(&other));
    assert!(
        error.starts_with("FOLDER/other is not the base model of this run: model.safetensors has SHA-256"),
        "{error}"
    );
    assert!(error.ends_with("Pass the right one with --base"), "{error}");
}

#[test]
fn a_run_that_did_not_finish_is_refused() {
    let fixture = Fixture::new(Spec { shared: true, ..Spec::default() });
    fs::remove_file(fixture.run().join("run.json")).unwrap();
    let error = refused(&fixture, None);
    assert!(error.contains("run.json") && error.contains("--resume"), "{error}");
}

#[test]
fn an_adapter_with_another_alpha_is_refused() {
    let fixture = Fixture::new(Spec { shared: true, ..Spec::default() });
    let mut manifest = RunManifest::read(&fixture.run()).unwrap();
    manifest.lora.as_mut().unwrap().alpha = 3.0;
    manifest.write(&fixture.run()).unwrap();
    insta::assert_snapshot!(refused(&fixture, None), @"FOLDER/run/adapters/shared: rank 3 and alpha 6, but run.json says rank 3 and alpha 3");
}

#[test]
fn a_run_whose_files_are_of_another_training_is_refused() {
    let fixture = Fixture::new(everything());
    let mut manifest = RunManifest::read(&fixture.run()).unwrap();
    manifest.files = hash_directory(&fixture.run(), &|path| path == "run.json").unwrap();
    manifest.write(&fixture.run()).unwrap();
    try_export(&fixture, None, false).unwrap();
    fs::remove_dir_all(fixture.folder.path().join("out")).unwrap();
    let weights = "adapters/topic/lora/adapter_model.safetensors";
    fs::copy(fixture.run().join("adapters/sentiment/lora/adapter_model.safetensors"), fixture.run().join(weights))
        .unwrap();
    let error = refused(&fixture, None);
    assert!(error.starts_with(&format!("FOLDER/run/{weights}: SHA-256")), "{error}");
}

#[test]
fn broken_prompts_name_file_and_tensor() {
    let fixture = Fixture::new(everything());
    let encoder = fixture.run().join("prompt/encoder.safetensors");
    let whole = tensors::read(&encoder).unwrap();

    let mut missing = whole.clone();
    missing.remove("edges.3.k.bias");
    tensors::write(&encoder, &missing).unwrap();
    insta::assert_snapshot!(refused(&fixture, None), @"FOLDER/run/prompt/encoder.safetensors: tensor `edges.3.k.bias`: expected f32 [8], found no such tensor");

    let mut reshaped = whole.clone();
    reshaped.get_mut("head.1.bias").unwrap().shape = vec![4, 4];
    tensors::write(&encoder, &reshaped).unwrap();
    insta::assert_snapshot!(refused(&fixture, None), @"FOLDER/run/prompt/encoder.safetensors: tensor `head.1.bias`: expected f32 [16], found f32 [4, 4]");

    tensors::write(&encoder, &whole).unwrap();
    let architecture = fixture.run().join("prompt/architecture.json");
    let text = fs::read_to_string(&architecture).unwrap();
    fs::write(&architecture, text.replacen("\"from\": 1", "\"from\": 7", 1)).unwrap();
    insta::assert_snapshot!(refused(&fixture, None), @"FOLDER/run/prompt/architecture.json: edge 3 goes from node 7 to node 2: nodes are 0 to 2 and edges go forward");
}
