//! Small runs of the tiny model.
#![allow(dead_code)]

use pemlc_artifact::run::RunManifest;
use pemlc_trainer::config::RunConfig;
use pemlc_trainer::device::DeviceChoice;
use pemlc_trainer::{Event, Observer, TrainOutcome, TrainRequest, train};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) fn config(extra: &str) -> RunConfig {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
    let task = |name: &str| {
        let folder = fixtures.join("demo").join(name);
        format!(
            "[[tasks]]\nname = \"{name}\"\ntrain = {:?}\nvalidation = {:?}\nvalidation_limit = 12\ntemplate = \"Text: {{text}}\\nAnswer:\"\n",
            folder.join("train.jsonl").display().to_string(),
            folder.join("validation.jsonl").display().to_string(),
        )
    };
    let text = format!(
        "model = {:?}\n{extra}\n{}verbalizers = [\" negative\", \" positive\"]\n{}verbalizers = [\" past\", \" present\", \" future\"]\n",
        fixtures.join("tiny-model").display().to_string(),
        task("sentiment"),
        task("tense"),
    );
    RunConfig::from_toml(&text, Path::new("run.toml")).expect("a valid run file")
}

/// A small PEML run: 8 steps, 4 of them search.
pub(crate) const PEML: &str = r#"
[training]
steps = 8
batch_size = 4
checkpoint_every = 3
gradient_accumulation = 2
[lora]
rank = 2
dropout = 0.1
sharing = "both"
[prefix]
length = 4
width = 16
search_steps = 4
[evaluation]
limit = 8
"#;

pub(crate) fn request(config: RunConfig, output: &Path, resume: bool) -> TrainRequest {
    TrainRequest {
        config,
        config_dir: PathBuf::from("."),
        output: output.to_owned(),
        device: DeviceChoice::Cpu,
        resume,
        score_at: Vec::new(),
        stop: Arc::new(AtomicBool::new(false)),
    }
}

/// Sets the stop flag after some step.
pub(crate) struct StopAfter(pub(crate) u64, pub(crate) Arc<AtomicBool>);

impl Observer for StopAfter {
    fn event(&mut self, event: Event) {
        if matches!(event, Event::Step { step, .. } if step == self.0) {
            self.1.store(true, Ordering::Relaxed);
        }
    }
}

/// Bytes of every file below `folder` by relative path.
pub(crate) fn contents(folder: &Path, below: &str, files: &mut BTreeMap<String, Vec<u8>>) {
    for entry in std::fs::read_dir(folder.join(below)).expect("a folder") {
        let entry = entry.expect("an entry");
        let name = format!("{below}/{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            contents(folder, &name, files);
        } else {
            files.insert(name, std::fs::read(entry.path()).expect("a file"));
        }
    }
}

pub(crate) fn trained(output: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    contents(output, "adapters", &mut files);
    if output.join("prompt").exists() {
        contents(output, "prompt", &mut files);
    }
    for name in ["probes.safetensors", "predictions.jsonl"] {
        files.insert(name.to_owned(), std::fs::read(output.join(name)).expect("a file"));
    }
    files
}

pub(crate) fn run_to_the_end(config: RunConfig, output: &Path) -> RunManifest {
    match train(request(config, output, false), &mut ()).expect("training succeeds") {
        TrainOutcome::Finished(manifest) => *manifest,
        TrainOutcome::Interrupted { .. } | TrainOutcome::Stopped { .. } => panic!("nobody stopped it"),
    }
}
