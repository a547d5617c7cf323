//! How prompts are compiled: what `--explain` shows, and what is refused.

#[allow(unreachable_pub, reason = "shared by several test files")]
mod support;

use pemlc_artifact::prompt::SoftPrompts;
use pemlc_artifact::run::RunManifest;
use pemlc_artifact::tensors::{self, Values};
use pemlc_compiler::trace::{PrintAfter, Trace};
use pemlc_compiler::{ExportError, ExportOptions, Exported, export};
use std::path::PathBuf;
use support::fixture::{Fixture, PrefixKind, Spec};

fn with(prefix: PrefixKind) -> Fixture {
    Fixture::new(Spec { shared: true, private: true, prefix: Some(prefix), ..Spec::default() })
}

fn try_export(fixture: &Fixture, print_after: &str) -> Result<Exported, ExportError> {
    let print_after = PrintAfter::Passes(print_after.split_whitespace().map(str::to_owned).collect());
    let options = ExportOptions { force: true, print_after, ..ExportOptions::default() };
    export(&fixture.run(), None, &fixture.folder.path().join("out"), &options, &mut |_| {})
}

/// The error of an export that must fail, with the fixture's folder elided; nothing may be left behind.
fn refused(fixture: &Fixture) -> String {
    let error = try_export(fixture, "").unwrap_err().to_string();
    assert!(!fixture.folder.path().join("out").exists());
    error.replace(&fixture.folder.path().display().to_string(), "FOLDER")
}

/// Adds `change` to number `place` of a tensor of the run.
fn add(fixture: &Fixture, file: &str, tensor: &str, place: usize, change: f32) {
    let path = fixture.run().join(file);
    let mut table = tensors::read(&path).unwrap();
    if let Values::F32(values) = &mut table.get_mut(tensor).unwrap().values {
        values[place] += change;
    }
    tensors::write(&path, &table).unwrap();
}

/// The prompt's own trace.
fn trace(fixture: &Fixture) -> Trace {
    let traces = try_export(fixture, "rotate_stored_keys").unwrap().traces;
    assert_eq!(traces.iter().map(|trace| trace.file.as_str()).collect::<Vec<_>>(), ["prompt", "model.onnx"]);
    traces[0].clone()
}

#[test]
fn an_encoder_is_frozen() {
    insta::assert_snapshot!(trace(&with(PrefixKind::Encoder)).explain(false));
}

#[test]
fn hidden_states_pass_through_projections() {
    insta::assert_snapshot!(trace(&with(PrefixKind::Hidden)).explain(false));
}

#[test]
fn soft_prompts_are_folded_and_their_keys_turned() {
    let trace = trace(&with(PrefixKind::SoftPrompts));
    insta::assert_snapshot!(trace.explain(false));
    let (pass, text) = &trace.printed[0];
    assert_eq!(*pass, "rotate_stored_keys");
    // Values that libm had a part in.
    let lines = text.lines().filter(|line| line.contains("layers.1.key") || line.contains("return"));
    let digest = |line: &str| {
        line.split(' ').map(|word| if word.starts_with('#') { "#" } else { word }).collect::<Vec<_>>().join(" ")
    };
    insta::assert_snapshot!(lines.map(digest).collect::<Vec<_>>().join("\n"));
}

#[test]
fn a_prefix_that_was_trained_has_nothing_to_compile() {
    let exported = try_export(&with(PrefixKind::Table), "").unwrap();
    assert_eq!(exported.traces.iter().map(|trace| trace.file.as_str()).collect::<Vec<_>>(), ["model.onnx"]);
    assert_eq!(exported.manifest.encoder_difference, None);
}

#[test]
fn differences_from_the_trainers_rows_name_task_and_layer() {
    for kind in [PrefixKind::Encoder, PrefixKind::Hidden, PrefixKind::SoftPrompts] {
        let fixture = with(kind);
        let difference = try_export(&fixture, "").unwrap().manifest.encoder_difference.unwrap();
        assert!(difference <= 1e-5, "{kind:?}: {difference}");
        std::fs::remove_dir_all(fixture.folder.path().join("out")).unwrap();
        add(&fixture, "prompt/prefix.safetensors", "tasks.1.layers.1.value", 3, 0.25);
        let error = refused(&fixture);
        let source = if kind == PrefixKind::SoftPrompts { "soft prompt" } else { "prompt encoder" };
        let expected = format!("the values of layer 1 that the {source} of task `entailment` comes to differ");
        assert!(error.contains(&expected), "{error}");
    }
}

/// What rows are made of may be changed, but no longer be exported beside the old rows.
#[test]
fn changes_of_what_a_soft_prompt_passes_through_are_found() {
    let fixture = with(PrefixKind::SoftPrompts);
    add(&fixture, "prompt/soft_prompt.safetensors", "embeddings", 0, 0.25);
    let error = refused(&fixture);
    assert!(error.starts_with("FOLDER/run/prompt/soft_prompt.safetensors: the keys of layer 0"), "{error}");
    assert!(error.contains("task `sentiment`") && error.contains("not of one training"), "{error}");

    let fixture = with(PrefixKind::SoftPrompts);
    let tensor = "base_model.model.model.layers.0.self_attn.v_proj.lora_B.weight";
    add(&fixture, "adapters/entailment/lora/adapter_model.safetensors", tensor, 0, 0.25);
    let error = refused(&fixture);
    assert!(error.contains("the values of layer 0") && error.contains("task `entailment`"), "{error}");
}

