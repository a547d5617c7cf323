//! `pemlc import`: small adapters that PEFT made, against PEFT's own logits, and everything that is refused.

mod common;

use common::peft::{Case, base, cases, fixtures};
use common::{pemlc, succeed, tiny};
use pemlc_runtime::{Inputs, OpenOptions, Padding, Row, RuntimeKind};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// `import` and `export` of every task of the fixture into one graph.
fn artifact(family: &str, folder: &Path, cases: &[Case]) -> PathBuf {
    let (run, artifact) = (folder.join("run"), folder.join("artifact"));
    let mut import = pemlc();
    import.arg("import").arg("--base").arg(base(family, folder)).arg(&run);
    for case in cases {
        for path in &case.folders {
            import.args(["--task", &format!("{}={path}", case.task)]);
        }
    }
    let output = import.output().expect("the binary starts");
    assert!(output.status.success(), "{}", common::describe(&output, folder));
    succeed(["export".as_ref(), run.as_os_str(), artifact.as_os_str(), "--no-check".as_ref()]);
    artifact
}

fn largest(found: ndarray::ArrayView1<'_, f32>, expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    // Folded so that NaN stays.
    let differences = found.iter().zip(expected).map(|(found, expected)| (f64::from(*found) - expected).abs());
    differences.fold(0.0, |largest, difference| if difference <= largest { largest } else { difference })
}

/// All tasks in one mixed, padded batch give PEFT's logits.
fn answers_are_those_of_peft(family: &str) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cases = cases(family);
    assert!(cases.len() >= 8, "the fixture has all kinds");
    let artifact = artifact(family, folder.path(), &cases);
    let rows: Vec<Row<'_>> =
        cases.iter().enumerate().map(|(task, case)| Row { tokens: &case.tokens, task_id: task as i64 }).collect();
    let longest = cases.iter().map(|case| case.tokens.len()).max().expect("tasks");
    let mut kinds = vec![RuntimeKind::Tract];
    if tiny::has_onnx_runtime() {
        kinds.push(RuntimeKind::OrtCpu);
    }
    for kind in kinds {
        let mut session =
            pemlc_runtime::open(kind, &artifact.join("model.onnx"), &OpenOptions::default()).expect("the graph opens");
        for padding in [Padding::Right, Padding::Left] {
            let outputs = session.run(&Inputs::prefill(&rows, longest, padding)).expect("the graph runs");
            for (row, case) in cases.iter().enumerate() {
                let start = if padding == Padding::Left { longest - case.tokens.len() } else { 0 };
                let logits = |position: usize| outputs.logits.slice(ndarray::s![row, start + position, ..]);
                let worst = largest(logits(0), &case.first).max(largest(logits(case.tokens.len() - 1), &case.last));
                assert!(worst <= 1e-4, "{kind} {padding:?}: task `{}` of {family}: {worst:e}", case.task);
            }
        }
    }
}

#[test]
fn adapters_of_every_kind_on_llama() {
    answers_are_those_of_peft("llama3-tiny");
}

#[test]
fn adapters_of_every_kind_on_qwen2() {
    answers_are_those_of_peft("qwen2-tiny");
}

