//! Whole runs of the tiny model: what they leave, and that a stopped one ends as an undisturbed one.

mod common;

use common::{PEML, StopAfter, config, request, run_to_the_end, trained};
use pemlc_artifact::probes::Probes;
use pemlc_artifact::prompt::{Architecture, Operation, Prefix};
use pemlc_artifact::run::{RunManifest, RunPaths};
use pemlc_trainer::config::RunConfig;
use pemlc_trainer::{TrainError, TrainOutcome, TrainRequest, train};
use std::path::Path;

#[test]
fn a_stopped_run_ends_bitwise_as_an_undisturbed_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let whole = folder.path().join("whole");
    run_to_the_end(config(PEML), &whole);
    // In the search, where it ends, and after it.
    for stop in [1, 4, 6] {
        let output = folder.path().join(format!("stopped-{stop}"));
        let first = request(config(PEML), &output, false);
        let outcome = train(first.clone(), &mut StopAfter(stop, first.stop.clone())).expect("stopping is no error");
        let expected = Some(output.join(format!("checkpoints/step-{stop:06}")));
        assert_eq!(outcome, TrainOutcome::Interrupted { checkpoint: expected });
        assert!(!RunPaths::new(&output).manifest().exists(), "an interrupted run looks finished");
        let outcome = train(request(config(PEML), &output, true), &mut ()).expect("resuming succeeds");
        assert!(matches!(outcome, TrainOutcome::Finished(_)));
        let (expected, found) = (trained(&whole), trained(&output));
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        for (name, bytes) in &expected {
            assert!(found[name] == *bytes, "{name} differs after a stop at step {stop}");
        }
        let steps = |output: &Path| -> Vec<(u64, f64)> {
            let text = std::fs::read_to_string(output.join("metrics.jsonl")).expect("metrics");
            let values = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
            values.filter_map(|value| Some((value["step"].as_u64()?, value["loss"].as_f64()?))).collect()
        };
        assert_eq!(steps(&output), steps(&whole), "metrics after a stop at step {stop}");
    }
}

/// Stops at step 2, resumes, and compares with a run that nothing disturbed.
fn stop_and_resume(settings: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let config = || config(settings);
    let (whole, stopped) = (folder.path().join("whole"), folder.path().join("stopped"));
    run_to_the_end(config(), &whole);
    let first = request(config(), &stopped, false);
    train(first.clone(), &mut StopAfter(2, first.stop.clone())).expect("stopping is no error");
    train(request(config(), &stopped, true), &mut ()).expect("resuming succeeds");
    assert!(trained(&whole) == trained(&stopped), "the resumed run differs: {settings}");
}

#[test]
fn a_stopped_run_of_other_methods_ends_bitwise_too() {
    stop_and_resume(&format!("method = \"lora+prompt\"\n{PEML}"));
    // Methods that draw random numbers at every step.
    stop_and_resume(&format!("method = \"poly\"\n{PEML}"));
    stop_and_resume(&format!("method = \"dora\"\n{}", PEML.replace("both", "shared")));
    stop_and_resume(&format!("method = \"mixlora\"\n{PEML}"));
    // Stopped after it has let go of triplets, before they have settled.
    let ranks = "[adalora]\ninitial_rank = 4\ntarget_rank = 1\ninterval = 1";
    stop_and_resume(&format!("method = \"adalora\"\n{PEML}{ranks}"));
    for relaxation in ["gumbel", "straight_through"] {
        let search = format!("search_steps = 4\nsearch_warmup_steps = 1\nrelaxation = \"{relaxation}\"");
        stop_and_resume(&PEML.replace("search_steps = 4", &search));
    }
}

/// The transfer of a cell: found in one run, or drawn, and trained again in another.
#[test]
fn a_cell_can_be_drawn_at_random_and_trained_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = |name: &str, settings: &str| {
        let output = folder.path().join(name);
        let text = PEML.replace("search_steps = 4", settings);
        run_to_the_end(config(&text), &output);
        Architecture::read(&RunPaths::new(&output).architecture()).expect("architecture.json")
    };
    let drawn = run("drawn", "nodes = 3\nrandom_architecture = true");
    assert_eq!((drawn.nodes, drawn.edges.len()), (3, 5), "a node keeps two edges");
    let path = RunPaths::new(folder.path().join("drawn")).architecture();
    let again = run("again", &format!("architecture = {:?}", path.display().to_string()));
    assert_eq!(again, drawn);
    let text = PEML.replace("search_steps = 4", &format!("architecture = {:?}", path.display().to_string()));
    let narrow = config(&text.replace("width = 16", "width = 6\noperations = [{ op = \"skip\" }]"));
    match train(request(narrow, &folder.path().join("narrow"), false), &mut ()) {
        Err(error) => assert!(error.to_string().contains("a multiple of 4, the heads"), "{error}"),
        // The draw has no attention: nothing hinders it.
        Ok(_) => assert!(!drawn.edges.iter().any(|edge| matches!(edge.operation, Operation::Attention { .. }))),
    }
}

