//! Passes over the IR: a named list, one pass a file, the verifier after each.

mod dead_code;
mod deduplicate;
mod fold_constants;
mod fold_shared_delta;
mod fold_soft_prompt;
mod folding;
mod freeze_prompt_encoder;
mod legalise;
mod precision;
mod quantise;
mod rewriter;
mod rotate_stored_keys;
mod task_switch;

pub use dead_code::DeadCode;
pub use deduplicate::Deduplicate;
pub use fold_constants::FoldConstants;
pub use fold_shared_delta::FoldSharedDelta;
pub use fold_soft_prompt::FoldSoftPrompt;
pub use freeze_prompt_encoder::FreezePromptEncoder;
pub use legalise::Legalise;
pub use precision::{ChoosePrecision, Precision};
pub use quantise::Quantise;
pub use rotate_stored_keys::RotateStoredKeys;
pub use task_switch::{LowerTaskSwitch, Lowering, WORKLOADS, Workload};

use crate::ir::{Graph, IrError, verify};
use crate::target::{Operators, Target};
use pemlc_artifact::Checkpoint;

/// A rewriting of a graph that keeps what it computes.
pub trait Pass {
    /// Name, for messages and `--explain`.
    fn name(&self) -> &'static str;
    /// Rewrites `graph` and says what it changed and declined.
    fn run(&self, graph: &mut Graph) -> Result<Outcome, String>;
}

/// What a pass did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Name of the pass.
    pub pass: &'static str,
    /// One line a change.
    pub changed: Vec<String>,
    /// One line a place that looked fit and was left alone, with the reason.
    pub declined: Vec<String>,
}

/// A pass failed or left a graph that does not verify.
#[derive(Debug, thiserror::Error)]
#[error("pass {pass} (after {}): {reason}", if earlier.is_empty() { "no other".to_owned() } else { earlier.join(", ") })]
pub struct PassError {
    /// The pass.
    pub pass: &'static str,
    /// Passes that ran before it.
    pub earlier: Vec<&'static str>,
    /// What went wrong.
    pub reason: String,
}

/// What the passes of a decoder are told.
#[derive(Debug, Clone, Default)]
pub struct PipelineOptions {
    /// How deltas that tasks have for themselves are lowered.
    pub switch: LowerTaskSwitch,
    /// Number types of floats.
    pub precision: Precision,
    /// What the graph is written for.
    pub target: Target,
}

/// Names of the passes of [`prompt_passes`].
pub const PROMPT_PASSES: [&str; 5] =
    ["legalise", "freeze_prompt_encoder", "fold_soft_prompt", "rotate_stored_keys", "dead_code"];

/// The passes that turn a lowered prompt into stored rows, in order. `checkpoint` is the base model.
pub fn prompt_passes(checkpoint: &Checkpoint) -> Vec<Box<dyn Pass + '_>> {
    vec![
        // Rows are computed in primitives, whatever the decoder is written in.
        Box::new(Legalise::default()),
        // What the last layer does with its attention is for no row.
        Box::new(DeadCode),
        Box::new(FreezePromptEncoder),
        Box::new(FoldSoftPrompt { checkpoint }),
        Box::new(RotateStoredKeys),
        Box::new(DeadCode),
    ]
}

/// The passes that a lowered decoder goes through, in order.
pub fn decoder_passes(options: &PipelineOptions) -> Vec<Box<dyn Pass>> {
    let mut passes: Vec<Box<dyn Pass>> = Vec::new();
    // A step of whole numbers is larger than most of a delta: merged, it would be rounded away, and take the weight of a base model that was
    // quantised before off the steps that it stands on. So it stays beside the weight, in f32.
    let whole_numbers = matches!(options.precision, Precision::Int8 | Precision::Int4);
    if !whole_numbers {
        passes.push(Box::new(FoldSharedDelta));
    }
    passes.push(Box::new(LowerTaskSwitch { whole_numbers, ..options.switch.clone() }));
    passes.push(Box::new(FoldConstants));
    passes.push(Box::new(Legalise { target: options.target, precision: options.precision }));
    passes.push(Box::new(Deduplicate));
    passes.push(Box::new(DeadCode));
    passes.push(Box::new(ChoosePrecision(options.precision)));
    passes.push(Box::new(Quantise { precision: options.precision, operators: options.target.operators }));
    passes
}

