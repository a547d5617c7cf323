//! PrefixNAS in whole runs: its settings, its stages, and what comes of a cell that is trained anew.

mod common;

use common::{PEML, StopAfter, config, request, run_to_the_end, trained};
use pemlc_artifact::prompt::{Architecture, Generators, Insertion, Prefix, SHUT};
use pemlc_artifact::run::{RunManifest, RunPaths};
use pemlc_trainer::{TrainOutcome, train};
use std::path::Path;

fn run(folder: &Path, name: &str, settings: &str) -> (RunManifest, RunPaths) {
    let output = folder.join(name);
    let manifest = run_to_the_end(config(&PEML.replace("search_steps = 4", settings)), &output);
    (manifest, RunPaths::new(&output))
}

fn architecture(paths: &RunPaths) -> Architecture {
    Architecture::read(&paths.architecture()).expect("architecture.json")
}

/// `metrics.jsonl` as JSON.
fn metrics(paths: &RunPaths) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(paths.metrics()).expect("metrics");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn stages_are_scored_where_they_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let stages = |manifest: &RunManifest| -> Vec<(String, u64)> {
        manifest.stages.iter().map(|stage| (stage.stage.clone(), stage.steps)).collect()
    };
    let expected =
        |stages: &[(&str, u64)]| stages.iter().map(|(name, at)| ((*name).to_owned(), *at)).collect::<Vec<_>>();
    let (tuned, paths) = run(folder.path(), "tune", "search_steps = 4");
    assert_eq!(stages(&tuned), expected(&[("soft", 4), ("discretised", 4), ("tuned", 8)]));
    for (record, score) in tuned.tasks.iter().zip(&tuned.stages[2].scores) {
        assert_eq!((&record.name, record.score), (&score.task, Some(score.value)));
    }
    let mixtures: Vec<u64> = metrics(&paths)
        .iter()
        .filter(|line| line["mixture"].is_object())
        .filter_map(|line| line["step"].as_u64())
        .collect();
    assert_eq!(mixtures, [0, 1, 2, 3, 4]);
    let (both, _) = run(folder.path(), "both", "search_steps = 4\nafter_search = \"both\"");
    assert_eq!(stages(&both), expected(&[("soft", 4), ("discretised", 4), ("tuned", 8), ("retrained", 16)]));
    assert_eq!(both.costs.optimizer_steps, 16);
    let (quiet, _) = run(folder.path(), "quiet", "search_steps = 4\nscore_stages = false");
    assert_eq!(stages(&quiet), expected(&[("tuned", 8)]));
    assert_eq!(trained(&folder.path().join("tune")), trained(&folder.path().join("quiet")), "scoring changed the run");
}

/// Retraining is the run that the found architecture would be given to, bit for bit.
#[test]
fn a_retrained_cell_is_that_of_a_run_with_its_architecture() {
    let folder = tempfile::tempdir().expect("a folder");
    let search = "nodes = 3\nlengths = [2, 4]\nsearch_layers = true\ngenerators = \"per_layer\"\nsearch_steps = 4\n";
    let (_, found) = run(folder.path(), "found", &format!("{search}after_search = \"retrain\""));
    let given = format!("architecture = {:?}", found.architecture().display().to_string());
    run(folder.path(), "given", &given);
    let (left, right) = (trained(&folder.path().join("found")), trained(&folder.path().join("given")));
    assert_eq!(left.keys().collect::<Vec<_>>(), right.keys().collect::<Vec<_>>());
    for (name, bytes) in &left {
        assert!(right[name] == *bytes, "{name} differs");
    }
    // And it is resumed as such.
    for stop in [4, 6] {
        let output = folder.path().join(format!("stopped-{stop}"));
        let text = PEML.replace("search_steps = 4", &format!("{search}after_search = \"retrain\""));
        let first = request(config(&text), &output, false);
        train(first.clone(), &mut StopAfter(stop, first.stop.clone())).expect("stopping is no error");
        let outcome = train(request(config(&text), &output, true), &mut ()).expect("resuming succeeds");
        assert!(matches!(outcome, TrainOutcome::Finished(_)));
        assert!(trained(&output) == left, "the run that stopped at step {stop} differs");
    }
}

#[test]
fn a_bilevel_search_is_resumed_bitwise() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings =
        "search_steps = 4\nupdate = \"bilevel\"\nsearch_warmup_steps = 1\nentropy_weight = 0.1\ncost_weight = 0.1";
    let (manifest, _) = run(folder.path(), "whole", settings);
    let (single, _) = run(folder.path(), "single", "search_steps = 4");
    assert!(manifest.costs.tokens > single.costs.tokens, "the architecture's batches are not counted");
    let text = PEML.replace("search_steps = 4", settings);
    let stopped = folder.path().join("stopped");
    let first = request(config(&text), &stopped, false);
    train(first.clone(), &mut StopAfter(2, first.stop.clone())).expect("stopping is no error");
    train(request(config(&text), &stopped, true), &mut ()).expect("resuming succeeds");
    assert!(trained(&stopped) == trained(&folder.path().join("whole")));
}

#[test]
fn lengths_and_layers_that_cost_are_given_up() {
    let folder = tempfile::tempdir().expect("a folder");
    // Nothing but the cost counts at this weight.
    let settings =
        "search_steps = 7\nlengths = [2, 4]\nsearch_layers = true\narchitecture_learning_rate = 0.5\ncost_weight = 1e4";
    let (_, paths) = run(folder.path(), "short", settings);
    let found = architecture(&paths);
    assert_eq!((found.length, found.positions), (2, Some(4)));
    let layers = found.layers.expect("layers were searched");
    assert_eq!(layers.len(), 1, "one layer stays");
    let rows = Prefix::read(&paths.prefix()).expect("prefix.safetensors");
    assert_eq!(rows.length, 2);
    for (layer, rows) in rows.tasks[0].iter().enumerate() {
        assert_eq!(rows.log_gate.iter().all(|gate| *gate == SHUT), !layers.contains(&layer), "layer {layer}");
    }
}

#[test]
fn generators_and_hidden_states_train() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, settings, generators, insertion) in [
        ("groups", "generators = \"groups\"", Generators::Groups, Insertion::Rows),
        ("layers", "generators = \"per_layer\"", Generators::PerLayer, Insertion::Rows),
        ("hidden", "insertion = \"hidden\"", Generators::Shared, Insertion::Hidden),
        ("cold", "insertion = \"hidden\"\ninit = \"cold\"", Generators::Shared, Insertion::Hidden),
        ("one", "insertion = \"hidden\"\nsharing = \"shared\"", Generators::Shared, Insertion::Hidden),
    ] {
        let (manifest, paths) = run(folder.path(), name, &format!("search_steps = 4\n{settings}"));
        let found = architecture(&paths);
        assert_eq!((found.generators, found.insertion), (generators, insertion), "{name}");
        assert!(paths.encoder().exists(), "{name}: the compiler evaluates it again");
        let rows = Prefix::read(&paths.prefix()).expect("prefix.safetensors");
        // Deltas are private too in this run, so what they make of shared hidden states is each task's own.
        assert_eq!(rows.tasks.len(), 2, "{name}");
        assert!(manifest.prefix.expect("a prefix").per_task);
    }
}
