//! A run of the tiny model on two tasks of a few lines, which takes a second or two.

use std::path::{Path, PathBuf};

/// Writes the data and a run file of `steps` steps into `folder`, and returns the run file.
pub(crate) fn run_file(folder: &Path, steps: u32) -> PathBuf {
    let model = super::repository().join("fixtures/tiny-model");
    let text = format!(
        r#"
model = "{}"
method = "peml"
[training]
steps = {steps}
batch_size = 4
max_length = 64
warmup_steps = 2
checkpoint_every = 5
[lora]
rank = 2
sharing = "both"
[prefix]
length = 4
width = 16
[evaluation]
batch_size = 8
[[tasks]]
name = "colour"
train = "colour.jsonl"
validation = "colour.jsonl"
template = "{{thing}} is"
verbalizers = [" red", " blue"]
[[tasks]]
name = "capital"
train = "capital.csv"
validation = "capital.csv"
template = "The capital of {{country}} is"
choices = "cities"
"#,
        model.display()
    );
    let colours =
        [("Blood", 0), ("The sky", 1), ("A ripe tomato", 0), ("The sea", 1), ("A fire engine", 0), ("A sapphire", 1)];
    let colours: String =
        colours.iter().map(|(thing, label)| format!("{{\"thing\": \"{thing}\", \"label\": {label}}}\n")).collect();
    let capitals = "country,cities,label\n\
                    France,\"[\"\"Paris\"\", \"\"Lyon\"\"]\",0\n\
                    Italy,\"[\"\"Milan\"\", \"\"Rome\"\"]\",1\n\
                    Japan,\"[\"\"Tokyo\"\", \"\"Osaka\"\", \"\"Kyoto\"\"]\",0\n\
                    Spain,\"[\"\"Seville\"\", \"\"Madrid\"\"]\",1\n";
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).expect("the folder is writable");
    write("colour.jsonl", &colours);
    write("capital.csv", capitals);
    write("run.toml", &text);
    folder.join("run.toml")
}

/// Whether ONNX Runtime is there. Says so when it is not, and panics where it must be.
pub(crate) fn has_onnx_runtime() -> bool {
    match pemlc_runtime::locate_ort() {
        Ok(_) => true,
        Err(error) => {
            let required = ["CI", "PEMLC_REQUIRE_ORT"].iter().any(|name| std::env::var_os(name).is_some());
            assert!(!required, "{error}");
            eprintln!("skipped, for lack of ONNX Runtime: {error}");
            false
        }
    }
}
