//! What the page is made of, read from the run directory and, when there is one, the artifact directory.

use anyhow::Context;
use pemlc_artifact::artifact::ArtifactManifest;
use pemlc_artifact::prompt::Architecture;
use pemlc_artifact::run::{RunManifest, RunPaths};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Everything that the page shows.
#[derive(Debug)]
pub(crate) struct Material {
    pub(super) run: RunManifest,
    pub(super) steps: Vec<Step>,
    pub(super) mixtures: Vec<Mixture>,
    pub(super) errors: BTreeMap<String, TaskErrors>,
    pub(super) architecture: Option<Architecture>,
    pub(super) artifact: Option<ArtifactManifest>,
}

/// One logged training step.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Step {
    pub(super) step: u64,
    pub(super) loss: f64,
    pub(super) phase: String,
}

/// What a search leaned to at a step: shares by name.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Mixture {
    pub(super) step: u64,
    /// By edge, `0->1`.
    pub(super) edges: Vec<(String, Vec<(String, f64)>)>,
    pub(super) lengths: Vec<(String, f64)>,
    /// Gates.
    pub(super) layers: Vec<f64>,
}

/// Standard errors of a task's two scores, where the metrics tell them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct TaskErrors {
    pub(crate) base: Option<f64>,
    pub(crate) trained: Option<f64>,
}

impl Material {
    /// Reads `run`'s manifest, metrics and architecture, and `artifact`'s manifest.
    pub(crate) fn read(run: &Path, artifact: Option<&Path>) -> anyhow::Result<Self> {
        let paths = RunPaths::new(run);
        let manifest = RunManifest::read(run).with_context(|| format!("{} is no finished run", run.display()))?;
        let architecture =
            if paths.architecture().is_file() { Some(Architecture::read(&paths.architecture())?) } else { None };
        let metrics = paths.metrics();
        let text = if metrics.is_file() {
            std::fs::read_to_string(&metrics).with_context(|| format!("cannot read {}", metrics.display()))?
        } else {
            String::new()
        };
        let (steps, mixtures, errors) =
            parse_metrics(&text).with_context(|| format!("{} is not as training writes it", metrics.display()))?;
        let artifact = artifact
            .map(|dir| ArtifactManifest::read(dir).with_context(|| format!("{} is no artifact", dir.display())))
            .transpose()?;
        Ok(Self { run: manifest, steps, mixtures, errors, architecture, artifact })
    }

    /// Standard errors of `task`'s scores.
    pub(crate) fn errors(&self, task: &str) -> TaskErrors {
        self.errors.get(task).copied().unwrap_or_default()
    }

    /// The run's manifest.
    pub(crate) fn run(&self) -> &RunManifest {
        &self.run
    }
}

type Metrics = (Vec<Step>, Vec<Mixture>, BTreeMap<String, TaskErrors>);

/// Steps have `step` and `loss`; scores have `task`, `base` and `standard_error`. Other lines are of no interest here. A resumed run
/// logs steps after its checkpoint twice: the later line counts.
fn parse_metrics(text: &str) -> anyhow::Result<Metrics> {
    let (mut steps, mut mixtures) = (BTreeMap::new(), BTreeMap::new());
    let mut errors: BTreeMap<String, TaskErrors> = BTreeMap::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let value: Value = serde_json::from_str(line).with_context(|| format!("line {}", index + 1))?;
        if let (Some(step), Some(loss)) = (value["step"].as_u64(), value["loss"].as_f64()) {
            let phase = value["phase"].as_str().unwrap_or_default().to_owned();
            steps.insert(step, Step { step, loss, phase });
        }
        if let (Some(step), Some(edges)) = (value["step"].as_u64(), value["mixture"]["edges"].as_object()) {
            mixtures.insert(step, mixture(step, edges, &value["mixture"]));
        }
        if let Some(task) = value["task"].as_str() {
            let entry = errors.entry(task.to_owned()).or_default();
            let error = value["standard_error"].as_f64().or_else(|| value["score"]["standard_error"].as_f64());
            if value["base"].as_bool() == Some(true) {
                entry.base = error;
            } else {
                entry.trained = error;
            }
        }
    }
    Ok((steps.into_values().collect(), mixtures.into_values().collect(), errors))
}

fn mixture(step: u64, edges: &serde_json::Map<String, Value>, value: &Value) -> Mixture {
    let shares = |value: &Value| -> Vec<(String, f64)> {
        let pairs = value.as_object().into_iter().flatten();
        pairs.map(|(name, share)| (name.clone(), share.as_f64().unwrap_or(0.0))).collect()
    };
    Mixture {
        step,
        edges: edges.iter().map(|(edge, value)| (edge.clone(), shares(value))).collect(),
        lengths: shares(&value["lengths"]),
        layers: value["layers"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resumed_step_counts_once() -> anyhow::Result<()> {
        let text = "{\"step\": 1, \"loss\": 2.0, \"phase\": \"search\"}\n{\"step\": 1, \"loss\": 1.5, \"phase\": \"search\"}\n\
                    {\"task\": \"a\", \"base\": true, \"standard_error\": 0.1}\n{\"task\": \"a\", \"base\": false, \"standard_error\": 0.2}\n\
                    {\"step\": 1, \"mixture\": {\"edges\": {\"0->1\": {\"skip\": 0.5}}}}\n";
        let (steps, mixtures, errors) = parse_metrics(text)?;
        assert_eq!(mixtures[0].edges[0], ("0->1".to_owned(), vec![("skip".to_owned(), 0.5)]));
        assert_eq!(steps, [Step { step: 1, loss: 1.5, phase: "search".to_owned() }]);
        assert_eq!(errors.get("a"), Some(&TaskErrors { base: Some(0.1), trained: Some(0.2) }));
        assert!(parse_metrics("{").is_err());
        Ok(())
    }
}
