//! `README.md` of an artifact: what it is, which tasks it knows, and how to call it.

use pemlc_artifact::BASE_TASK;
use pemlc_artifact::artifact::ArtifactManifest;
use std::fmt::Write as _;

/// The model card for `manifest`, in Markdown with the metadata block that model hubs read.
pub fn model_card(manifest: &ArtifactManifest) -> String {
    let licence = manifest.base_licence.as_deref();
    let base = &manifest.base_model;
    let mut card = String::from("---\n");
    let _ = writeln!(card, "base_model: {}", one_line(base));
    if let Some(licence) = licence {
        let _ = writeln!(card, "license: {}", one_line(licence));
    }
    card.push_str("library_name: onnx\npipeline_tag: text-generation\n---\n\n");
    let _ = writeln!(
        card,
        "# {} with {} tasks in one ONNX graph\n\n\
         `{}` adapted by `{}` and compiled by pemlc {}. The input `task_id` chooses the task of each row of a batch: {} An id that \
         is no task's answers NaN.\n\n\
         Licence of the base model: {}.\n",
        one_line(base),
        manifest.tasks.len(),
        one_line(base),
        manifest.method,
        manifest.pemlc_version,
        if manifest.one_task_per_batch {
            "all rows of a batch must have one task, and rows of another than the first row's answer NaN."
        } else {
            "rows of different tasks may share a batch."
        },
        licence.map_or_else(|| "not stated by its checkpoint".to_owned(), one_line),
    );
    card.push_str("## Tasks\n\n| task_id | task | metric | base model | adapted |\n|---|---|---|---|---|\n");
    for (id, task) in manifest.tasks.iter().enumerate() {
        let _ = writeln!(
            card,
            "| {id} | {} | {} | {} | {} |",
            cell(&task.name),
            cell(&task.metric),
            score(task.base_score),
            score(task.score)
        );
    }
    card.push_str(&distortion(manifest));
    if manifest.tasks.last().is_some_and(|task| task.name == BASE_TASK) {
        let _ = writeln!(card, "\n`{BASE_TASK}` is the base model itself, without any delta or prefix.");
    }
    if let Some(approximation) = &manifest.approximation {
        let _ = writeln!(
            card,
            "\nUp to {} of each task's delta was left out (`--rank-tolerance`); `pemlc.json` says what, and how far logits are from the \
             trainer's.",
            approximation.rank_tolerance
        );
    }
    card.push_str("\nTemplates, which the text must follow:\n");
    for task in &manifest.tasks {
        let _ = write!(card, "\n`{}`:\n\n{}", one_line(&task.name), block(&task.template));
        if !task.verbalizers.is_empty() {
            let answers: Vec<String> = task.verbalizers.iter().map(|answer| format!("`{answer:?}`")).collect();
            let _ = writeln!(card, "\nAnswers: {}.", answers.join(", "));
        }
        if let Some(separator) = &task.separator {
            let _ = writeln!(card, "\nAn answer stands behind `{separator:?}`.");
        }
        if let Some(length @ ("tokens" | "characters")) = task.normalize.as_deref() {
            let _ = writeln!(card, "\nAnswers are compared by their log-likelihood over the number of their {length}.");
        }
    }
    card.push_str("\n## Calling it\n\n");
    card.push_str(&block_of("python", &example(manifest)));
    card.push_str(
        "\n`attention_mask` covers the cache and the new tokens, prefix rows excluded: they live inside the graph. With padding on \
         either side, `position_ids` is `cumsum(attention_mask) - 1`, at least 0. For the next token, pass `present.N.key|value` \
         as `past_key_values.N.key|value`. `pemlc.json` says what was checked, on which runtimes, with which differences.\n",
    );
    card
}

/// What the number type cost each task, once a check has measured it.
fn distortion(manifest: &ArtifactManifest) -> String {
    let runtimes = manifest.validation.iter().flat_map(|validation| &validation.runtimes);
    let Some(runtime) = runtimes.into_iter().find(|runtime| !runtime.distortion.is_empty()) else {
        return String::new();
    };
    let mut text = format!(
        "\n## What {} costs\n\nNext-token distributions on the probes against the trainer's, by `{}`. Total variation: on average, the \
         probability of no event moves by more.\n\n| task | total variation | of the base model | KL divergence | largest difference of a \
         logit | likeliest token the same |\n|---|---|---|---|---|---|\n",
        manifest.dtype, runtime.runtime
    );
    for task in &runtime.distortion {
        let _ = writeln!(
            text,
            "| {} | {:.4} | {:.4} | {:.2e} | {:.1e} | {:.1} % |",
            cell(&task.task),
            task.total_variation,
            task.base_total_variation,
            task.kl_divergence,
            task.max_abs,
            100.0 * task.argmax_agreement
        );
    }
    text
}

fn example(manifest: &ArtifactManifest) -> String {
    let config = &manifest.config;
    let cache = if manifest.dtype == "f16" { "float16" } else { "float32" };
    format!(
        "import numpy as np, onnxruntime as ort\n\
         from tokenizers import Tokenizer\n\
         \n\
         tokenizer = Tokenizer.from_file(\"tokenizer.json\")\n\
         session = ort.InferenceSession(\"model.onnx\")\n\
         \n\
         ids = np.array([tokenizer.encode(\"your text, as the task's template has it\").ids], dtype=np.int64)\n\
         feed = {{\n\
         \x20   \"input_ids\": ids,\n\
         \x20   \"attention_mask\": np.ones_like(ids),\n\
         \x20   \"position_ids\": np.arange(ids.shape[1], dtype=np.int64)[None],\n\
         \x20   \"task_id\": np.array([0], dtype=np.int64),\n\
         }}\n\
         for layer in range({}):\n\
         \x20   for part in (\"key\", \"value\"):\n\
         \x20       feed[f\"past_key_values.{{layer}}.{{part}}\"] = np.zeros((1, {}, 0, {}), np.{cache})\n\
         logits = session.run([\"logits\"], feed)[0]\n\
         print(tokenizer.decode([int(logits[0, -1].argmax())]))\n",
        config.num_hidden_layers, config.num_key_value_heads, config.head_dim
    )
}

fn score(score: Option<f64>) -> String {
    score.map_or_else(|| "-".to_owned(), |score| format!("{score:.3}"))
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn cell(text: &str) -> String {
    one_line(text).replace('|', "\\|")
}

fn block(text: &str) -> String {
    block_of("text", text)
}

/// A fenced block whose fence is longer than any inside.
fn block_of(language: &str, text: &str) -> String {
    let mut fence = "```".to_owned();
    while text.contains(&fence) {
        fence.push('`');
    }
    format!("{fence}{language}\n{}\n{fence}\n", text.trim_end_matches('\n'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_cannot_leave_its_block() {
        assert_eq!(block("a ``` b\n"), "````text\na ``` b\n````\n");
    }

    #[test]
    fn table_cells_stay_on_one_line() {
        assert_eq!(cell("a | b\nc"), "a \\| b c");
    }
}