#[test]
fn an_imported_run_goes_the_whole_road() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (run, artifact) = (folder.path().join("run"), folder.path().join("artifact"));
    let model = base("llama3-tiny", folder.path());
    let probes = folder.path().join("probes.txt");
    fs::write(&probes, "the a to and of in the\n\na of to\n").expect("the folder is writable");
    let adapter = |name: &str| fixtures("llama3-tiny").join(name).display().to_string();
    let table = succeed([
        "import",
        "--base",
        &model.display().to_string(),
        "--task",
        &format!("plain={}", adapter("list")),
        "--task",
        &format!("both={}", adapter("dora_rs")),
        "--task",
        &format!("rows={}", adapter("prefix")),
        "--task",
        &format!("both={}", adapter("prompt")),
        "--template",
        "both=to {text} and {more}",
        "--verbalizers",
        r#"both=[" the", " a"]"#,
        "--probe-text",
        &probes.display().to_string(),
        &run.display().to_string(),
    ]);
    insta::assert_snapshot!(table.replace(&folder.path().display().to_string(), "[FOLDER]"), @"
task   adapters       rank  modules  rows  trained numbers
-----  -------------  ----  -------  ----  ---------------
plain  LoRA              2        4     -              448
both   DoRA + prompt   2-5        3     3              704
rows   prefix            -        -     3              192

run: [FOLDER]/run
next: pemlc export [FOLDER]/run ARTIFACT
");
    let export =
        pemlc().arg("export").args([&run, &artifact]).args(["--runtime", "tract"]).output().expect("it starts");
    assert!(export.status.success(), "{}", common::describe(&export, folder.path()));
    let manifest = fs::read_to_string(artifact.join("pemlc.json")).expect("the manifest");
    let manifest: Value = serde_json::from_str(&manifest).expect("JSON");
    assert_eq!((&manifest["validated"], &manifest["method"]), (&Value::Bool(true), &Value::from("import")));
    let card = fs::read_to_string(artifact.join("README.md")).expect("the model card");
    assert!(card.contains("plain") && card.contains("rows"), "{card}");
    let ask = |more: &[&str]| {
        let artifact = artifact.display().to_string();
        succeed([&["run", &artifact, "--runtime", "tract"], more].concat())
    };
    let ranked = ask(&["--task", "both", "--field", "text=in", "--field", "more=of"]);
    assert!(ranked.contains("probability") && ranked.contains("the"), "{ranked}");
    assert!(!ask(&["--task", "rows", "--text", "to the", "--max-new-tokens", "3"]).is_empty());
    let evaluate = pemlc().arg("evaluate").arg(&artifact).arg("--run").arg(&run).output().expect("it starts");
    insta::assert_snapshot!(common::describe(&evaluate, folder.path()), @"
exit code: 1
-- stdout
-- stderr
error: [FOLDER]/run was imported: it has no validation data and no predictions to compare with. `pemlc check` holds the artifact to its probes
");
}

#[test]
fn another_base_model_is_noted_whatever_the_folder_holds() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let kinds = ["list", "prefix", "prompt"];
    let mut import = pemlc();
    import.arg("import").arg("--base").arg(base("llama3-tiny", folder.path())).arg(folder.path().join("run"));
    for kind in kinds {
        import.args(["--task", &format!("{kind}={}", fixtures("llama3-tiny").join(kind).display())]);
    }
    let output = common::describe(&import.output().expect("the binary starts"), folder.path());
    for kind in kinds {
        let note = format!("note: the adapter of task `{kind}` names tiny as its base model; it fits base, ");
        assert!(output.contains(&note), "{output}");
    }
}

