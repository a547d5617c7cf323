//! `pemlc diff`.

#[allow(unreachable_pub, reason = "shared by several test files")]
mod support;

use onnx_protobuf::ModelProto;
use pemlc_compiler::diff::{Difference, Options, diff};
use support::fixture::{Fixture, Spec};
use support::onnx::{external, floats, graph, inner, int, integers, model, node, raw, value, with, write};

/// `y = relu(x w + b)`, and a branch.
fn small() -> ModelProto {
    let branch = |operator: &str| {
        graph(vec![], vec![value("z", 1, &["n", "2"])], vec![], vec![node(operator, "", &["h"], &["z"])])
    };
    let nodes = vec![
        node("MatMul", "product", &["x", "w"], &["p"]),
        node("Add", "sum", &["p", "b"], &["h"]),
        with(node("Softmax", "soft", &["h"], &["s"]), int("axis", -1)),
        with(
            with(node("If", "choice", &["flag"], &["y"]), inner("then_branch", branch("Relu"))),
            inner("else_branch", branch("Tanh")),
        ),
    ];
    let weights = vec![floats("w", &[3, 2], &[1.0, 2.0, 3.0, 0.1, 5.0, 6.0]), floats("b", &[2], &[0.5, -0.5])];
    let inputs = vec![value("x", 1, &["n", "3"]), value("flag", 9, &[])];
    model(18, graph(inputs, vec![value("y", 1, &["n", "2"]), value("s", 1, &["n", "2"])], weights, nodes))
}

fn compare(change: impl Fn(&mut ModelProto), options: &Options) -> Difference {
    let folder = tempfile::tempdir().unwrap();
    let mut changed = small();
    change(&mut changed);
    let before = write(folder.path(), "a.onnx", &small());
    let after = write(folder.path(), "b.onnx", &changed);
    diff(&before, &after, options).unwrap()
}

fn text(change: impl Fn(&mut ModelProto)) -> String {
    compare(change, &Options::default()).to_text("a.onnx", "b.onnx")
}

#[test]
fn a_graph_equals_itself_in_any_order() {
    assert_eq!(text(|_| {}), "equal: 6 nodes and 2 weights are the same\n");
    let swapped = text(|model| {
        let graph = model.graph.mut_or_insert_default();
        graph.initializer.swap(0, 1);
        graph.node.swap(2, 3);
        graph.doc_string = "another".to_owned();
    });
    assert_eq!(swapped, "equal: 6 nodes and 2 weights are the same\n");
}

#[test]
fn opsets_inputs_attributes_and_types() {
    insta::assert_snapshot!(text(|model| {
        model.opset_import[0].version = 21;
        let graph = model.graph.mut_or_insert_default();
        graph.input[0] = value("x", 1, &["batch", "3"]);
        graph.input.push(value("extra", 7, &["n"]));
        graph.node[2].attribute[0].i = 0;
        graph.node[1].op_type = "Sub".to_owned();
    }));
}

#[test]
fn a_renamed_node_is_told_as_renamed() {
    insta::assert_snapshot!(text(|model| {
        let graph = model.graph.mut_or_insert_default();
        // Both the node and its value have new names, and those who use it follow.
        (graph.node[1].name, graph.node[1].output[0]) = ("total".to_owned(), "t".to_owned());
        graph.node[2].input[0] = "t".to_owned();
        for branch in &mut graph.node[3].attribute {
            branch.g.mut_or_insert_default().node[0].input[0] = "t".to_owned();
        }
        graph.initializer[1].name = "bias".to_owned();
        graph.node[1].input[1] = "bias".to_owned();
    }));
}

#[test]
fn nodes_come_and_go_in_branches_too() {
    insta::assert_snapshot!(text(|model| {
        let graph = model.graph.mut_or_insert_default();
        graph.node[0].input[0] = "doubled".to_owned();
        graph.node.insert(0, node("Add", "double", &["x", "x"], &["doubled"]));
        graph.node.remove(3);
        graph.output.remove(1);
        graph.node[3].attribute[1].g.mut_or_insert_default().node[0].op_type = "Sigmoid".to_owned();
    }));
}