/// The pass `name` in its default form: what text tests name. Those that read a base model have none.
pub fn by_name(name: &str) -> Option<Box<dyn Pass>> {
    let narrow = |precision| Box::new(ChoosePrecision(precision)) as Box<dyn Pass>;
    let quantise = |precision, operators| Box::new(Quantise { precision, operators }) as Box<dyn Pass>;
    let lower = |lowering| Box::new(LowerTaskSwitch { lowering, ..Default::default() }) as Box<dyn Pass>;
    match name {
        "lower_task_switch" => Some(lower(Lowering::ByCost)),
        "lower_task_switch=gather" => Some(lower(Lowering::Gather)),
        "lower_task_switch=masked" => Some(lower(Lowering::Masked)),
        "lower_task_switch=appended" => Some(lower(Lowering::Appended)),
        "lower_task_switch=shared-basis" => Some(lower(Lowering::SharedBasis)),
        "lower_task_switch=scalar" => Some(lower(Lowering::Scalar)),
        "fold_shared_delta" => Some(Box::new(FoldSharedDelta)),
        "freeze_prompt_encoder" => Some(Box::new(FreezePromptEncoder)),
        "rotate_stored_keys" => Some(Box::new(RotateStoredKeys)),
        "fold_constants" => Some(Box::new(FoldConstants)),
        "deduplicate" => Some(Box::new(Deduplicate)),
        "dead_code" => Some(Box::new(DeadCode)),
        _ if let Some(target) = name.strip_prefix("legalise=") => {
            let (target, precision) = match target.strip_suffix("-f16") {
                Some(target) => (target, Precision::F16),
                None => (target, Precision::F32),
            };
            let target = Target::all().find(|one| one.to_string() == target)?;
            Some(Box::new(Legalise { target, precision }))
        }
        "precision=f16" => Some(narrow(Precision::F16)),
        "precision=bf16" => Some(narrow(Precision::BF16)),
        "quantise=int8" => Some(quantise(Precision::Int8, Operators::Standard)),
        "quantise=int4" => Some(quantise(Precision::Int4, Operators::Standard)),
        "quantise=int4-ort" => Some(quantise(Precision::Int4, Operators::Ort)),
        _ => None,
    }
}

/// Runs `passes` in order on a graph that verifies.
pub fn run_passes(graph: &mut Graph, passes: &[Box<dyn Pass + '_>]) -> Result<Vec<Outcome>, PassError> {
    run_passes_with(graph, passes, &mut |_, _| {})
}

/// As [`run_passes`]; `after` sees what each pass did, and the graph that it left.
pub fn run_passes_with(
    graph: &mut Graph,
    passes: &[Box<dyn Pass + '_>],
    after: &mut dyn FnMut(&Outcome, &Graph),
) -> Result<Vec<Outcome>, PassError> {
    let mut outcomes: Vec<Outcome> = Vec::new();
    for pass in passes {
        let fail = |reason: String| PassError {
            pass: pass.name(),
            earlier: outcomes.iter().map(|outcome| outcome.pass).collect(),
            reason,
        };
        let mut outcome = pass.run(graph).map_err(fail)?;
        verify(graph).map_err(|error: IrError| fail(error.to_string()))?;
        outcome.pass = pass.name();
        after(&outcome, graph);
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{DType, Symbol, ValueType};

    struct Breaks;

    impl Pass for Breaks {
        fn name(&self) -> &'static str {
            "breaks"
        }

        fn run(&self, graph: &mut Graph) -> Result<Outcome, String> {
            graph.inputs.clear();
            Ok(Outcome::default())
        }
    }

    #[test]
    fn a_pass_that_breaks_the_graph_is_named() {
        let mut graph = Graph::new("identity");
        let x = graph.input("x", ValueType::new(DType::F32, [Symbol::Batch]));
        graph.output(x);
        let passes: Vec<Box<dyn Pass>> = vec![Box::new(DeadCode), Box::new(Breaks)];
        let error = run_passes(&mut graph, &passes).unwrap_err();
        assert_eq!(error.to_string(), "pass breaks (after dead_code): graph `identity`: output `x` is never made");
    }
}
