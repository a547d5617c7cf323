//! A tiny base model and a run directory on disk.

use super::weights::Numbers;
use super::{encoder, prompts};
use pemlc_artifact::peft::{LoraAdapter, LoraWeights, ModuleScale};
use pemlc_artifact::prompt::{Architecture, Edge, Generators, Insertion, Operation, SoftPrompts};
use pemlc_artifact::run::{
    BaseDtype, BaseModel, Costs, LoraRecord, PrefixRecord, RUN_SCHEMA_VERSION, RunManifest, RunPaths, TaskRecord,
};
use pemlc_artifact::tensors::{self, TensorMap};
use pemlc_artifact::{Checkpoint, Family, ModelConfig, Projection};
use pemlc_compiler::ExportOptions;
use pemlc_compiler::ir::Encoding;
use pemlc_compiler::outputs::Extras;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// Where the prefix of a run comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrefixKind {
    /// Rows trained directly.
    Table,
    /// A frozen encoder, with a warm start.
    Encoder,
    /// A frozen encoder whose heads give hidden states, with a warm start.
    Hidden,
    /// As `Hidden`, starting cold, with one seed for all tasks.
    SharedHidden,
    /// A soft prompt of each set of rows, of different lengths; of three and more the last one is empty.
    SoftPrompts,
    /// One soft prompt for all tasks.
    SharedSoftPrompt,
}

/// What a run trained.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    pub family: Family,
    pub tied: bool,
    pub tasks: usize,
    pub shared: bool,
    /// Whether the shared delta has magnitudes.
    pub magnitudes: bool,
    pub private: bool,
    /// Whether tasks differ in ranks, alphas and targets, every other one has magnitudes, and the last has no delta at all.
    pub mixed: bool,
    pub prefix: Option<PrefixKind>,
    pub prefix_per_task: bool,
    /// Whether the base model's matrices are such that these whole numbers hold them, and eight bits hold the table and the head.
    pub whole: Option<Encoding>,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            family: Family::Llama,
            tied: true,
            tasks: 3,
            shared: false,
            magnitudes: false,
            private: false,
            mixed: false,
            prefix: None,
            prefix_per_task: true,
            whole: None,
        }
    }
}

/// A base model, a run, and everything in it in memory too.
pub struct Fixture {
    pub folder: tempfile::TempDir,
    pub config: ModelConfig,
    pub weights: TensorMap,
    pub shared: Option<LoraAdapter>,
    pub private: Vec<LoraAdapter>,
    /// The rows that the trainer stored.
    pub prefix: Option<TensorMap>,
    pub prefix_per_task: bool,
    pub soft_prompts: Option<SoftPrompts>,
}

const RANK: usize = 3;
const ALPHA: f64 = 6.0;
pub const PREFIX_ROWS: usize = 4;

impl Fixture {
    pub fn new(spec: Spec) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = config(&spec);
        let weights = base_weights(&config, spec.whole);
        let model = folder.path().join("model");
        fs::create_dir_all(&model).unwrap();
        tensors::write(&model.join("model.safetensors"), &weights).unwrap();
        fs::write(model.join("config.json"), config_json(&config)).unwrap();
        fs::write(model.join("tokenizer.json"), TOKENIZER).unwrap();

