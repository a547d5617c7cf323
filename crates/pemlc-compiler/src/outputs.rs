//! Graphs beside `model.onnx`: a scorer, one graph a task for stacks that cannot send `task_id`, and a graph for ONNX Runtime's adapters.

use crate::emit::{DATA_FILE, MODEL_FILE, ort_adapter, write_models};
use crate::export::ExportError;
use crate::genai::{GENAI_CONFIG, genai_config};
use crate::ir::{Graph, Tensor};
use crate::lower::{
    AnswerTokens, lower_adapter_decoder, lower_pinned_decoder, lower_scorer, lower_uniform_scorer, projection_path,
};
use crate::normal_form::{NormalForm, Prefix, PrefixLayer};
use crate::target::Target;
use pemlc_artifact::artifact::{GraphProfile, GraphRecord};
use pemlc_artifact::hash::FileHash;
use pemlc_artifact::{Checkpoint, CheckpointError, ModelConfig};
use std::path::Path;

/// What to write beside `model.onnx`.
#[derive(Debug, Clone, Default)]
pub struct Extras {
    /// `scorer.onnx`, with these tokens of every task's answers.
    pub scorer: Option<AnswerTokens>,
    /// `task.NAME.onnx` for every task, beside `model.onnx` and with the same data file.
    pub per_task: bool,
    /// `tasks/NAME/`: a folder of its own for every task, as Optimum and transformers.js load it.
    pub task_folders: bool,
    /// `adapters.onnx` and `onnx_adapters/NAME.onnx_adapter`.
    pub ort_adapters: bool,
}

/// A graph and where it goes.
pub(crate) struct ExtraGraph {
    pub(crate) record: GraphRecord,
    pub(crate) graph: Graph,
}

/// The folder of a task, as [`Extras::task_folders`] lays it out.
pub(crate) fn task_folder(task: &str) -> String {
    format!("tasks/{task}")
}

/// Texts that stand beside a decoder in `graph_file`: tokenizer, configuration, and how onnxruntime-genai runs it.
pub(crate) fn companions(checkpoint: &Checkpoint, graph_file: &str) -> Result<Vec<(String, String)>, CheckpointError> {
    let mut texts = checkpoint.companion_files()?;
    texts.push(("tokenizer.json".to_owned(), checkpoint.tokenizer_json()?));
    texts.push(("config.json".to_owned(), checkpoint.config_json()?));
    texts.push((GENAI_CONFIG.to_owned(), genai_config(checkpoint.config(), graph_file)));
    Ok(texts)
}

/// Lowers what `extras` asks for, in a fixed order. `tasks` are the names in `task_id` order; `uniform` says that a batch has one task.
pub(crate) fn lower_extras(
    extras: &Extras,
    config: &ModelConfig,
    (normal_form, uniform): (&NormalForm, bool),
    tasks: &[&str],
) -> Result<Vec<ExtraGraph>, ExportError> {
    let record = |file: String, profile, task: Option<&str>| GraphRecord {
        file,
        profile,
        task: task.map(str::to_owned),
        answers: Vec::new(),
    };
    let mut graphs = Vec::new();
    if let Some(answers) = &extras.scorer {
        // A task without answers, as the base model is, has no score.
        let mut answers = answers.clone();
        answers.resize(tasks.len(), Vec::new());
        let answers = &answers;
        let lower = if uniform { lower_uniform_scorer } else { lower_scorer };
        let graph = lower(config, normal_form, answers)?;
        graphs.push(ExtraGraph {
            record: GraphRecord {
                answers: answers.clone(),
                ..record("scorer.onnx".to_owned(), GraphProfile::Scorer, None)
            },
            graph,
        });
    }
    for (index, task) in tasks.iter().enumerate() {
        if !extras.per_task && !extras.task_folders {
            break;
        }
        let graph = lower_pinned_decoder(config, &normal_form.pinned(index))?;
        if extras.per_task {
            let record = record(format!("task.{task}.onnx"), GraphProfile::PinnedCausalLm, Some(task));
            graphs.push(ExtraGraph { record, graph: graph.clone() });
        }
        if extras.task_folders {
            let file = format!("{}/onnx/model.onnx", task_folder(task));
            graphs.push(ExtraGraph { record: record(file, GraphProfile::PinnedCausalLm, Some(task)), graph });
        }
    }
    if extras.ort_adapters {
        // All tasks have the same parameters.
        if adapter_parameters(normal_form, 0).is_empty() {
            return Err(ExportError::NothingToAdapt);
        }
        let graph = lower_adapter_decoder(config, normal_form)?;
        let record = record("adapters.onnx".to_owned(), GraphProfile::AdapterCausalLm, None);
        graphs.push(ExtraGraph { record, graph });
    }
    Ok(graphs)
}