#[test]
fn numbers_that_are_none_are_refused() {
    let fixture = with(PrefixKind::Encoder);
    add(&fixture, "prompt/encoder.safetensors", "log_gate", 0, f32::NAN);
    let error = refused(&fixture);
    assert!(error.contains("differ from the trainer's evaluation by NaN"), "{error}");

    let fixture = with(PrefixKind::SoftPrompts);
    add(&fixture, "prompt/soft_prompt.safetensors", "embeddings", 0, f32::INFINITY);
    std::fs::remove_file(fixture.run().join("prompt/prefix.safetensors")).unwrap();
    insta::assert_snapshot!(refused(&fixture), @"FOLDER/run/prompt/soft_prompt.safetensors: the rows of task `sentiment`, layer 0, hold NaN: did training diverge?");
}

#[test]
fn prompts_of_another_run_are_refused() {
    let fixture = with(PrefixKind::SoftPrompts);
    let path: PathBuf = fixture.run().join("prompt/soft_prompt.safetensors");
    let whole = SoftPrompts::read(&path).unwrap();
    let error = |change: &dyn Fn(&mut SoftPrompts)| {
        let mut prompts = whole.clone();
        change(&mut prompts);
        prompts.write(&path).unwrap();
        refused(&fixture)
    };
    insta::assert_snapshot!(
        [
            error(&|prompts| prompts.hidden = 8),
            error(&|prompts| drop(prompts.tasks.pop())),
            error(&|prompts| prompts.tasks[1] = vec![0.5; 16 * 5]),
        ]
        .join("\n"), @"
FOLDER/run/prompt/soft_prompt.safetensors: vectors of 8 numbers, but the base model's embeddings have 16
FOLDER/run/prompt/soft_prompt.safetensors: prompts of 2 tasks, but run.json says that there are 3 sets of rows
FOLDER/run/prompt/soft_prompt.safetensors: a prompt of 5 vectors, but run.json says 4 rows
");
}

/// Rows that are in the trainer's file alone must not be left out: the base model would answer in their task's place.
#[test]
fn rows_that_no_soft_prompt_comes_to_are_missed() {
    let fixture = with(PrefixKind::SoftPrompts);
    std::fs::create_dir_all(fixture.run().join("adapters/topic/prefix")).unwrap();
    std::fs::remove_file(fixture.run().join("prompt/prefix.safetensors")).unwrap();
    insta::assert_snapshot!(refused(&fixture), @"FOLDER/run/prompt/prefix.safetensors: is missing, and task `topic` has rows that no soft prompt comes to");
}

/// A number in `run.json` must not decide how much memory is taken.
#[test]
fn rows_that_nothing_holds_are_refused() {
    let fixture = with(PrefixKind::SoftPrompts);
    std::fs::remove_file(fixture.run().join("prompt/prefix.safetensors")).unwrap();
    let mut manifest = RunManifest::read(&fixture.run()).unwrap();
    manifest.prefix.as_mut().unwrap().length = 1 << 40;
    manifest.write(&fixture.run()).unwrap();
    insta::assert_snapshot!(refused(&fixture), @"FOLDER/run/prompt/prefix.safetensors: is missing, and run.json says 1099511627776 rows, where the longest soft prompt has 4 vectors");
}

/// What passes through deltas of each task's own comes to rows of each task's own.
#[test]
fn one_set_of_rows_beside_deltas_of_each_task_is_refused() {
    for kind in [PrefixKind::SoftPrompts, PrefixKind::Hidden] {
        let fixture = with(kind);
        let mut manifest = RunManifest::read(&fixture.run()).unwrap();
        manifest.prefix.as_mut().unwrap().per_task = false;
        manifest.write(&fixture.run()).unwrap();
        std::fs::remove_file(fixture.run().join("prompt/prefix.safetensors")).unwrap();
        if kind == PrefixKind::SoftPrompts {
            let path = fixture.run().join("prompt/soft_prompt.safetensors");
            let mut prompts = SoftPrompts::read(&path).unwrap();
            prompts.tasks.truncate(1);
            prompts.write(&path).unwrap();
        }
        let error = refused(&fixture);
        assert!(error.ends_with("`prefix.per_task` must be true"), "{kind:?}: {error}");
    }
}

#[test]
fn unknown_passes_are_told_from_those_of_prompts() {
    insta::assert_snapshot!(try_export(&with(PrefixKind::Table), "fold_soft_prompts").unwrap_err(), @"no pass is called `fold_soft_prompts`; passes are legalise, freeze_prompt_encoder, fold_soft_prompt, rotate_stored_keys, dead_code, fold_shared_delta, lower_task_switch, fold_constants, deduplicate, precision, quantise");
}
