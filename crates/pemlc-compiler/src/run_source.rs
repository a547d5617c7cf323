//! The run directory as the compiler reads it. Methods disappear here: what leaves is a normal form.

use crate::deltas;
use crate::export::ExportError;
use crate::ir::Tensor;
use crate::lower::projection_path;
use crate::normal_form::{NormalForm, Site};
use crate::private_scale::private_scales;
use crate::prompt::Prompt;
use pemlc_artifact::hash::first_difference;
use pemlc_artifact::manifest::ManifestError;
use pemlc_artifact::peft::{LoraAdapter, PeftError};
use pemlc_artifact::run::{LoraRecord, RoutingRecord, RunManifest, RunPaths};
use pemlc_artifact::tensors::TensorError;
use pemlc_artifact::{Checkpoint, ModelConfig};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a run directory cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// `run.json` is missing or wrong: training did not finish, or another version wrote it.
    #[error(
        "{0}. A run directory has run.json once `pemlc train` has finished; continue an interrupted run with --resume"
    )]
    Manifest(#[from] ManifestError),
    /// A file of the run cannot be read.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file of the run is not the one that `run.json` describes.
    #[error("{0} in run.json: the run was changed, or another training was interrupted in the same directory")]
    Changed(String),
    /// A tensor file cannot be read.
    #[error(transparent)]
    Tensors(#[from] TensorError),
    /// `prompt/architecture.json` cannot be read.
    #[error(transparent)]
    Architecture(ManifestError),
    /// The method has no weights for a task.
    #[error(
        "{path}: `{method}` chooses {top} of {experts} experts for each token, so there is no weight of a task that a graph could hold; \
         train a method whose experts are weighed by task instead: moelora, mtl-lora, poly or c-poly"
    )]
    ChosenByToken {
        /// The run.
        path: PathBuf,
        /// Its method.
        method: String,
        /// Experts of a layer.
        experts: usize,
        /// Experts of a token.
        top: usize,
    },
    /// An adapter folder cannot be read.
    #[error(transparent)]
    Adapter(#[from] PeftError),
}

/// What training found, as the compiler takes it.
pub(crate) struct Found {
    pub(crate) normal_form: NormalForm,
    /// Of each site with magnitudes that tasks share, what they are to the base model's weight; for the base model as a task.
    pub(crate) base_factors: BTreeMap<Site, Arc<Tensor>>,
}

/// An open run directory.
pub(crate) struct RunSource {
    pub(crate) manifest: RunManifest,
    paths: RunPaths,
}

impl RunSource {
    pub(crate) fn open(directory: &Path) -> Result<Self, SourceError> {
        let manifest = RunManifest::read(directory)?;
        let paths = RunPaths::new(directory);
        if manifest.tasks.is_empty() {
            return Err(SourceError::File { path: paths.manifest(), reason: "lists no tasks".to_owned() });
        }
        if let Some(RoutingRecord { experts, top }) = manifest.routing {
            let (path, method) = (directory.to_owned(), manifest.method);
            return Err(SourceError::ChosenByToken { path, method, experts, top });
        }
        // What becomes part of the artifact must be what this run.json describes, not the remains of another training.
        let parts = ["adapters/", "prompt/", "probes.safetensors"];
        let used = manifest.files.iter().filter(|file| parts.iter().any(|part| file.path.starts_with(part)));
        match first_difference(directory, &used.cloned().collect::<Vec<_>>()) {
            Some(difference) => Err(SourceError::Changed(difference)),
            None => Ok(Self { manifest, paths }),
        }
    }

    pub(crate) fn paths(&self) -> &RunPaths {
        &self.paths
    }

