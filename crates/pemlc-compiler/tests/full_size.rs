//! How long an export of a real model with eight tasks takes, and how much memory. Run by hand:
//! `PEMLC_BASE=path/to/model cargo test --release -p pemlc-compiler --test full_size -- --ignored --nocapture`.
//! The adapters are made here; only their sizes matter. `PEMLC_DTYPE` and `PEMLC_TARGET=ort` are as `--dtype` and `--target`.

#[allow(unreachable_pub, reason = "shared by several test files")]
mod support;

use pemlc_artifact::peft::{LoraAdapter, LoraWeights};
use pemlc_artifact::run::{
    BaseDtype, BaseModel, Costs, LoraRecord, PrefixRecord, RUN_SCHEMA_VERSION, RunManifest, RunPaths, TaskRecord,
};
use pemlc_artifact::tensors::{self, TensorMap};
use pemlc_artifact::{Checkpoint, ModelConfig, Projection};
use pemlc_compiler::passes::Precision;
use pemlc_compiler::target::Operators;
use pemlc_compiler::{ExportOptions, export};
use std::path::{Path, PathBuf};
use std::time::Instant;
use support::weights::Numbers;

const TASKS: usize = 8;
const RANK: usize = 8;
const ROWS: usize = 16;

/// Peak resident memory of this process in MB, where the system tells.
fn peak_megabytes() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1024.0)
}

fn adapter(config: &ModelConfig, numbers: &mut Numbers) -> LoraAdapter {
    let sites = (0..config.num_hidden_layers).flat_map(|layer| Projection::ALL.map(|projection| (layer, projection)));
    let mut weights = |site: (usize, Projection)| {
        let (inputs, outputs) = site.1.features(config);
        let mut matrix = |count: usize| (0..count).map(|_| numbers.small(1)).collect();
        (site, LoraWeights { a: matrix(RANK * inputs), b: matrix(outputs * RANK), magnitude: None })
    };
    let weights = sites.map(&mut weights).collect();
    LoraAdapter {
        rank: RANK,
        alpha: 16.0,
        own: Default::default(),
        dropout: 0.0,
        base_model: "base".to_owned(),
        weights,
    }
}

/// A run of every part: a shared delta, private deltas, prefix rows.
fn write_run(base: &Path, root: &Path) {
    let checkpoint = Checkpoint::open(base).unwrap();
    let config = checkpoint.config().clone();
    let paths = RunPaths::new(root);
    let mut numbers = Numbers::new(3);
    adapter(&config, &mut numbers).write(&paths.shared_lora(), &config).unwrap();
    let mut table = TensorMap::new();
    for task in 0..TASKS {
        adapter(&config, &mut numbers).write(&paths.task_lora(&format!("task{task}")), &config).unwrap();
        let rows = [config.num_key_value_heads, ROWS, config.head_dim];
        for layer in 0..config.num_hidden_layers {
            let name = format!("tasks.{task}.layers.{layer}");
            table.insert(format!("{name}.key"), numbers.tensor(&rows, 1024));
            table.insert(format!("{name}.value"), numbers.tensor(&rows, 1024));
            table.insert(format!("{name}.log_gate"), numbers.tensor(&[ROWS], 1024));
        }
    }
    tensors::write(&paths.prefix(), &table).unwrap();
    let task = |task: usize| TaskRecord {
        name: format!("task{task}"),
        metric: "accuracy".to_owned(),
        train_examples: 0,
        validation_examples: 0,
        base_score: None,
        score: None,
        standard_error: None,
        template: String::new(),
        verbalizers: Vec::new(),
        separator: None,
        normalize: None,
    };
    let manifest = RunManifest {
        schema_version: RUN_SCHEMA_VERSION,
        pemlc_version: String::new(),
        base: BaseModel {
            path: base.display().to_string(),
            name: "base".to_owned(),
            licence: None,
            config,
            files: checkpoint.file_hashes().unwrap(),
        },
        method: "lora+prefix".to_owned(),
        tasks: (0..TASKS).map(task).collect(),
        lora: Some(LoraRecord {
            rank: RANK,
            alpha: 16.0,
            targets: Projection::ALL.to_vec(),
            shared: true,
            per_task: true,
            mixed: false,
        }),
        prefix: Some(PrefixRecord { length: ROWS, per_task: true, gated: true }),
        routing: None,
        seed: 0,
        device: "cpu".to_owned(),
        base_dtype: BaseDtype::F32,
        stages: vec![],
        costs: Costs::default(),
        files: Vec::new(),
    };
    manifest.write(root).unwrap();
}

#[test]
#[ignore = "needs a real model: see the module"]
fn export_of_eight_tasks() {
    let base = PathBuf::from(std::env::var_os("PEMLC_BASE").expect("PEMLC_BASE is the base model's path"));
    // The run may be made by an earlier process, whose memory is then not counted here.
    let folder = tempfile::tempdir().unwrap();
    let run = std::env::var_os("PEMLC_FULL_SIZE_RUN").map_or_else(|| folder.path().join("run"), PathBuf::from);
    if !run.join("run.json").exists() {
        write_run(&base, &run);
    }
    println!("before: peak {:.0?} MB", peak_megabytes());
    let start = Instant::now();
    let out = std::env::var_os("PEMLC_FULL_SIZE_OUT").map_or_else(|| folder.path().join("out"), PathBuf::from);
    let mut options = ExportOptions { force: true, ..ExportOptions::default() };
    let asked = std::env::var("PEMLC_DTYPE").unwrap_or_default();
    if let Some(precision) = Precision::ALL.into_iter().find(|precision| precision.name() == asked) {
        options.pipeline.precision = precision;
    }
    if std::env::var("PEMLC_TARGET").is_ok_and(|target| target == "ort") {
        options.pipeline.target.operators = Operators::Ort;
    }
    options.pipeline.target.opset = options.pipeline.precision.lowest_opset(options.pipeline.target.operators);
    let manifest = export(&run, None, &out, &options, &mut |step| println!("{step}")).unwrap().manifest;
    println!("export: {:.2} s, peak {:.0?} MB", start.elapsed().as_secs_f64(), peak_megabytes());
    assert_eq!(manifest.tasks.len(), TASKS);
}
