//! Generates burn code for every graph under `PEMLC_BURN_GRAPHS`, and a table of them.
//!
//! The variable names a folder of artifact directories. Of each, `model.onnx` is imported, and every graph of one task beside it.

use anyhow::Context;
use burn_onnx::ModelGen;
use pemlc_artifact::artifact::{ArtifactManifest, GraphProfile};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// A graph to import.
struct Graph {
    /// Name of its Rust module.
    module: String,
    artifact: PathBuf,
    file: String,
    /// The task that it answers as, for a graph without `task_id`.
    task: Option<usize>,
    layers: usize,
}

fn main() -> anyhow::Result<()> {
    println!("cargo::rerun-if-env-changed=PEMLC_BURN_GRAPHS");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let Some(folder) = std::env::var_os("PEMLC_BURN_GRAPHS").map(PathBuf::from) else {
        println!("cargo::warning=PEMLC_BURN_GRAPHS is not set, so nothing is imported: run `cargo xtask burn-check`");
        std::fs::write(out.join("graphs.rs"), "const GRAPHS: &[Graph] = &[];\n")?;
        return Ok(());
    };
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut artifacts: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        artifacts.push(entry?.path());
    }
    artifacts.sort();
    let mut graphs = Vec::new();
    for artifact in artifacts {
        graphs.extend(graphs_of(&artifact)?);
    }
    let mut code = String::new();
    for graph in &graphs {
        ModelGen::new()
            .input(&graph.artifact.join(&graph.file).display().to_string())
            .out_dir(&graph.module)
            .run_from_script();
        code.push_str(&glue(graph)?);
    }
    writeln!(code, "const GRAPHS: &[Graph] = &[")?;
    for Graph { module, artifact, file, task, .. } in &graphs {
        let artifact = artifact.display().to_string();
        writeln!(
            code,
            "    Graph {{ artifact: {artifact:?}, file: {file:?}, task: {task:?}, load: {module}::load }},"
        )?;
    }
    writeln!(code, "];")?;
    std::fs::write(out.join("graphs.rs"), code)?;
    Ok(())
}

fn graphs_of(artifact: &Path) -> anyhow::Result<Vec<Graph>> {
    let manifest = ArtifactManifest::read(artifact)?;
    let name = artifact.file_name().unwrap_or_default().to_string_lossy().replace(|c: char| !c.is_alphanumeric(), "_");
    let layers = manifest.config.num_hidden_layers;
    let graph = |module: String, file: &str, task| Graph {
        module,
        artifact: artifact.to_owned(),
        file: file.to_owned(),
        task,
        layers,
    };
    let mut graphs = vec![graph(name.clone(), "model.onnx", None)];
    for record in manifest.graphs.iter().filter(|record| record.profile == GraphProfile::PinnedCausalLm) {
        // Folders hold the same graphs again.
        let task = manifest.tasks.iter().position(|task| Some(&task.name) == record.task.as_ref());
        if !record.file.contains('/') && task.is_some() {
            graphs.push(graph(format!("{name}_{}", graphs.len()), &record.file, task));
        }
    }
    Ok(graphs)
}

/// A module with the generated code and a function that loads it behind one type: burn's `forward` has an argument for each input and
/// gives a tuple of the outputs, both in the order of the graph.
fn glue(Graph { module, file, task, layers, .. }: &Graph) -> anyhow::Result<String> {
    let stem = Path::new(file).file_stem().unwrap_or_default().to_string_lossy();
    let count = 2 * layers;
    let past: Vec<String> = (0..count).map(|_| "past.next().expect(\"a cache for each layer\")".to_owned()).collect();
    let present: Vec<String> = (0..count).map(|index| format!("p{index}")).collect();
    let task_id = if task.is_none() { ", inputs.task_id" } else { "" };
    let mut code = String::new();
    writeln!(
        code,
        r#"mod {module} {{
    mod generated {{
        #![allow(clippy::all, unused, missing_docs)]
        include!(concat!(env!("OUT_DIR"), "/{module}/{stem}.rs"));
    }}

    pub(super) fn load(device: &burn::tensor::Device) -> crate::Forward {{
        let model = generated::Model::from_file(concat!(env!("OUT_DIR"), "/{module}/{stem}.bpk"), device);
        Box::new(move |inputs| {{
            let mut past = inputs.past.into_iter();
            let (logits, {present}) =
                model.forward(inputs.input_ids, inputs.attention_mask, inputs.position_ids, {past}{task_id});
            crate::Outputs {{ logits, present: vec![{present}] }}
        }})
    }}
}}"#,
        present = present.join(", "),
        past = past.join(", "),
    )?;
    Ok(code)
}