#[test]
fn a_prompt_without_a_text_to_start_from_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = "method = \"mpt\"\n[prompt]\ntext = \" \"";
    let error = train(request(config(text), folder.path(), false), &mut ()).expect_err("there is no token");
    insta::assert_snapshot!(error, @"`prompt.text` has no tokens, but the prompt starts from it: give it a text, or set prompt.init = \"vocabulary\"");
}

#[test]
fn a_run_leaves_what_export_reads() {
    let folder = tempfile::tempdir().expect("a folder");
    let manifest = run_to_the_end(config(PEML), folder.path());
    assert_eq!(RunManifest::read(folder.path()).expect("run.json"), manifest);
    let names: Vec<&str> = manifest.files.iter().map(|file| file.path.as_str()).collect();
    insta::assert_snapshot!("files_of_a_run", names.join("\n"));
    let paths = RunPaths::new(folder.path());
    let architecture = Architecture::read(&paths.architecture()).expect("architecture.json");
    assert_eq!(architecture.edges.len(), 3);
    let prefix = Prefix::read(&paths.prefix()).expect("prefix.safetensors");
    assert_eq!((prefix.tasks.len(), prefix.length, prefix.kv_heads), (2, 4, 2));
    let probes = Probes::read(&paths.probes()).expect("probes");
    assert_eq!((probes.count, probes.scored), (6, 4));
    assert!(probes.logits.iter().zip(&probes.base_logits).any(|(a, b)| (a - b).abs() > 1e-3), "nothing was trained");
    let again = RunConfig::from_toml(&std::fs::read_to_string(paths.config()).expect("config.toml"), &paths.config());
    assert_eq!(again.expect("a valid run file").tasks.len(), 2);
}

/// More edges than a cell keeps, and candidates that only a search has.
const EVERY_OPERATION: &str = "width = 16\nnodes = 3\nmax_skips = 1\noperations = [{ op = \"none\" }, { op = \"skip\" }, { op = \"linear\" }, \
    { op = \"mlp_tanh\", width = 8 }, { op = \"mlp_gelu\", width = 8 }, { op = \"attention\", heads = 2 }, \
    { op = \"depthwise_convolution\", kernel = 3 }, { op = \"glu\" }]";

/// Mean loss of the last ten of 30 steps.
fn late_loss(settings: &str, rate: f64, folder: &Path) -> f64 {
    let text = format!(
        "{settings}\n[training]\nsteps = 30\nlearning_rate = {rate}\nprefix_learning_rate = {}\n[evaluation]\nlimit = 4\nbase = false\n",
        4.0 * rate
    );
    run_to_the_end(config(&text), folder);
    let metrics = std::fs::read_to_string(folder.join("metrics.jsonl")).expect("metrics");
    let lines = metrics.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
    let losses: Vec<f64> = lines.filter_map(|line| line["loss"].as_f64()).collect();
    assert_eq!(losses.len(), 30);
    losses[20..].iter().sum::<f64>() / 10.0
}

