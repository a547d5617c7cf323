//! What `pemlc inspect --weights`, `--shapes` and `--cost` show of the tiny model's exported graph.

#[allow(unreachable_pub, reason = "shared by several test files")]
mod support;

use pemlc_compiler::inspect::cost::{Sizes, cost};
use pemlc_compiler::inspect::shapes::shapes;
use pemlc_compiler::inspect::weights::weights;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::OnceLock;
use support::fixture::{Fixture, PrefixKind, Spec};
use support::onnx::{floats, function, graph as onnx_graph, int, integers, model, node, text, value, with, write};

/// The graph with private LoRA and a prefix, exported once.
fn graph() -> PathBuf {
    static FIXTURE: OnceLock<(Fixture, PathBuf)> = OnceLock::new();
    let export = || {
        let fixture = Fixture::new(Spec { private: true, prefix: Some(PrefixKind::Table), ..Spec::default() });
        let out = fixture.export();
        (fixture, out)
    };
    FIXTURE.get_or_init(export).1.join("model.onnx")
}

fn sizes(batch: u64, sequence: u64, past: u64) -> Sizes {
    Sizes { batch, sequence, past, symbols: BTreeMap::new() }
}

/// Without the digits that libm had a part in.
fn portable(text: &str) -> String {
    text.lines().filter(|line| !line.contains("inverse_frequencies")).map(|line| format!("{line}\n")).collect()
}

#[test]
fn weights_as_a_table() {
    insta::assert_snapshot!(portable(&weights(&graph()).unwrap().to_text()));
}

#[test]
fn shapes_as_a_table() {
    insta::assert_snapshot!(shapes(&graph()).unwrap().to_text());
}

#[test]
fn cost_of_a_prefill_and_of_a_decoding_step() {
    insta::assert_snapshot!(cost(&graph(), &sizes(8, 64, 0)).unwrap().to_text());
    insta::assert_snapshot!(cost(&graph(), &sizes(1, 1, 100)).unwrap().to_text());
}

#[test]
fn json_has_the_same_in_full() {
    let table = serde_json::to_value(weights(&graph()).unwrap()).unwrap();
    let row = table["weights"].as_array().unwrap().iter().find(|row| row["name"] == "embedding.weight").unwrap();
    insta::assert_json_snapshot!(row);
    let cost = serde_json::to_value(cost(&graph(), &sizes(2, 3, 4)).unwrap()).unwrap();
    insta::assert_json_snapshot!([
        &cost["total"],
        &cost["classes"]["matrix product"],
        &cost["layers"]["layers.1"],
        &cost["unknown"]
    ]);
    let shapes = serde_json::to_value(shapes(&graph()).unwrap()).unwrap();
    let row = shapes["values"].as_array().unwrap().iter().find(|row| row["name"] == "present.0.key").unwrap();
    insta::assert_json_snapshot!(row);
}

/// The multiply-adds by hand: rows times the numbers of each weight and of the language-model head, scores and values. Without private
/// deltas, whose lowering a cost model chooses.
#[test]
fn products_are_what_the_shapes_say() {
    let fixture = Fixture::new(Spec { prefix: Some(PrefixKind::Table), ..Spec::default() });
    let report = cost(&fixture.export().join("model.onnx"), &sizes(8, 64, 0)).unwrap();
    let (rows, hidden, inner, kv, vocabulary) = (8 * 64u64, 16u64, 24u64, 8u64, 32u64);
    let dense = 2 * (2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * inner) + hidden * vocabulary;
    let (heads, head_dim, prefix) = (4u64, 4u64, 4u64);
    let attention = 2 * (2 * 8 * heads * 64 * (64 + prefix) * head_dim);
    assert_eq!(report.total.multiply_adds, rows * dense + attention);
    assert!(report.unknown.is_empty(), "{:?}", report.unknown);
}

/// Fused operators, as other exporters write them: 2 rows, 3 new tokens, 4 in the cache, 4 heads (2 shared ones) of width 8.
#[test]
fn attention_of_others_counts_scores_and_values() {
    let heads = |node| with(with(node, int("num_heads", 4)), int("kv_num_heads", 2));
    let q_heads = |node| with(with(node, int("q_num_heads", 4)), int("kv_num_heads", 2));
    let inputs = vec![
        value("q", 1, &["batch", "sequence", "32"]),
        value("k", 1, &["batch", "sequence", "16"]),
        value("pk", 1, &["batch", "2", "past_sequence", "8"]),
        value("lengths", 6, &["batch"]),
        value("total", 6, &[]),
    ];
    let nodes = vec![
        heads(node(
            "com.microsoft:GroupQueryAttention",
            "grouped",
            &["q", "k", "k", "pk", "pk", "lengths", "total"],
            &["a", "nk", "nv"],
        )),
        q_heads(node("Attention", "standard", &["q", "k", "k", "", "pk", "pk"], &["b", "mk", "mv"])),
        with(node("Einsum", "einsum", &["a", "b"], &["e"]), text("equation", "bsi, bsj -> bij")),
    ];
    let outputs = vec![value("e", 1, &["batch", "32", "32"])];
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "fused.onnx", &model(23, onnx_graph(inputs, outputs, vec![], nodes)));
    let report = cost(&path, &sizes(2, 3, 4)).unwrap();
    assert!(report.unknown.is_empty(), "{:?}", report.unknown);
    let attention = 2 * 3 * (4 + 3) * (4 * 8) * 2;
    assert_eq!(report.classes["attention"].multiply_adds, 2 * attention);
    assert_eq!(report.classes["matrix product"].multiply_adds, 2 * 3 * 32 * 32);
    insta::assert_snapshot!(shapes(&path).unwrap().to_text());
}