#[test]
fn what_cannot_be_imported_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = base("llama3-tiny", folder.path());
    let out = folder.path().join("run");
    let adapter = |name: &str| fixtures("llama3-tiny").join(name).display().to_string();
    let refused = |arguments: &[&str]| {
        let output =
            pemlc().arg("import").arg("--base").arg(&model).arg(&out).args(arguments).output().expect("it starts");
        let left: Vec<_> =
            fs::read_dir(folder.path()).expect("the folder").flatten().map(|entry| entry.file_name()).collect();
        assert!(
            !left.iter().any(|name| name.to_string_lossy().contains("run") || name.to_string_lossy().starts_with('.'))
        );
        common::describe(&output, folder.path())
    };
    let list = format!("a={}", adapter("list"));
    let changed = folder.path().join("changed");
    fs::create_dir_all(&changed).expect("the folder is writable");
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(fixtures("llama3-tiny").join("list").join(name), changed.join(name)).expect("the fixture is there");
    }
    let edit = |key: &str, value: Value| {
        let path = fixtures("llama3-tiny").join("list/adapter_config.json");
        let mut config: Value = serde_json::from_str(&fs::read_to_string(path).expect("the fixture")).expect("JSON");
        config[key] = value;
        fs::write(changed.join("adapter_config.json"), config.to_string()).expect("the folder is writable");
        refused(&["--task", &format!("a={}", changed.display())])
    };
    let texts = folder.path().join("texts");
    fs::write(&texts, "\n \n").expect("the folder is writable");
    insta::assert_snapshot!(
        [
            refused(&["--task", "sentiment"]),
            refused(&["--task", &format!("a={}", folder.path().join("nothing").display())]),
            refused(&["--task", &list, "--template", "b=x"]),
            refused(&["--task", &list, "--template", "a={text"]),
            refused(&["--task", &list, "--verbalizers", "a=yes,no"]),
            refused(&["--task", &format!("../a={}", adapter("list"))]),
            refused(&["--task", &list, "--task", &format!("a={}", adapter("dora_rs"))]),
            refused(&["--task", &format!("a={}", adapter("prefix")), "--task", &format!("a={}", adapter("prompt"))]),
            refused(&["--task", &format!("a={}", adapter("mpt"))]),
            refused(&["--task", &list, "--probe-text", &texts.display().to_string()]),
            edit("peft_type", Value::from("IA3")),
            edit("modules_to_save", serde_json::json!(["lm_head"])),
            edit("bias", Value::from("all")),
            edit("r", Value::from(5)),
        ]
        .join("\n"), @r#"
exit code: 1
-- stdout
-- stderr
error: --task sentiment: expected NAME=DIR

exit code: 1
-- stdout
-- stderr
error: task `a`: [FOLDER]/nothing/adapter_config.json: No such file or directory (os error 2)

exit code: 1
-- stdout
-- stderr
error: --template names `b`, which is no --task; those are a

exit code: 1
-- stdout
-- stderr
error: template of task `a`: `{` at character 1 has no `}`: close it, or write `{{` for a brace

exit code: 1
-- stdout
-- stderr
error: --verbalizers a=yes,no: expected a JSON list of texts, for instance a=[" no", " yes"]
  caused by: expected value at line 1 column 1

exit code: 1
-- stdout
-- stderr
error: [FOLDER]/run: task name "../a" cannot name a folder: use letters, digits, '-', '_' and '.'

exit code: 1
-- stdout
-- stderr
error: task `a`: [REPO]/fixtures/peft/llama3-tiny/list and [REPO]/fixtures/peft/llama3-tiny/dora_rs both hold deltas: a task has one

exit code: 1
-- stdout
-- stderr
error: task `a`: [REPO]/fixtures/peft/llama3-tiny/prefix and [REPO]/fixtures/peft/llama3-tiny/prompt both hold a prefix or soft prompt: a task has one

exit code: 1
-- stdout
-- stderr
error: task `a`: [REPO]/fixtures/peft/llama3-tiny/mpt/adapter_config.json: it holds 3 tasks: say which with #INDEX behind the folder, counted from 0

exit code: 1
-- stdout
-- stderr
error: [FOLDER]/texts: holds no text; write one a line

exit code: 1
-- stdout
-- stderr
error: task `a`: [FOLDER]/changed/adapter_config.json: `peft_type` is IA3; LORA (also rsLoRA and DoRA), PREFIX_TUNING, PROMPT_TUNING, P_TUNING and MULTITASK_PROMPT_TUNING can be read

exit code: 1
-- stdout
-- stderr
error: task `a`: [FOLDER]/changed/adapter_config.json: `modules_to_save` names lm_head: modules that were trained whole are no adapter, and cannot be read. Train without them, or merge them into a base model of their own

exit code: 1
-- stdout
-- stderr
error: task `a`: [FOLDER]/changed/adapter_config.json: `bias` is "all": trained biases of the base model cannot be read, only `none`

exit code: 1
-- stdout
-- stderr
error: task `a`: [FOLDER]/changed/adapter_model.safetensors: 8 tensors do not fit adapter_config.json and the base model:
  base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight is [2, 32], expected [5, 32]
  base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight is [32, 2], expected [32, 5]
  base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight is [2, 32], expected [5, 32]
  base_model.model.model.layers.0.self_attn.v_proj.lora_B.weight is [16, 2], expected [16, 5]
  base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight is [2, 32], expected [5, 32]
  base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight is [32, 2], expected [32, 5]
  base_model.model.model.layers.1.self_attn.v_proj.lora_A.weight is [2, 32], expected [5, 32]
  base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight is [16, 2], expected [16, 5]
"#);
    // Adapters of another shape of model.
    let other = base("qwen2-tiny", &folder.path().join("other"));
    let config = fs::read_to_string(other.join("config.json")).expect("the fixture");
    let mut config: Value = serde_json::from_str(&config).expect("JSON");
    config["num_hidden_layers"] = Value::from(1);
    fs::write(other.join("config.json"), config.to_string()).expect("the folder is writable");
    let output =
        pemlc().args(["import", "--base"]).arg(&other).args(["--task", &list]).arg(&out).output().expect("it starts");
    assert!(!output.status.success() && !out.exists());
}
