use super::super::tests::model;
use super::*;
use serde_json::json;

/// Rank 2 and alpha 4 on two projections of both layers.
fn adapter() -> LoraAdapter {
    let mut weights = BTreeMap::new();
    for layer in 0..2 {
        for projection in [Projection::QProj, Projection::DownProj] {
            weights.insert((layer, projection), numbers(projection, 2));
        }
    }
    LoraAdapter { rank: 2, alpha: 4.0, own: BTreeMap::new(), dropout: 0.0, base_model: "tiny".to_owned(), weights }
}

fn numbers(projection: Projection, rank: usize) -> LoraWeights {
    let (inputs, outputs) = projection.features(&model());
    let numbers = |count: usize| (0..count).map(|n| n as f32 * 0.5).collect::<Vec<_>>();
    LoraWeights { a: numbers(rank * inputs), b: numbers(outputs * rank), magnitude: None }
}

fn change(folder: &Path, edit: impl Fn(&mut Value)) {
    let path = folder.join(CONFIG);
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    edit(&mut config);
    std::fs::write(&path, config.to_string()).unwrap();
}

fn rename(folder: &Path, new_name: impl Fn(&str) -> String) {
    let path = folder.join(WEIGHTS);
    let map = tensors::read(&path).unwrap().into_iter().map(|(name, tensor)| (new_name(&name), tensor)).collect();
    tensors::write(&path, &map).unwrap();
}

#[test]
fn ranks_and_alphas_of_single_modules() {
    let folder = tempfile::tempdir().unwrap();
    let mut mixed = adapter();
    mixed.weights.insert((1, Projection::QProj), numbers(Projection::QProj, 3));
    mixed.own.insert((1, Projection::QProj), ModuleScale { rank: 3, alpha: 4.0 });
    mixed.own.insert((0, Projection::DownProj), ModuleScale { rank: 2, alpha: 0.5 });
    mixed.weights.remove(&(0, Projection::QProj));
    mixed.write(folder.path(), &model()).unwrap();
    let read = LoraAdapter::read(folder.path(), &model()).unwrap();
    assert_eq!(read, mixed);
    assert_eq!((read.ranks(), read.factor_of((1, Projection::QProj))), ((2, 3), 4.0 / 3.0));
    // As PEFT's users write patterns, with rank-stabilised scales.
    change(folder.path(), |config| {
        config["rank_pattern"] = json!({"layers.1.self_attn.q_proj": 3});
        config["alpha_pattern"] = json!({r"^model\.layers\.0\.mlp\..*": 0.5});
        config["use_rslora"] = json!(true);
        config["target_modules"] = json!(r"(.*\.1\.self_attn\.q_proj)|(.*down_proj)");
    });
    let read = LoraAdapter::read(folder.path(), &model()).unwrap();
    let close = |site, expected: f64| assert!((read.factor_of(site) - expected).abs() < 1e-12, "{site:?}");
    close((1, Projection::QProj), 4.0 / 3f64.sqrt());
    close((0, Projection::DownProj), 0.5 / 2f64.sqrt());
    close((1, Projection::DownProj), 4.0 / 2f64.sqrt());
}

#[test]
fn names_with_an_adapter_in_them() {
    let folder = tempfile::tempdir().unwrap();
    adapter().write(folder.path(), &model()).unwrap();
    rename(folder.path(), |name| name.replace(".weight", ".default.weight").replacen("base_model.model.", "", 1));
    assert_eq!(LoraAdapter::read(folder.path(), &model()).unwrap(), adapter());
}