        let paths = RunPaths::new(folder.path().join("run"));
        let mut numbers = Numbers::new(11);
        let mut shared = spec.shared.then(|| adapter(&config, &mut numbers));
        for ((_, projection), weights) in shared.iter_mut().flat_map(|adapter| &mut adapter.weights) {
            let outputs = projection.features(&config).1;
            weights.magnitude = spec.magnitudes.then(|| (0..outputs).map(|_| 1.0 + numbers.small(300)).collect());
        }
        if let Some(adapter) = &shared {
            adapter.write(&paths.shared_lora(), &config).unwrap();
        }
        let tasks = if spec.private { spec.tasks } else { 0 };
        let private: Vec<LoraAdapter> = (0..tasks)
            .map(|task| {
                if spec.mixed {
                    mixed_adapter(task, tasks, &config, &mut numbers)
                } else {
                    adapter(&config, &mut numbers)
                }
            })
            .collect();
        for (task, adapter) in private.iter().enumerate().filter(|(_, adapter)| !adapter.weights.is_empty()) {
            adapter.write(&paths.task_lora(&task_name(task)), &config).unwrap();
        }
        let sets = if spec.prefix_per_task { spec.tasks } else { 1 };
        fs::create_dir_all(paths.prefix().parent().unwrap()).unwrap();
        write_manifest(&spec, &config, &model, &paths);
        let (prefix, prefix_per_task, soft_prompts) = (None, spec.prefix_per_task, None);
        let mut fixture = Self { folder, config, weights, shared, private, prefix, prefix_per_task, soft_prompts };
        if let Some(kind) = spec.prefix {
            let table = fixture.write_prompt(kind, sets, &mut numbers);
            tensors::write(&paths.prefix(), &table).unwrap();
            fixture.prefix = Some(table);
        }
        fixture
    }

    /// Writes what rows are made of, and gives the rows.
    fn write_prompt(&mut self, kind: PrefixKind, sets: usize, numbers: &mut Numbers) -> TensorMap {
        let (paths, config) = (RunPaths::new(self.run()), &self.config);
        match kind {
            PrefixKind::Table => prefix_table(config, sets, numbers),
            PrefixKind::Encoder => {
                let (architecture, weights) = prompt_encoder(config, sets, numbers);
                architecture.write(&paths.architecture()).unwrap();
                tensors::write(&paths.encoder(), &weights).unwrap();
                encoder::evaluate(&architecture, &weights, config, sets)
            }
            PrefixKind::Hidden | PrefixKind::SharedHidden => {
                let seeds = if kind == PrefixKind::Hidden { sets } else { 1 };
                let (architecture, weights) =
                    prompts::hidden_encoder(config, seeds, kind == PrefixKind::Hidden, numbers);
                architecture.write(&paths.architecture()).unwrap();
                tensors::write(&paths.encoder(), &weights).unwrap();
                prompts::hidden_rows(self, &architecture, &weights, (sets, seeds))
            }
            PrefixKind::SoftPrompts | PrefixKind::SharedSoftPrompt => {
                let count = if kind == PrefixKind::SoftPrompts { sets } else { 1 };
                let soft_prompts = prompts::soft_prompts(config, count, numbers);
                soft_prompts.write(&paths.soft_prompt()).unwrap();
                self.soft_prompts = Some(soft_prompts);
                prompts::soft_prompt_rows(self, sets)
            }
        }
    }

    /// The vectors of a task's soft prompt; none without one.
    pub fn soft_prompt(&self, task: usize) -> Vec<Vec<f64>> {
        let Some(prompts) = &self.soft_prompts else { return Vec::new() };
        let own = &prompts.tasks[if prompts.tasks.len() == 1 { 0 } else { task }];
        own.chunks_exact(prompts.hidden).map(|row| row.iter().map(|x| f64::from(*x)).collect()).collect()
    }

    pub fn run(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    pub fn model(&self) -> PathBuf {
        self.folder.path().join("model")
    }

    /// Exports into `out` inside the fixture's folder.
    pub fn export(&self) -> PathBuf {
        self.export_with(Extras::default())
    }

    /// As [`export`](Self::export), with more graphs.
    pub fn export_with(&self, extras: Extras) -> PathBuf {
        self.export_as(ExportOptions { extras, ..Default::default() })
    }

    /// As [`export`](Self::export), with other choices.
    pub fn export_as(&self, options: ExportOptions) -> PathBuf {
        let out = self.folder.path().join("out");
        let mut steps = Vec::new();
        let options = ExportOptions { force: true, ..options };
        pemlc_compiler::export(&self.run(), None, &out, &options, &mut |step| steps.push(step.to_owned())).unwrap();
        assert!(steps.len() >= 4, "{steps:?}");
        out
    }
}