    /// What training found, its prompt excepted; with `include_base` also what turns magnitudes back for the base model as a task.
    pub(crate) fn deltas(&self, checkpoint: &Checkpoint, include_base: bool) -> Result<Found, ExportError> {
        let config = checkpoint.config();
        let mut factors = BTreeMap::new();
        let mut normal_form = NormalForm { tasks: self.manifest.tasks.len(), ..NormalForm::default() };
        if let Some(lora) = &self.manifest.lora {
            if lora.shared {
                let adapter = self.adapter(&self.paths.shared_lora(), lora, config)?;
                normal_form.shared = deltas::shared(&adapter, config);
                normal_form.magnitudes = deltas::magnitudes(&adapter);
                if include_base && !normal_form.magnitudes.is_empty() {
                    factors = private_scales(std::slice::from_ref(&adapter), checkpoint)?;
                }
            }
            if lora.per_task {
                let tasks = self.manifest.tasks.iter();
                let private: Vec<LoraAdapter> = tasks
                    .map(|task| self.private_adapter(&self.paths.task_lora(&task.name), lora, config))
                    .collect::<Result<_, _>>()?;
                normal_form.private = deltas::private(&private, config);
                normal_form.private_scale = private_scales(&private, checkpoint)?;
            }
        }
        Ok(Found { normal_form, base_factors: factors })
    }

    /// The prompt, if the run has one.
    pub(crate) fn prompt(&self, config: &ModelConfig) -> Result<Option<Prompt>, ExportError> {
        let read = |record| Prompt::read(&self.paths, record, config, &self.tasks());
        self.manifest.prefix.as_ref().map(read).transpose()
    }

    /// Names, in `task_id` order.
    pub(crate) fn tasks(&self) -> Vec<&str> {
        self.manifest.tasks.iter().map(|task| task.name.as_str()).collect()
    }

    /// As [`adapter`](Self::adapter), of one task.
    fn private_adapter(
        &self,
        directory: &Path,
        record: &LoraRecord,
        config: &ModelConfig,
    ) -> Result<LoraAdapter, SourceError> {
        if record.mixed && !directory.exists() {
            return Ok(LoraAdapter {
                rank: record.rank,
                alpha: record.alpha,
                own: BTreeMap::new(),
                dropout: 0.0,
                base_model: String::new(),
                weights: BTreeMap::new(),
            });
        }
        let adapter = if record.mixed {
            finite(directory, LoraAdapter::read(directory, config)?)?
        } else {
            self.adapter(directory, record, config)?
        };
        if record.shared && adapter.weights.values().any(|weights| weights.magnitude.is_some()) {
            let reason = "magnitudes (DoRA) of one task beside a delta that all tasks share: whose norms they are is not said; train \
                          them with lora.sharing = \"shared\"";
            return Err(SourceError::File { path: directory.to_owned(), reason: reason.to_owned() });
        }
        Ok(adapter)
    }

    /// The adapter in `directory`, which must be what `run.json` says: a forgotten alpha would change every answer in silence.
    fn adapter(&self, directory: &Path, record: &LoraRecord, config: &ModelConfig) -> Result<LoraAdapter, SourceError> {
        let adapter = finite(directory, LoraAdapter::read(directory, config)?)?;
        if (adapter.rank, adapter.alpha) != (record.rank, record.alpha) {
            let reason = format!(
                "rank {} and alpha {}, but run.json says rank {} and alpha {}",
                adapter.rank, adapter.alpha, record.rank, record.alpha
            );
            return Err(SourceError::File { path: directory.to_owned(), reason });
        }
        Ok(adapter)
    }
}

/// Refuses an adapter whose factors, the second times its scale, are not all numbers of f32.
fn finite(directory: &Path, adapter: LoraAdapter) -> Result<LoraAdapter, SourceError> {
    for (site, weights) in &adapter.weights {
        let scale = adapter.factor_of(*site) as f32;
        let scaled = weights.b.iter().map(|value| scale * value);
        if let Some(value) = weights.a.iter().copied().chain(scaled).find(|value| !value.is_finite()) {
            let site = projection_path(site.0, site.1);
            let reason = format!("the delta of `{site}` (scale {scale}) holds {value}: did training diverge?");
            return Err(SourceError::File { path: directory.to_owned(), reason });
        }
    }
    Ok(adapter)
}