/// A graph that computes its own shapes, and symbols that nobody knows.
#[test]
fn shapes_that_the_graph_computes_are_followed() {
    let nodes = vec![
        node("Shape", "shape", &["x"], &["dims"]),
        node("Gather", "rows", &["dims", "zero"], &["batch"]),
        node("Unsqueeze", "row", &["batch", "axis"], &["rows"]),
        with(node("Concat", "sizes", &["rows", "open", "four"], &["target"]), int("axis", 0)),
        node("Reshape", "split", &["x", "target"], &["y"]),
        node("Slice", "last", &["y", "minus", "end", "one"], &["z"]),
        node("MatMul", "product", &["z", "w"], &["p"]),
        node("Mystery", "mystery", &["p"], &["q"]),
    ];
    let scalar = |name: &str, number: i64| onnx_protobuf::TensorProto { dims: vec![], ..integers(name, &[number]) };
    let weights = vec![
        scalar("zero", 0),
        integers("axis", &[0]),
        integers("open", &[-1]),
        integers("four", &[4]),
        integers("minus", &[-1]),
        integers("end", &[i64::MAX]),
        integers("one", &[1]),
        floats("w", &[4, 6], &[0.0; 24]),
    ];
    let outputs = vec![value("q", 1, &["?", "?"])];
    let folder = tempfile::tempdir().unwrap();
    let path = write(
        folder.path(),
        "m",
        &model(18, onnx_graph(vec![value("x", 1, &["images", "8*words"])], outputs, weights, nodes)),
    );
    insta::assert_snapshot!(shapes(&path).unwrap().to_text());
    insta::assert_snapshot!(cost(&path, &sizes(1, 1, 0)).unwrap().to_text());
    let symbols = [("images".to_owned(), 3), ("words".to_owned(), 5)].into();
    let report = cost(&path, &Sizes { symbols, ..sizes(1, 1, 0) }).unwrap();
    assert_eq!((report.total.multiply_adds, report.missing_symbols.len()), (3 * 4 * 6, 0));
}

#[test]
fn a_recursive_function_ends() {
    let twice = |inner: &str| vec![node(inner, "", &["a"], &["b"]), node(inner, "", &["b"], &["c"])];
    let mut model =
        model(18, onnx_graph(vec![value("a", 1, &["2"])], vec![], vec![], vec![node("ours:F", "f", &["a"], &["c"])]));
    model.functions =
        vec![function("ours", "F", &["a"], &["c"], [twice("ours:F"), twice("ours:F"), twice("ours:F")].concat())];
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "m", &model);
    let report = cost(&path, &sizes(1, 1, 0)).unwrap();
    assert!(report.truncated && report.to_text().contains("too many nodes"));
}

/// The first layers of a ResNet, whose multiply-adds everyone quotes: 118 million for an image.
#[test]
fn convolutions_and_pools() {
    let ints = |name: &str, values: &[i64]| onnx_protobuf::AttributeProto {
        ints: values.to_vec(),
        type_: protobuf::EnumOrUnknown::from_i32(7),
        ..int(name, 0)
    };
    let stem =
        with(with(node("Conv", "stem", &["image", "kernel"], &["c"]), ints("strides", &[2, 2])), ints("pads", &[3; 4]));
    let pool = with(node("MaxPool", "pool", &["c"], &["p"]), ints("kernel_shape", &[3, 3]));
    let pool = with(with(pool, ints("strides", &[2, 2])), ints("pads", &[1; 4]));
    let mean = node("GlobalAveragePool", "mean", &["p"], &["m"]);
    let same = with(
        with(node("Conv", "same", &["p", "small"], &["s"]), text("auto_pad", "SAME_UPPER")),
        ints("strides", &[3, 3]),
    );
    let kernels = vec![floats("kernel", &[64, 3, 7, 7], &[0.0; 9408]), floats("small", &[2, 64, 3, 3], &[0.0; 1152])];
    let image = value("image", 1, &["batch", "3", "224", "224"]);
    let folder = tempfile::tempdir().unwrap();
    let nodes = vec![stem, pool, mean, same];
    let path = write(folder.path(), "m", &model(18, onnx_graph(vec![image], vec![], kernels, nodes)));
    let table = shapes(&path).unwrap();
    let types: Vec<String> =
        table.values.iter().skip(3).map(|value| serde_json::json!(value.shape).to_string()).collect();
    let expected = [r#"["batch",64,112,112]"#, r#"["batch",64,56,56]"#, r#"["batch",64,1,1]"#, r#"["batch",2,19,19]"#];
    assert_eq!(types, expected);
    let stem = 64 * 112 * 112 * 3 * 7 * 7;
    assert_eq!(stem, 118_013_952);
    assert_eq!(cost(&path, &sizes(2, 1, 0)).unwrap().total.multiply_adds, 2 * (stem + 2 * 19 * 19 * 64 * 9));
}