#[test]
fn every_method_lowers_the_loss() {
    let folder = tempfile::tempdir().expect("a folder");
    // Batches are functions of the seed, so these losses are on the same examples.
    let untrained = late_loss("method = \"lora\"", 0.0, &folder.path().join("untrained"));
    for (method, prefix) in [
        ("lora", ""),
        ("prefix", ""),
        ("prefix", "init = \"cold\"\nlog_gate_init = 0.0"),
        ("lora+prefix", "log_gate = false\nsharing = \"shared\""),
        ("prefix-mlp", "hidden = 32"),
        ("prefix-mlp", "hidden = 32\ninit = \"cold\"\nlog_gate = false"),
        ("lora+prefix-mlp", "hidden = 32\nsharing = \"shared\""),
        ("peml", "width = 16"),
        ("peml", "width = 16\ninit = \"cold\"\nlog_gate_init = -1.0"),
        ("peml", EVERY_OPERATION),
        ("peml", "width = 16\nrelaxation = \"annealed\"\nsearch_warmup_steps = 4"),
        ("peml", "width = 16\nrelaxation = \"gumbel\""),
        ("peml", "width = 16\nrelaxation = \"straight_through\""),
    ] {
        let output = tempfile::tempdir_in(folder.path()).expect("a folder");
        let loss = late_loss(&format!("method = \"{method}\"\n[prefix]\n{prefix}"), 5e-3, output.path());
        assert!(loss < 0.9 * untrained, "{method} {prefix}: {loss}, untrained {untrained}");
        let peft = output.path().join("adapters/tense/prefix");
        assert_eq!(peft.exists(), prefix.contains("log_gate = false"), "{method}: PEFT has no log-gates");
    }
    for (method, settings) in [
        ("rslora", "[lora]\nsharing = \"both\""),
        ("mtl-lora", ""),
        ("mtl-lora", "[mtl_lora]\ndiagonal = true\ntemperature = 1.0"),
        ("multilora", "[multi_lora]\nparallel = 2"),
        ("moelora", "[moe_lora]\nexperts = 4"),
        ("poly", ""),
        ("poly", "[poly]\nsplits = 2\nnoise = false\n[lora]\ndropout = 0.1"),
        ("c-poly", ""),
    ] {
        let output = tempfile::tempdir_in(folder.path()).expect("a folder");
        let loss = late_loss(&format!("method = \"{method}\"\n{settings}"), 5e-3, output.path());
        assert!(loss < 0.9 * untrained, "{method} {settings}: {loss}, untrained {untrained}");
        let shared = output.path().join("adapters/shared").exists();
        let private = output.path().join("adapters/tense/lora").exists();
        let expected = match method {
            "rslora" => (true, true),
            "multilora" => (true, false),
            _ => (false, true),
        };
        assert_eq!((shared, private), expected, "{method}");
    }
    for (method, prompt) in [
        ("prompt", ""),
        ("prompt", "init = \"vocabulary\"\nsharing = \"shared\""),
        ("lora+prompt", "init = \"random\""),
        ("p-tuning", ""),
        ("p-tuning", "encoder = \"lstm\"\nhidden = 16\nlength = 6"),
        ("mpt", ""),
        ("mpt", "rank = 2\ntext = \"Answer in one word.\""),
    ] {
        let output = tempfile::tempdir_in(folder.path()).expect("a folder");
        let loss = late_loss(&format!("method = \"{method}\"\n[prompt]\n{prompt}"), 5e-3, output.path());
        assert!(loss < 0.9 * untrained, "{method} {prompt}: {loss}, untrained {untrained}");
        assert!(output.path().join("adapters/tense/prefix").exists(), "{method}: a folded prompt is a plain prefix");
        assert!(!output.path().join("prompt/architecture.json").exists(), "{method} has no encoder to freeze");
    }
}

#[test]
fn a_run_is_not_overwritten_and_not_resumed_under_other_settings() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("run");
    let error = |request: TrainRequest| -> String {
        let error: TrainError = train(request, &mut ()).expect_err("it must fail");
        error.to_string().replace(&folder.path().display().to_string(), "FOLDER")
    };
    let mut errors = vec![error(request(config(PEML), &output, true))];
    let first = request(config(PEML), &output, false);
    train(first.clone(), &mut StopAfter(2, first.stop.clone())).expect("stopping is no error");
    errors.push(error(request(config(PEML), &output, false)));
    let mut other = config(PEML);
    other.seed = 18;
    other.training.learning_rate = 1e-3;
    other.evaluation.limit = 3;
    errors.push(error(request(other, &output, true)));
    insta::assert_snapshot!("refused_runs", errors.join("\n\n"));
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run_and_names_its_examples() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = "method = \"prefix\"\n[training]\nsteps = 6\nbatch_size = 1\ncheckpoint_every = 2\nwarmup_steps = 0\nschedule = \"constant\"\n\
                prefix_learning_rate = 1e38\n";
    let error = train(request(config(text), folder.path(), false), &mut ()).expect_err("it diverges");
    match error {
        TrainError::NotFinite { step, examples, .. } => {
            assert!(step > 1, "the first step is the base model's");
            assert!(examples[0].contains("train.jsonl:"), "{examples:?}");
        }
        other => panic!("{other}"),
    }
}
