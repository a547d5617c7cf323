//! Narrows a difference between two runtimes to the first node that one of them computes wrongly.
//!
//! The checks run on both at once, and the case in which their logits are farthest apart is run again with the values inside the graph
//! as outputs, some nodes at a time. Each node's output on each side is held to an f64 reference *from the inputs that this side had*:
//! what came before cannot make a node look wrong, and rounding that adds up blames none ([`mod@reference`]).

mod difference;
mod graph;
mod narrow;
mod observe;
mod pair;
mod reference;
mod report;
mod value;

pub use difference::Difference;
pub use report::{Bisection, Culprit, Element, Growth, Hidden, Operand, Step, Verdict};

use crate::check::{CheckError, Prepared};
use crate::{CheckOptions, RawTensor, RuntimeError, RuntimeKind, Session as _, open};
use graph::Graph;
use narrow::{Question, narrow};
use pair::{Case, Pair};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use value::{NumberType, Numbers, Value};

/// A difference of so many times the tolerance is no longer rounding. Of a smaller one that goes when values are read, nothing follows: without
/// its optimisations a runtime rounds as the other does.
const ROUNDED_OTHERWISE: f64 = 30.0;

/// Why a difference cannot be looked into.
#[derive(Debug, thiserror::Error)]
pub enum BisectError {
    /// The artifact cannot be checked.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// The graph cannot be read.
    #[error("{}: {message}", path.display())]
    Graph {
        /// The graph.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// The two sides are the same.
    #[error("{0} cannot differ from itself: name two runtimes, for instance `tract,ort-cpu-unoptimized`")]
    SameSides(RuntimeKind),
}

/// One of the two that are compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Side {
    /// The runtime.
    pub runtime: RuntimeKind,
    /// Another file for it to run than the artifact's `model.onnx`, of the same names: what was done to it is then what is found.
    pub model: Option<PathBuf>,
}

impl From<RuntimeKind> for Side {
    fn from(runtime: RuntimeKind) -> Self {
        Self { runtime, model: None }
    }
}

/// The two runtimes to compare when none or one is named: the one named or the first whose recorded check failed, or else ONNX Runtime;
/// against ONNX Runtime without optimisations, which runs what the file says node by node.
pub fn default_sides(dir: &Path, wanted: &[RuntimeKind]) -> Result<[RuntimeKind; 2], BisectError> {
    let manifest = pemlc_artifact::artifact::ArtifactManifest::read(dir).map_err(CheckError::from)?;
    let knows =
        |kind: RuntimeKind| manifest.runtimes.is_empty() || manifest.runtimes.iter().any(|name| name == kind.name());
    let recorded = manifest.validation.iter().flat_map(|validation| &validation.runtimes);
    let failed = recorded.filter(|runtime| !runtime.passed).find_map(|runtime| runtime.runtime.parse().ok());
    let first = wanted.first().copied().or(failed).unwrap_or(RuntimeKind::OrtCpu);
    let second = wanted.get(1).copied().unwrap_or(match first {
        RuntimeKind::OrtCpuUnoptimized if knows(RuntimeKind::Tract) => RuntimeKind::Tract,
        RuntimeKind::OrtCpuUnoptimized => RuntimeKind::OrtCpu,
        _ => RuntimeKind::OrtCpuUnoptimized,
    });
    Ok([first, second])
}

