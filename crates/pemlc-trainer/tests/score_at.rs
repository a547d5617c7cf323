//! Scores between steps: they change nothing of what is trained, and they can end it.

use pemlc_artifact::run::RunPaths;
use pemlc_trainer::config::RunConfig;
use pemlc_trainer::device::DeviceChoice;
use pemlc_trainer::{Event, Next, Observer, TrainOutcome, TrainRequest, train};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// A small PEML run: 6 steps, 3 of them search.
fn request(output: &Path, score_at: &[u64]) -> TrainRequest {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
    let text = format!(
        "model = {model:?}\n[training]\nsteps = 6\nbatch_size = 4\n[lora]\nrank = 2\ndropout = 0.1\n[prefix]\nlength = 4\nwidth = 16\n\
         search_steps = 3\n[evaluation]\nlimit = 8\n[[tasks]]\nname = \"sentiment\"\ntrain = {train:?}\nvalidation = {validation:?}\n\
         template = \"Text: {{text}}\\nAnswer:\"\nverbalizers = [\" negative\", \" positive\"]\n",
        model = fixtures.join("tiny-model"),
        train = fixtures.join("demo/sentiment/train.jsonl"),
        validation = fixtures.join("demo/sentiment/validation.jsonl"),
    );
    TrainRequest {
        config: RunConfig::from_toml(&text, Path::new("run.toml")).expect("a valid run file"),
        config_dir: PathBuf::from("."),
        output: output.to_owned(),
        device: DeviceChoice::Cpu,
        resume: false,
        score_at: score_at.to_vec(),
        stop: Arc::new(AtomicBool::new(false)),
    }
}

/// Remembers the scores, and stops at one of them.
#[derive(Default)]
struct Scores {
    seen: Vec<(u64, f64)>,
    stop_at: Option<u64>,
}

impl Observer for Scores {
    fn event(&mut self, _event: Event) {}

    fn scored(&mut self, step: u64, score: f64) -> Next {
        self.seen.push((step, score));
        if self.stop_at == Some(step) { Next::Stop } else { Next::Continue }
    }
}

#[test]
fn a_scored_run_ends_bitwise_as_an_unscored_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let (plain, scored) = (folder.path().join("plain"), folder.path().join("scored"));
    let ended = |outcome| match outcome {
        TrainOutcome::Finished(manifest) => *manifest,
        other => panic!("{other:?}"),
    };
    let undisturbed = ended(train(request(&plain, &[]), &mut ()).expect("training succeeds"));
    let mut scores = Scores::default();
    let manifest = ended(train(request(&scored, &[1, 4, 6]), &mut scores).expect("training succeeds"));
    // The last step is scored when the run ends.
    assert_eq!(scores.seen.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [1, 4]);
    assert!(scores.seen.iter().all(|(_, score)| (0.0..=1.0).contains(score)));
    let hashes = |manifest: &pemlc_artifact::run::RunManifest| -> Vec<(String, String)> {
        // Metrics hold the seconds of each step.
        let files = manifest.files.iter().filter(|file| !file.path.ends_with("metrics.jsonl"));
        files.map(|file| (file.path.clone(), file.sha256.clone())).collect()
    };
    assert_eq!(hashes(&manifest), hashes(&undisturbed));
}

#[test]
fn a_run_that_is_stopped_at_a_score_leaves_no_manifest() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("run");
    let mut scores = Scores { stop_at: Some(2), ..Scores::default() };
    let outcome = train(request(&output, &[2, 4]), &mut scores).expect("stopping is no error");
    let TrainOutcome::Stopped { step: 2, costs } = outcome else { panic!("{outcome:?}") };
    assert_eq!((scores.seen.len(), costs.optimizer_steps), (1, 2));
    assert!(costs.evaluation_seconds > 0.0 && costs.trainable_parameters > 0 && costs.peak_memory_bytes > 0);
    assert!(!RunPaths::new(&output).manifest().exists(), "a stopped run looks finished");
}