/// What fills the inputs of the graph for adapters when the task is `task`, in the graph's order of names.
pub(crate) fn adapter_parameters(normal_form: &NormalForm, task: usize) -> Vec<(String, Tensor)> {
    let own = normal_form.pinned(task);
    let matrix = |tensor: &Tensor| tensor.clone().without_first_axis();
    let deltas = own.private.iter().flat_map(|((layer, projection), delta)| {
        let site = projection_path(*layer, *projection);
        [(format!("{site}.lora_a"), matrix(&delta.down)), (format!("{site}.lora_b"), matrix(&delta.up))]
    });
    let scales = own.private_scale.iter().map(|((layer, projection), scale)| {
        (format!("{}.task_scale", projection_path(*layer, *projection)), scale.as_ref().clone())
    });
    let open = normal_form.prefix.iter().flat_map(|prefix| prefix.layers.iter().map(PrefixLayer::is_open));
    let parts = |prefix: &Prefix| prefix.layers.iter().map(|layer| prefix.own(layer)).collect::<Vec<_>>();
    let rows = own.prefix.iter().flat_map(parts).enumerate();
    let rows = rows.zip(open).filter(|(_, open)| *open).flat_map(|((layer, rows), _)| {
        let site = format!("layers.{layer}.attention");
        [
            (format!("{site}.prefix_key"), rows.key.as_ref().clone()),
            (format!("{site}.prefix_value"), rows.value.as_ref().clone()),
            (format!("{site}.prefix_log_gate"), rows.log_gate.as_ref().clone()),
        ]
    });
    deltas.chain(scales).chain(rows).collect()
}

/// Writes `model.onnx` and the extra graphs into the artifact `directory`. Graphs in the directory itself share one data file; a task's
/// folder has its own, so that it can be shipped alone.
pub(crate) fn write_graphs(
    main: &Graph,
    extras: &[ExtraGraph],
    checkpoint: &Checkpoint,
    (metadata, target): (&[(String, String)], Target),
    directory: &Path,
) -> Result<Vec<FileHash>, ExportError> {
    let beside = extras.iter().filter(|extra| !extra.record.file.contains('/'));
    let beside = beside.map(|extra| (extra.record.file.as_str(), &extra.graph));
    let graphs: Vec<(&str, &Graph)> = std::iter::once((MODEL_FILE, main)).chain(beside).collect();
    let mut files = write_models(&graphs, DATA_FILE, checkpoint, (metadata, target), directory)?;
    for extra in extras.iter().filter(|extra| extra.record.file.contains('/')) {
        let Some((parent, name)) = extra.record.file.rsplit_once('/') else { continue };
        let folder = directory.join(parent);
        std::fs::create_dir_all(&folder).map_err(at(&folder))?;
        // The name that transformers.js derives from the graph's.
        let written =
            write_models(&[(name, &extra.graph)], &format!("{name}_data"), checkpoint, (metadata, target), &folder)?;
        files.extend(written.into_iter().map(|file| FileHash { path: format!("{parent}/{}", file.path), ..file }));
    }
    Ok(files)
}

/// Writes `onnx_adapters/NAME.onnx_adapter` for every task.
pub(crate) fn write_adapters(normal_form: &NormalForm, tasks: &[&str], directory: &Path) -> Result<(), ExportError> {
    let folder = directory.join("onnx_adapters");
    std::fs::create_dir_all(&folder).map_err(at(&folder))?;
    for (index, task) in tasks.iter().enumerate() {
        let path = folder.join(format!("{task}.onnx_adapter"));
        let parameters = adapter_parameters(normal_form, index);
        let bytes = ort_adapter(&parameters).map_err(|error| at(&path)(std::io::Error::other(error)))?;
        std::fs::write(&path, bytes).map_err(at(&path))?;
    }
    Ok(())
}

/// Writes what Optimum, transformers.js and onnxruntime-genai want beside each task's graph.
pub(crate) fn write_task_folders(tasks: &[&str], checkpoint: &Checkpoint, directory: &Path) -> Result<(), ExportError> {
    for task in tasks {
        let folder = directory.join(task_folder(task));
        for (name, text) in companions(checkpoint, "onnx/model.onnx")? {
            let text = if name == "config.json" { with_external_data(&text) } else { text };
            let path = folder.join(name);
            std::fs::write(&path, text).map_err(at(&path))?;
        }
    }
    Ok(())
}

/// transformers.js has to be told that the weights are in a file of their own, and takes a quantised file unless told otherwise.
fn with_external_data(config: &str) -> String {
    let Ok(mut config) = serde_json::from_str::<serde_json::Value>(config) else { return config.to_owned() };
    config["transformers.js_config"] =
        serde_json::json!({"dtype": "fp32", "use_external_data_format": {"model.onnx": 1}});
    format!("{config:#}\n")
}

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> ExportError {
    let path = path.to_owned();
    move |source| ExportError::Io { path, source }
}