/// Looks into the case in which two runtimes differ most on `model.onnx` of the artifact at `dir`.
///
/// Every check runs on both; `options` say how. `progress` sees a line for each step. Nothing is written.
///
/// # Errors
/// When the artifact cannot be checked, a runtime is not available or does not load the graph, and when both sides are the same.
pub fn bisect(
    dir: &Path,
    sides: &[Side; 2],
    options: &CheckOptions,
    progress: &mut dyn FnMut(&str),
) -> Result<Bisection, BisectError> {
    if sides[0] == sides[1] {
        return Err(BisectError::SameSides(sides[0].runtime));
    }
    let kinds: Vec<RuntimeKind> = sides.iter().map(|side| side.runtime).collect();
    let options = CheckOptions { runtimes: Some(kinds), ..options.clone() };
    let prepared = Prepared::read(dir, &options, progress)?;
    let path = prepared.paths.graph();
    let models = [0, 1].map(|side| sides[side].model.clone().unwrap_or_else(|| path.clone()));
    let name = |side: &Side| match &side.model {
        Some(model) => format!("{} ({})", side.runtime, model.display()),
        None => side.runtime.to_string(),
    };
    let names = [name(&sides[0]), name(&sides[1])];

    let (failed, case, cache) = {
        progress("loading the graph on both");
        let session = |side: usize| open(sides[side].runtime, &models[side], &options.open).map_err(CheckError::from);
        let mut pair = Pair::new([session(0)?, session(1)?], prepared.tolerances.base(), prepared.tasks.len());
        let checks = prepared.battery(&mut pair, None, &options, "both", progress).checks;
        let failed = checks.iter().filter(|check| !check.passed);
        let failed = failed.map(|check| {
            let task = check.task.as_deref().map(|task| format!(" of {task}")).unwrap_or_default();
            format!("{}{task}: {}", check.check, check.detail)
        });
        // The sessions are closed here: what follows loads the graph anew, with other outputs.
        (failed.collect::<Vec<_>>(), pair.smallest().map(|case| (case, pair.runs)), pair.cache_shape())
    };
    let done = |case: Option<String>, beyond_tolerance: bool, verdict: Verdict| Bisection {
        sides: names.clone(),
        case,
        beyond_tolerance,
        failed: failed.clone(),
        verdict,
    };
    let Some((case, runs)) = case else { return Ok(done(None, false, Verdict::Same)) };
    let described = Some(describe(&case, &names, prepared.tolerances.base(), runs));
    let (beyond, large) = (case.excess > 1.0, case.excess > ROUNDED_OTHERWISE);
    if let Some(failure) = &case.error {
        let (runtime, message) = (names[failure.side].clone(), failure.message.clone());
        return Ok(done(described, beyond, Verdict::Fails { runtime, message }));
    }
    if case.difference == 0.0 {
        return Ok(done(described, beyond, Verdict::Same));
    }

    progress("reading values inside the graph");
    let graph = Graph::read(&path)?;
    let altered = [0, 1].map(|side| sides[side].model.as_deref().map(Graph::read));
    let [one, other] = altered;
    let graphs = [one.transpose()?, other.transpose()?];
    let wanted = graph.inputs();
    let feed: Vec<_> = case.inputs.feed(cache).into_iter().filter(|(name, _)| wanted.contains(name)).collect();
    let inputs: BTreeMap<String, Value> = feed.iter().map(|(name, tensor)| (name.clone(), given(tensor))).collect();
    let question = Question { graph: &graph, inputs: &inputs, differing: large.then_some(("logits", case.difference)) };
    let mut observe = |side: usize, values: &[String]| -> Result<narrow::Observed, RuntimeError> {
        let of_side = graphs[side].as_ref().unwrap_or(&graph);
        observe::observe(sides[side].runtime, of_side, values, &feed, &options.open)
    };
    let verdict = narrow(&question, &mut observe, progress)?;
    Ok(done(described, beyond, verdict))
}

/// An input as its numbers go in.
fn given(tensor: &RawTensor) -> Value {
    let float = |number_type, numbers: Vec<f32>, shape: &[usize]| {
        Value::new(number_type, shape.to_vec(), Numbers::Float(numbers))
    };
    match tensor {
        RawTensor::F32(array) => float(NumberType::F32, array.iter().copied().collect(), array.shape()),
        RawTensor::F16(array) => {
            let rounded = array.iter().map(|number| half::f16::from_f32(*number).to_f32()).collect();
            float(NumberType::F16, rounded, array.shape())
        }
        RawTensor::I64(array) => Value::integers(array.shape().to_vec(), array.iter().copied().collect()),
    }
}

fn describe(case: &Case, names: &[String; 2], tolerance: f64, runs: usize) -> String {
    let shape = case.inputs.describe();
    if case.error.is_some() {
        return format!("{shape}: only one of them runs it");
    }
    if case.difference == 0.0 {
        return format!("{runs} runs: no logit differs");
    }
    let ([row, position, token], [one, other]) = (case.place, case.logits);
    let share = if case.excess > 1.0 {
        format!("{:.0} times what the tolerance of {tolerance:e} allows", case.excess)
    } else {
        format!("{:.1} % of what the tolerance of {tolerance:e} allows", 100.0 * case.excess)
    };
    format!(
        "the worst of {runs} runs, cut to what shows it: {shape}\n\
         logits differ by {:.1e}, {share}: row {row}, position {position}, token {token}: {one} on {}, {other} on {}",
        case.difference, names[0], names[1]
    )
}

/// The layer that a name tells: `layers.3.attention`, `/model/layers.3/mlp`, `h.3.attn`.
fn layer(name: &str) -> Option<usize> {
    let words: Vec<&str> = name.split(['.', '/', '_']).filter(|word| !word.is_empty()).collect();
    let named = |word: &str| matches!(word, "layers" | "layer" | "h" | "blocks" | "block" | "present");
    words.windows(2).find_map(|pair| pair[1].parse().ok().filter(|_| named(pair[0])))
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_tell_layers() {
        let layers = ["layers.12.mlp.gate", "/model/layers.3/mlp/Mul", "present.4.key", "rotary.cos", "layers"];
        assert_eq!(layers.map(super::layer), [Some(12), Some(3), Some(4), None, None]);
    }
}