#[test]
fn weights_differ_by_so_much() {
    let change = |model: &mut ModelProto| {
        let graph = model.graph.mut_or_insert_default();
        graph.initializer[0] = floats("w", &[3, 2], &[1.0, 2.25, 3.0, 0.1, 5.0, f32::NAN]);
        graph.initializer[1] = floats("b", &[2], &[0.5, -0.5 + 1e-6]);
    };
    insta::assert_snapshot!(text(change));
    let tolerant = compare(change, &Options { tolerance: 0.25, ..Options::default() });
    assert_eq!((tolerant.weights.len(), tolerant.same.within_tolerance), (1, 1), "NaN is beyond every tolerance");
    assert!(compare(change, &Options { ignore_weights: true, ..Options::default() }).equal);
}

#[test]
fn another_number_type_is_compared_as_numbers() {
    let halves = |values: &[f32]| values.iter().flat_map(|value| half(*value).to_le_bytes()).collect::<Vec<u8>>();
    insta::assert_snapshot!(text(|model| {
        let graph = model.graph.mut_or_insert_default();
        graph.initializer[0] = raw("w", 10, &[3, 2], halves(&[1.0, 2.0, 3.0, 0.1, 5.0, 6.0]));
        graph.initializer[1] = raw("b", 10, &[2], halves(&[0.5, -0.75]));
    }));
    insta::assert_snapshot!(text(|model| {
        let graph = model.graph.mut_or_insert_default();
        graph.initializer[0] = floats("w", &[2, 3], &[1.0, 2.0, 3.0, 0.1, 5.0, 6.0]);
        graph.initializer[1] = external("b", 1, &[2], &[("location", "absent")]);
    }));
}

/// The f16 bits of the few values used here.
fn half(value: f32) -> u16 {
    let table = [
        (1.0, 0x3c00),
        (2.0, 0x4000),
        (3.0, 0x4200),
        (0.1, 0x2e66),
        (5.0, 0x4500),
        (6.0, 0x4600),
        (0.5, 0x3800),
        (-0.75, 0xba00),
    ];
    table.iter().find(|(known, _)| *known == value).unwrap().1
}

#[test]
fn whole_numbers_beyond_f64_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let with_number = |name: &str, number: i64| {
        write(folder.path(), name, &model(18, graph(vec![], vec![], vec![integers("n", &[number, 7])], vec![])))
    };
    let (one, other) = (with_number("a", 1 << 60), with_number("b", (1 << 60) + 1));
    let found = diff(&one, &other, &Options::default()).unwrap();
    assert_eq!(found.weights[0].values.as_ref().unwrap().different, 1);
}

#[test]
fn exports_of_two_runs() {
    let export = |private| {
        let fixture = Fixture::new(Spec { private, ..Spec::default() });
        let out = fixture.export();
        (fixture, out)
    };
    let (plain, private) = (export(false), export(true));
    assert!(diff(&plain.1, &plain.1.join("model.onnx"), &Options::default()).unwrap().equal);
    let found = diff(&plain.1, &private.1, &Options::default()).unwrap();
    let lines = found.to_text("plain", "private");
    insta::assert_snapshot!(
        lines.lines().filter(|line| !line.contains("layers.1")).map(|line| format!("{line}\n")).collect::<String>()
    );
    // One weight changed in the data file alone.
    let data = private.1.join("model.onnx.data");
    let mut bytes = std::fs::read(&data).unwrap();
    let other = tempfile::tempdir().unwrap();
    bytes[4..8].copy_from_slice(&123.0f32.to_le_bytes());
    std::fs::write(other.path().join("model.onnx.data"), bytes).unwrap();
    std::fs::copy(private.1.join("model.onnx"), other.path().join("model.onnx")).unwrap();
    let found = diff(&private.1, other.path(), &Options::default()).unwrap();
    insta::assert_json_snapshot!(found);
}