#[test]
fn adapters_that_would_be_misread_are_refused() {
    let error = |edit: &dyn Fn(&Path)| {
        let folder = tempfile::tempdir().unwrap();
        adapter().write(folder.path(), &model()).unwrap();
        edit(folder.path());
        let error = LoraAdapter::read(folder.path(), &model()).unwrap_err().to_string();
        error.replace(&folder.path().display().to_string(), "FOLDER")
    };
    let changed = |edit: &dyn Fn(&mut Value)| error(&|folder| change(folder, edit));
    let renamed = |edit: &dyn Fn(&str) -> String| error(&|folder| rename(folder, edit));
    insta::assert_snapshot!(
        [
            changed(&|config| config["lora_bias"] = json!(true)),
            changed(&|config| config["use_dora"] = json!(true)),
            changed(&|config| config["modules_to_save"] = json!(["lm_head", "embed_tokens"])),
            changed(&|config| config["init_lora_weights"] = json!("pissa_niter_4")),
            changed(&|config| config["bias"] = json!("all")),
            changed(&|config| config["r"] = json!(3)),
            changed(&|config| config["peft_type"] = json!("LOHA")),
            changed(&|config| config["target_modules"] = json!(["q_proj", "k_proj", "down_proj"])),
            changed(&|config| config["target_modules"] = json!(["q_proj"])),
            changed(&|config| config["rank_pattern"] = json!({"down_proj": 4})),
            changed(&|config| config["rank_pattern"] = json!({"down_proj": 0})),
            changed(&|config| config["rank_pattern"] = json!({"down_proj": 1.5})),
            renamed(&|name| name.replace("model.layers", "transformer.h")),
            renamed(&|name| name.replace("layers.1", "layers.7")),
            renamed(&|name| name.replace("layers.1.self_attn.q_proj.lora_B", "layers.1.self_attn.q_proj.lora_embedding_B")),
            error(&|folder| std::fs::rename(folder.join(WEIGHTS), folder.join("adapter_model.bin")).unwrap()),
            error(&|folder| tensors::write(&folder.join(WEIGHTS), &TensorMap::new()).unwrap()),
        ]
        .join("\n"), @r#"
FOLDER/adapter_config.json: `lora_bias` is set; adapters with it cannot be read
FOLDER/adapter_model.safetensors: 4 tensors do not fit adapter_config.json and the base model:
  base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector is missing
  base_model.model.model.layers.0.mlp.down_proj.lora_magnitude_vector is missing
  base_model.model.model.layers.1.self_attn.q_proj.lora_magnitude_vector is missing
  base_model.model.model.layers.1.mlp.down_proj.lora_magnitude_vector is missing
FOLDER/adapter_config.json: `modules_to_save` names lm_head, embed_tokens: modules that were trained whole are no adapter, and cannot be read. Train without them, or merge them into a base model of their own
FOLDER/adapter_config.json: `init_lora_weights` is "pissa_niter_4": such an adapter belongs to a base model whose weights PEFT changed. Convert it to a plain LoRA with `save_pretrained(DIR, path_initial_model_for_weight_conversion=...)`
FOLDER/adapter_config.json: `bias` is "all": trained biases of the base model cannot be read, only `none`
FOLDER/adapter_model.safetensors: 8 tensors do not fit adapter_config.json and the base model:
  base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight is [2, 8], expected [3, 8]
  base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight is [8, 2], expected [8, 3]
  base_model.model.model.layers.0.mlp.down_proj.lora_A.weight is [2, 12], expected [3, 12]
  base_model.model.model.layers.0.mlp.down_proj.lora_B.weight is [8, 2], expected [8, 3]
  base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight is [2, 8], expected [3, 8]
  base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight is [8, 2], expected [8, 3]
  base_model.model.model.layers.1.mlp.down_proj.lora_A.weight is [2, 12], expected [3, 12]
  base_model.model.model.layers.1.mlp.down_proj.lora_B.weight is [8, 2], expected [8, 3]
FOLDER/adapter_config.json: `peft_type` is LOHA, expected LORA
FOLDER/adapter_config.json: `target_modules` names 2 modules that adapter_model.safetensors has no tensor for:
  model.layers.0.self_attn.k_proj
  model.layers.1.self_attn.k_proj
FOLDER/adapter_config.json: adapter_model.safetensors has tensors of 2 modules that `target_modules` does not name, so PEFT would not use them:
  model.layers.0.mlp.down_proj
  model.layers.1.mlp.down_proj
FOLDER/adapter_model.safetensors: 4 tensors do not fit adapter_config.json and the base model:
  base_model.model.model.layers.0.mlp.down_proj.lora_A.weight is [2, 12], expected [4, 12]
  base_model.model.model.layers.0.mlp.down_proj.lora_B.weight is [8, 2], expected [8, 4]
  base_model.model.model.layers.1.mlp.down_proj.lora_A.weight is [2, 12], expected [4, 12]
  base_model.model.model.layers.1.mlp.down_proj.lora_B.weight is [8, 2], expected [8, 4]
FOLDER/adapter_config.json: `rank_pattern` gives model.layers.0.mlp.down_proj the rank 0
FOLDER/adapter_config.json: `rank_pattern` gives model.layers.0.mlp.down_proj the rank 1.5
FOLDER/adapter_model.safetensors: matches no module of the base model (Llama, 2 layers, 8 wide): none of its 8 tensors belongs to one:
  base_model.model.transformer.h.0.mlp.down_proj.lora_A.weight [2, 12]
  base_model.model.transformer.h.0.mlp.down_proj.lora_B.weight [8, 2]
  base_model.model.transformer.h.0.self_attn.q_proj.lora_A.weight [2, 8]
  base_model.model.transformer.h.0.self_attn.q_proj.lora_B.weight [8, 2]
  base_model.model.transformer.h.1.mlp.down_proj.lora_A.weight [2, 12]
  base_model.model.transformer.h.1.mlp.down_proj.lora_B.weight [8, 2]
  base_model.model.transformer.h.1.self_attn.q_proj.lora_A.weight [2, 8]
  base_model.model.transformer.h.1.self_attn.q_proj.lora_B.weight [8, 2]
FOLDER/adapter_model.safetensors: 4 tensors belong to no module that can be adapted (the seven projections of each layer of Llama, 2 layers, 8 wide):
  base_model.model.model.layers.7.mlp.down_proj.lora_A.weight [2, 12]
  base_model.model.model.layers.7.mlp.down_proj.lora_B.weight [8, 2]
  base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight [2, 8]
  base_model.model.model.layers.7.self_attn.q_proj.lora_B.weight [8, 2]
FOLDER/adapter_model.safetensors: 1 tensors belong to no module that can be adapted (the seven projections of each layer of Llama, 2 layers, 8 wide):
  base_model.model.model.layers.1.self_attn.q_proj.lora_embedding_B.weight [8, 2]
FOLDER/adapter_model.bin: a pickle is not read, because reading one runs the code in it: load the adapter with PEFT, and save it as adapter_model.safetensors with `save_pretrained(DIR, safe_serialization=True)`
FOLDER/adapter_model.safetensors: holds no tensor: the adapter would do nothing
"#);
    // Left out in silence, magnitudes would change every answer.
    let folder = tempfile::tempdir().unwrap();
    let mut dora = adapter();
    for ((_, projection), weights) in &mut dora.weights {
        weights.magnitude = Some(vec![1.0; projection.features(&model()).1]);
    }
    dora.write(folder.path(), &model()).unwrap();
    change(folder.path(), |config| config["use_dora"] = json!(false));
    let error = LoraAdapter::read(folder.path(), &model()).unwrap_err().to_string();
    assert!(error.contains("lora_magnitude_vector: magnitudes, but `use_dora` is not set"), "{error}");
}
