//! What stands beside the graphs, and the manifest that vouches for all of it.

use super::ExportError;
use crate::emit::MODEL_FILE;
use crate::model_card::model_card;
use crate::outputs::companions;
use crate::passes::PipelineOptions;
use crate::run_source::{RunSource, SourceError};
use crate::target::common_runtimes;
use pemlc_artifact::Checkpoint;
use pemlc_artifact::artifact::{ARTIFACT_SCHEMA_VERSION, Approximation, ArtifactManifest, GraphRecord};
use pemlc_artifact::hash::{FileHash, hash_directory};
use pemlc_artifact::probes::Probes;
use pemlc_artifact::run::TaskRecord;
use std::io;
use std::path::Path;

/// Metadata of every graph.
pub(super) fn metadata(source: &RunSource, tasks: &[&str]) -> Vec<(String, String)> {
    vec![
        ("pemlc.base_model".to_owned(), source.manifest.base.name.clone()),
        ("pemlc.method".to_owned(), source.manifest.method.clone()),
        ("pemlc.tasks".to_owned(), serde_json::json!(tasks).to_string()),
    ]
}

/// Tokenizer and configuration as the Hugging Face and onnxruntime-genai ecosystems name them, the adapters, the probes.
pub(super) fn write_companions(
    source: &RunSource,
    checkpoint: &Checkpoint,
    include_base: bool,
    directory: &Path,
) -> Result<(), ExportError> {
    for (name, text) in companions(checkpoint, MODEL_FILE)? {
        let path = directory.join(name);
        std::fs::write(&path, text).map_err(|source| ExportError::Io { path, source })?;
    }
    for name in ["adapters", "probes.safetensors"] {
        let (from, to) = (source.paths().root().join(name), directory.join(name));
        copy(&from, &to).map_err(|source| ExportError::Io { path: to, source })?;
    }
    if include_base && source.paths().probes().exists() {
        let base = i64::try_from(source.manifest.tasks.len()).unwrap_or(i64::MAX);
        let probes = Probes::read(&source.paths().probes()).map_err(SourceError::from)?;
        probes.with_base_task(base).write(&directory.join("probes.safetensors")).map_err(SourceError::from)?;
    }
    Ok(())
}

/// Copies a file or a folder, and what links point to; one that is absent is left out.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let kind = match std::fs::metadata(from) {
        Ok(metadata) => metadata.file_type(),
        // A link that leads nowhere is not an absent file.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !from.is_symlink() => return Ok(()),
        Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", from.display()))),
    };
    if kind.is_dir() {
        std::fs::create_dir_all(to)?;
        for entry in std::fs::read_dir(from)? {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
    } else if kind.is_file() {
        std::fs::copy(from, to)?;
    }
    Ok(())
}

/// What an export found out for the manifest.
pub(super) struct Facts {
    /// The task table.
    pub(super) records: Vec<TaskRecord>,
    pub(super) approximation: Option<Approximation>,
    pub(super) prompt_difference: Option<f64>,
}

/// Writes the model card, then `pemlc.json` with the hashes of all files.
pub(super) fn write_manifest(
    source: &RunSource,
    checkpoint: &Checkpoint,
    (model_files, graphs): (Vec<FileHash>, Vec<GraphRecord>),
    pipeline: &PipelineOptions,
    facts: Facts,
    directory: &Path,
) -> Result<ArtifactManifest, ExportError> {
    let run = &source.manifest;
    let mut manifest = ArtifactManifest {
        schema_version: ARTIFACT_SCHEMA_VERSION,
        pemlc_version: env!("CARGO_PKG_VERSION").to_owned(),
        base_model: run.base.name.clone(),
        base_licence: run.base.licence.clone(),
        config: checkpoint.config().clone(),
        method: run.method.clone(),
        tasks: facts.records,
        one_task_per_batch: pipeline.switch.is_uniform(),
        approximation: facts.approximation,
        opset: pipeline.target.opset.number(),
        ir_version: pipeline.target.opset.ir_version(),
        dtype: pipeline.precision.name().to_owned(),
        runtimes: common_runtimes(&[pipeline.precision.runtimes(), pipeline.target.runtimes()]),
        tolerance: pipeline.precision.tolerance(),
        max_distortion: pipeline.precision.distortion_bound(),
        profile: "causal-lm".to_owned(),
        encoder_difference: facts.prompt_difference,
        graphs,
        validation: None,
        validated: false,
        files: Vec::new(),
    };
    let card = directory.join("README.md");
    std::fs::write(&card, model_card(&manifest)).map_err(|source| ExportError::Io { path: card, source })?;
    // The model's files were hashed while they were written.
    let written = |path: &str| model_files.iter().any(|file| file.path == path);
    let others = hash_directory(directory, &written);
    let others = others.map_err(|source| ExportError::Io { path: directory.to_owned(), source })?;
    manifest.files = others.into_iter().chain(model_files.iter().cloned()).collect();
    manifest.files.sort_by(|left, right| left.path.cmp(&right.path));
    manifest.write(directory)?;
    Ok(manifest)
}