pub fn task_name(task: usize) -> String {
    ["sentiment", "entailment", "topic", "intent"].get(task).map_or_else(|| format!("task{task}"), ToString::to_string)
}

fn config(spec: &Spec) -> ModelConfig {
    ModelConfig {
        family: spec.family,
        hidden_size: if spec.whole == Some(Encoding::Nibbles) { 32 } else { 16 },
        intermediate_size: if spec.whole == Some(Encoding::Nibbles) { 64 } else { 24 },
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: if spec.whole == Some(Encoding::Nibbles) { 8 } else { 4 },
        vocab_size: 32,
        max_position_embeddings: 64,
        rms_norm_eps: 1e-5,
        rope_theta: 10000.0,
        rope_scaling: None,
        tie_word_embeddings: spec.tied,
        bos_token_id: Some(1),
        eos_token_ids: vec![2],
        pad_token_id: None,
    }
}

fn base_weights(config: &ModelConfig, whole: Option<Encoding>) -> TensorMap {
    let mut numbers = Numbers::new(7);
    let mut weights = TensorMap::new();
    let vocabulary = [config.vocab_size, config.hidden_size];
    let matrix = |numbers: &mut Numbers, shape: &[usize; 2], limit, encoding: Option<Encoding>| match encoding {
        Some(encoding) => numbers.whole(shape, encoding),
        None => numbers.tensor(shape, limit),
    };
    let eight = whole.map(|_| Encoding::U8);
    weights.insert("model.embed_tokens.weight".to_owned(), matrix(&mut numbers, &vocabulary, 1024, eight));
    weights.insert("model.norm.weight".to_owned(), numbers.near_one(&[config.hidden_size]));
    if !config.tie_word_embeddings {
        weights.insert("lm_head.weight".to_owned(), matrix(&mut numbers, &vocabulary, 1024, eight));
    }
    for layer in 0..config.num_hidden_layers {
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            weights.insert(format!("model.layers.{layer}.{norm}.weight"), numbers.near_one(&[config.hidden_size]));
        }
        for projection in Projection::ALL {
            let (inputs, outputs) = projection.features(config);
            let module = projection.module(layer);
            weights.insert(format!("{module}.weight"), matrix(&mut numbers, &[outputs, inputs], 400, whole));
            if config.has_qkv_bias() && matches!(projection.name(), "q_proj" | "k_proj" | "v_proj") {
                weights.insert(format!("{module}.bias"), numbers.tensor(&[outputs], 400));
            }
        }
    }
    weights
}

fn config_json(config: &ModelConfig) -> String {
    let (model_type, architecture) = match config.family {
        Family::Llama => ("llama", "LlamaForCausalLM"),
        Family::Qwen2 => ("qwen2", "Qwen2ForCausalLM"),
    };
    serde_json::to_string_pretty(&serde_json::json!({
        "architectures": [architecture],
        "model_type": model_type,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tie_word_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_ids[0],
    }))
    .unwrap()
}

const TOKENIZER: &str = r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
"pre_tokenizer": null, "post_processor": null, "decoder": null,
"model": {"type": "WordLevel", "vocab": {"<unk>": 0, "<s>": 1, "</s>": 2}, "unk_token": "<unk>"}}"#;

fn adapter(config: &ModelConfig, numbers: &mut Numbers) -> LoraAdapter {
    let mut weights = BTreeMap::new();
    for layer in 0..config.num_hidden_layers {
        for projection in Projection::ALL {
            let (inputs, outputs) = projection.features(config);
            let mut matrix = |count: usize| (0..count).map(|_| numbers.small(300)).collect();
            let (a, b) = (matrix(RANK * inputs), matrix(outputs * RANK));
            weights.insert((layer, projection), LoraWeights { a, b, magnitude: None });
        }
    }
    let base_model = "tiny".to_owned();
    LoraAdapter { rank: RANK, alpha: ALPHA, own: BTreeMap::new(), dropout: 0.0, base_model, weights }
}

/// Task `task` of `tasks` has rank 1 + task but on one module, and no delta on one projection; the last task has none at all.
fn mixed_adapter(task: usize, tasks: usize, config: &ModelConfig, numbers: &mut Numbers) -> LoraAdapter {
    let mut weights = BTreeMap::new();
    let rank = 1 + task;
    let own = BTreeMap::from([((1, Projection::VProj), ModuleScale { rank: rank + 2, alpha: 1.5 })]);
    let mut adapter =
        LoraAdapter { rank, alpha: ALPHA, own, dropout: 0.0, base_model: "tiny".to_owned(), weights: BTreeMap::new() };
    for layer in 0..config.num_hidden_layers {
        for projection in Projection::ALL.into_iter().filter(|projection| *projection != Projection::ALL[task]) {
            let (inputs, outputs) = projection.features(config);
            let rank = adapter.rank_of((layer, projection));
            let mut matrix = |count: usize| (0..count).map(|_| numbers.small(300)).collect::<Vec<f32>>();
            let (a, b) = (matrix(rank * inputs), matrix(outputs * rank));
            let magnitude = task.is_multiple_of(2).then(|| matrix(outputs).into_iter().map(|x| 1.0 + x).collect());
            weights.insert((layer, projection), LoraWeights { a, b, magnitude });
        }
    }
    if task + 1 < tasks || tasks == 1 {
        adapter.weights = weights;
    }
    adapter
}

fn prefix_table(config: &ModelConfig, sets: usize, numbers: &mut Numbers) -> TensorMap {
    let rows = [config.num_key_value_heads, PREFIX_ROWS, config.head_dim];
    let mut table = TensorMap::new();
    for set in 0..sets {
        for layer in 0..config.num_hidden_layers {
            let name = format!("tasks.{set}.layers.{layer}");
            table.insert(format!("{name}.key"), numbers.tensor(&rows, 1024));
            table.insert(format!("{name}.value"), numbers.tensor(&rows, 1024));
            table.insert(format!("{name}.log_gate"), numbers.tensor(&[PREFIX_ROWS], 2048));
        }
    }
    table
}

/// An architecture with every operation, and its weights.
pub fn prompt_encoder(config: &ModelConfig, sets: usize, numbers: &mut Numbers) -> (Architecture, TensorMap) {
    let edge = |from, to, operation| Edge { from, to, operation, weight: 0.5 };
    let (width, bottleneck) = (8, 5);
    let architecture = Architecture {
        schema_version: 1,
        width,
        length: PREFIX_ROWS,
        positions: None,
        layers: None,
        generators: Generators::Shared,
        insertion: Insertion::Rows,
        nodes: 2,
        edges: vec![
            edge(0, 1, Operation::MlpTanh { width: bottleneck }),
            edge(0, 1, Operation::Linear),
            edge(0, 2, Operation::Skip),
            edge(1, 2, Operation::Attention { heads: 2 }),
            edge(1, 2, Operation::MlpGelu { width: bottleneck }),
            edge(1, 2, Operation::DepthwiseConvolution { kernel: 3 }),
            edge(1, 2, Operation::Glu),
        ],
    };
    let mut weights = TensorMap::new();
    let mut add = |name: String, shape: &[usize]| {
        weights.insert(name, numbers.tensor(shape, 700));
    };
    for set in 0..sets {
        add(format!("seed.{set}"), &[PREFIX_ROWS, width]);
    }
    add("layer_code".to_owned(), &[config.num_hidden_layers, width]);
    add("edges.0.w1".to_owned(), &[bottleneck, width]);
    add("edges.0.b1".to_owned(), &[bottleneck]);
    add("edges.0.w2".to_owned(), &[width, bottleneck]);
    add("edges.0.b2".to_owned(), &[width]);
    for part in ["q", "k", "v", "out"] {
        add(format!("edges.3.{part}.weight"), &[width, width]);
        add(format!("edges.3.{part}.bias"), &[width]);
    }
    add("edges.4.w1".to_owned(), &[bottleneck, width]);
    add("edges.4.b1".to_owned(), &[bottleneck]);
    add("edges.4.w2".to_owned(), &[width, bottleneck]);
    add("edges.4.b2".to_owned(), &[width]);
    add("edges.5.weight".to_owned(), &[width, 3]);
    add("edges.5.bias".to_owned(), &[width]);
    for part in ["a", "b"] {
        add(format!("edges.6.{part}.weight"), &[width, width]);
        add(format!("edges.6.{part}.bias"), &[width]);
    }
    add("edges.1.weight".to_owned(), &[width, width]);
    add("edges.1.bias".to_owned(), &[width]);
    for layer in 0..config.num_hidden_layers {
        add(format!("head.{layer}.weight"), &[2 * config.kv_width(), width]);
        add(format!("head.{layer}.bias"), &[2 * config.kv_width()]);
        for set in 0..sets {
            for what in ["key", "value"] {
                let rows = [config.num_key_value_heads, PREFIX_ROWS, config.head_dim];
                add(format!("warm_start.{set}.layers.{layer}.{what}"), &rows);
            }
        }
    }
    add("log_gate".to_owned(), &[config.num_hidden_layers]);
    (architecture, weights)
}

fn write_manifest(spec: &Spec, config: &ModelConfig, model: &std::path::Path, paths: &RunPaths) {
    let checkpoint = Checkpoint::open(model).unwrap();
    assert_eq!(checkpoint.config(), config);
    let task = |task: usize| TaskRecord {
        name: task_name(task),
        metric: "accuracy".to_owned(),
        train_examples: 10,
        validation_examples: 5,
        base_score: Some(0.5),
        score: Some(0.75),
        standard_error: None,
        template: "{text}\nAnswer:".to_owned(),
        verbalizers: vec![" no".to_owned(), " yes".to_owned()],
        separator: None,
        normalize: None,
    };
    let adapted = spec.shared || spec.private;
    let method = match (adapted, spec.prefix) {
        (_, Some(PrefixKind::Encoder | PrefixKind::Hidden | PrefixKind::SharedHidden)) => "peml",
        (true, Some(PrefixKind::Table)) => "lora+prefix",
        (false, Some(PrefixKind::Table)) => "prefix",
        (true, Some(PrefixKind::SoftPrompts | PrefixKind::SharedSoftPrompt)) => "lora+prompt",
        (false, Some(PrefixKind::SoftPrompts | PrefixKind::SharedSoftPrompt)) => "prompt",
        (_, None) => "lora",
    };
    let manifest = RunManifest {
        schema_version: RUN_SCHEMA_VERSION,
        pemlc_version: "0.0.0".to_owned(),
        base: BaseModel {
            path: model.display().to_string(),
            name: "tiny".to_owned(),
            licence: Some("apache-2.0".to_owned()),
            config: config.clone(),
            files: checkpoint.file_hashes().unwrap(),
        },
        method: method.to_owned(),
        tasks: (0..spec.tasks).map(task).collect(),
        lora: adapted.then(|| LoraRecord {
            rank: RANK,
            alpha: ALPHA,
            targets: Projection::ALL.to_vec(),
            shared: spec.shared,
            per_task: spec.private,
            mixed: spec.mixed,
        }),
        prefix: spec.prefix.map(|_| PrefixRecord { length: PREFIX_ROWS, per_task: spec.prefix_per_task, gated: true }),
        routing: None,
        seed: 1,
        device: "cpu".to_owned(),
        base_dtype: BaseDtype::F32,
        stages: vec![],
        costs: Costs::default(),
        files: Vec::new(),
    };
    manifest.write(paths.root()).unwrap();
}
