//! Hostile ONNX files through everything that reads them: no panic, and no more memory than the reader's bound.
//!
//! Each property runs 256 cases; `PROPTEST_CASES=20000 cargo test -p pemlc-compiler --test onnx_fuzz` runs more.

#[allow(unreachable_pub, reason = "shared by several test files")]
mod support;

use onnx_protobuf::{GraphProto, Message, ModelProto};
use pemlc_compiler::inspect::cost::{Sizes, cost};
use pemlc_compiler::inspect::shapes::shapes;
use pemlc_compiler::inspect::weights::weights;
use pemlc_compiler::{diff, snapshot};
use proptest::prelude::*;
use proptest::sample::Index;
use std::fs;
use std::path::Path;
use support::fixture::{Fixture, PrefixKind, Spec};
use support::onnx::{
    external, floats, function, graph, inner, int, integers, model, node, raw, reference, text, value, with,
};

/// The most that reading a file of these tests may hold at once: the reader's own bound for small files, `192 MiB * 1.5`, and a little. A
/// size believed from a file is far beyond.
const BOUND: i64 = 300 << 20;

/// Reads `bytes` by every command, and `before` by those that compare.
fn exercise(folder: &Path, bytes: &[u8]) {
    let path = folder.join("model.onnx");
    fs::write(&path, bytes).unwrap();
    let peak = pemlc_hostile::peak();
    let sizes = Sizes { batch: 2, sequence: 3, past: 4, symbols: Default::default() };
    let _ = pemlc_compiler::inspect(&path);
    let _ = weights(&path).map(|table| (table.to_text(), serde_json::to_string(&table).unwrap()));
    let _ = shapes(&path).map(|table| (table.to_text(), serde_json::to_string(&table).unwrap()));
    let _ = cost(&path, &sizes).map(|report| (report.to_text(), serde_json::to_string(&report).unwrap()));
    let other = folder.join("other.onnx");
    for (one, two) in [(&path, &other), (&other, &path)] {
        let found = diff::diff(one, two, &diff::Options::default());
        let _ = found.map(|found| (found.to_text("a", "b"), serde_json::to_string(&found).unwrap()));
    }
    let options = snapshot::Options { weights: true, ..Default::default() };
    let _ = snapshot::text(&path, &options);
    let used = peak.bytes();
    assert!(used < BOUND, "{} bytes of file took {used} bytes of memory", bytes.len());
}

/// A model with something of everything: functions that call functions, branches, loops, external data, shape arithmetic, operators of
/// ONNX Runtime.
fn everything() -> ModelProto {
    let body = graph(
        vec![value("i", 7, &[]), value("go", 9, &[]), value("carried", 1, &["n", "4"])],
        vec![value("go", 9, &[]), value("next", 1, &["n", "4"])],
        vec![floats("half", &[], &[0.5])],
        vec![node("Mul", "", &["carried", "half"], &["next"])],
    );
    let branch = |operator: &str| {
        graph(vec![], vec![value("z", 1, &["n", "?"])], vec![], vec![node(operator, "", &["h"], &["z"])])
    };
    let nodes = vec![
        node("Shape", "shape", &["x"], &["dims"]),
        node("Gather", "first", &["dims", "zero"], &["rows"]),
        with(node("Concat", "target", &["rows", "minus"], &["sizes"]), int("axis", 0)),
        node("MatMul", "layers.0.product", &["x", "w"], &["p"]),
        with(node("Gemm", "layers.0.gemm", &["p", "w2", "b"], &["g"]), int("transB", 1)),
        node("Reshape", "reshape", &["g", "sizes"], &["h"]),
        with(
            with(node("If", "choice", &["flag"], &["y"]), inner("then_branch", branch("Relu"))),
            inner("else_branch", branch("Tanh")),
        ),
        with(node("Loop", "loop", &["count", "flag", "h"], &["looped"]), inner("body", body)),
        with(node("ours:Twice", "call", &["h"], &["twice"]), int("axis", 1)),
        with(
            node("com.microsoft:GroupQueryAttention", "gqa", &["q", "k", "v", "pk", "pv"], &["a", "nk", "nv"]),
            int("num_heads", 4),
        ),
        with(with(node("com.microsoft:MatMulNBits", "nbits", &["x", "w", "s"], &["nb"]), int("K", 3)), int("N", 8)),
        with(node("Einsum", "einsum", &["x", "w"], &["e"]), text("equation", "ab,bc->ac")),
        node("Slice", "slice", &["x", "zero", "minus", "zero"], &["sl"]),
        with(node("Split", "split", &["x"], &["s1", "s2"]), int("axis", -1)),
        node("Conv", "conv", &["image", "kernel"], &["c"]),
        node("unknown:Op", "what", &["c"], &["d"]),
    ];
    let weights = vec![
        floats("w", &[3, 4], &[1.0; 12]),
        external("w2", 1, &[4, 4], &[("location", "data"), ("offset", "8"), ("length", "64")]),
        raw("b", 10, &[4], vec![0, 60, 0, 124, 1, 124, 0, 0]),
        raw("q4", 22, &[3], vec![0x91, 0x05]),
        integers("zero", &[0]),
        integers("minus", &[-1]),
        floats("kernel", &[2, 3, 3, 3], &[0.5; 54]),
    ];
    let inputs = vec![value("x", 1, &["n", "3"]), value("flag", 9, &[]), value("image", 1, &["n", "3", "8", "8"])];
    let mut model = model(18, graph(inputs, vec![value("y", 1, &["past + n", "4"])], weights, nodes));
    let once = node("Softmax", "", &["a"], &["b"]);
    model.functions = vec![
        function("ours", "Once", &["a"], &["b"], vec![with(once, reference("axis", "axis"))]),
        function(
            "ours",
            "Twice",
            &["a"],
            &["c"],
            vec![node("ours:Once", "", &["a"], &["b"]), node("ours:Once", "", &["b"], &["c"])],
        ),
    ];
    model
}

/// A folder with external data and a good model to compare with.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("data"), [7; 100]).unwrap();
    fs::write(folder.path().join("other.onnx"), everything().write_to_bytes().unwrap()).unwrap();
    folder
}

thread_local! {
    static FOLDER: tempfile::TempDir = folder();
    static MODELS: Vec<Vec<u8>> = {
        let fixture = Fixture::new(Spec { private: true, prefix: Some(PrefixKind::Table), tasks: 2, ..Spec::default() });
        let exported = fs::read(fixture.export().join("model.onnx")).unwrap();
        vec![everything().write_to_bytes().unwrap(), everything().write_to_bytes().unwrap(), exported]
    };
}

fn run(bytes: &[u8]) {
    FOLDER.with(|folder| exercise(folder.path(), bytes));
}

#[test]
fn the_models_to_be_damaged_are_good() {
    let folder = folder();
    exercise(folder.path(), &everything().write_to_bytes().unwrap());
    let path = folder.path().join("other.onnx");
    let sizes = Sizes { batch: 2, sequence: 3, past: 4, symbols: [("n".to_owned(), 5)].into() };
    insta::assert_snapshot!(cost(&path, &sizes).unwrap().to_text());
    insta::assert_snapshot!(shapes(&path).unwrap().to_text());
    insta::assert_snapshot!(weights(&path).unwrap().to_text());
}

/// Two megabytes that would decode to gigabytes.
#[test]
fn a_million_empty_attributes_are_refused() {
    let mut nested = [5 << 3 | 2, 0].repeat(1_000_000);
    for number in [1u8, 7] {
        let mut field = vec![number << 3 | 2];
        let mut length = nested.len();
        while length >= 0x80 {
            field.push(length as u8 | 0x80);
            length >>= 7;
        }
        field.push(length as u8);
        nested.splice(0..0, field);
    }
    run(&nested);
    let error =
        FOLDER.with(|folder| pemlc_compiler::inspect(&folder.path().join("model.onnx")).unwrap_err().to_string());
    assert!(error.contains("it is made of empty parts"), "{error}");
}

/// What a small file could make a large text of: types and names that are shown at many values and nodes.
#[test]
fn long_names_and_types_are_not_repeated() {
    let symbols: Vec<String> = (0..5).map(|place| format!("{}{place}", "s".repeat(60))).collect();
    let products: Vec<String> =
        (0..5).map(|skip| [&symbols[skip..], &symbols[..skip]].concat()[..4].join("*")).collect();
    let dims = vec![products.join(" + "); 32];
    let dims: Vec<&str> = dims.iter().chain(&symbols).map(String::as_str).take(32).collect();
    let chain =
        |count: usize| (0..count).map(|place| node("Relu", "", &[&format!("v{place}")], &[&format!("v{}", place + 1)]));
    run(&model(
        18,
        graph(
            vec![value("v0", 1, &symbols.iter().map(String::as_str).collect::<Vec<_>>()), value("x", 1, &dims)],
            vec![],
            vec![],
            chain(20_000).collect(),
        ),
    )
    .write_to_bytes()
    .unwrap());
    let inside = graph(vec![], vec![], vec![floats("w", &[], &[1.0])], chain(5_000).collect());
    let outer = with(node("If", &"n".repeat(100_000), &["flag"], &["y"]), inner("then_branch", inside));
    run(&model(18, graph(vec![], vec![], vec![], vec![outer])).write_to_bytes().unwrap());
    let mut repeated = with(node("Mul", "m", &["x"], &["y"]), text("t", &"t".repeat(50_000)));
    repeated.attribute = vec![repeated.attribute[0].clone(); 20];
    let more = (0..5_000).map(|place| int(&format!("a{place}"), place));
    repeated.attribute.extend(more);
    run(&model(18, graph(vec![], vec![], vec![], vec![repeated])).write_to_bytes().unwrap());
    let wide = value("y", 1, &vec!["7"; 20_000]);
    let mut types = graph(vec![], vec![], vec![], vec![node("Op", "", &[], &["y"; 20_000])]);
    types.value_info = vec![wide];
    run(&model(18, types).write_to_bytes().unwrap());
}

proptest! {
    #[test]
    fn arbitrary_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        run(&bytes);
    }

    /// Bits turned over, a part cut off, a part of another model put in.
    #[test]
    fn damaged_models(
        which in 0..3usize,
        flips in proptest::collection::vec((any::<Index>(), any::<u8>()), 0..12),
        cut in proptest::option::weighted(0.2, any::<Index>()),
        splice in proptest::option::weighted(0.5, (0..3usize, any::<Index>(), 0..200usize, any::<Index>(), any::<bool>())),
    ) {
        MODELS.with(|models| {
            let mut bytes = models[which].clone();
            if let Some((from, start, length, place, replace)) = splice {
                let source = &models[from];
                let start = start.index(source.len());
                let part = source[start..(start + length).min(source.len())].to_vec();
                let place = place.index(bytes.len());
                let end = if replace { (place + part.len()).min(bytes.len()) } else { place };
                bytes.splice(place..end, part);
            }
            for (place, flip) in &flips {
                let place = place.index(bytes.len());
                bytes[place] ^= flip;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            run(&bytes);
        });
    }

    /// Well-formed, with senseless numbers where sizes, axes and places stand.
    #[test]
    fn senseless_numbers(changes in proptest::collection::vec((0..7usize, any::<Index>(), any::<Index>(), number()), 1..8)) {
        let mut model = everything();
        for (what, place, inside, number) in &changes {
            disturb(model.graph.mut_or_insert_default(), *what, place, inside, *number);
        }
        run(&model.write_to_bytes().unwrap());
    }

    #[test]
    fn external_data_anywhere(
        location in prop_oneof![Just("data".to_owned()), Just("../data".to_owned()), Just("/dev/zero".to_owned()), Just(".".to_owned()), Just("model.onnx".to_owned()), ".{0,40}"],
        offset in prop_oneof![any::<u64>().prop_map(|number| number.to_string()), (0..120u64).prop_map(|number| number.to_string()), ".{0,10}"],
        length in proptest::option::of(prop_oneof![any::<u64>().prop_map(|number| number.to_string()), (0..120u64).prop_map(|number| number.to_string()), "-?[0-9]{1,30}"]),
        dims in proptest::collection::vec(number(), 0..4),
        dtype in 0..26i32,
    ) {
        let mut fields = vec![("location", location.as_str()), ("offset", offset.as_str())];
        fields.extend(length.as_deref().map(|length| ("length", length)));
        let weight = external("w", dtype, &dims, &fields);
        run(&model(18, graph(vec![], vec![], vec![weight], vec![])).write_to_bytes().unwrap());
    }

    #[test]
    fn graphs_in_graphs(depth in 0..120usize, width in 1..4usize) {
        let nested = (0..depth).fold(graph(vec![], vec![], vec![], vec![node("Relu", "", &["x"], &["y"])]), |inside, level| {
            let branch = with(node("If", &format!("level{level}"), &["flag"], &["y"]), inner("then_branch", inside));
            let more = (1..width).map(|place| node("Relu", "", &["x"], &[&format!("y{place}")]));
            graph(vec![value("x", 1, &["n"])], vec![], vec![], std::iter::once(branch).chain(more).collect())
        });
        run(&model(18, nested).write_to_bytes().unwrap());
    }

    /// Empty parts by the thousand, which take far more memory than bytes.
    #[test]
    fn empty_parts(path in proptest::collection::vec(prop_oneof![Just(1u8), Just(5), Just(6), Just(8), Just(11), Just(14), Just(20), Just(25)], 0..6), count in 1..6_000usize, last in 1..26u8) {
        let tag = |number: u8| if number < 16 { vec![number << 3 | 2] } else { vec![(number << 3 | 2) | 0x80, 1] };
        let mut bytes = [tag(last), vec![0]].concat().repeat(count);
        for number in path.iter().rev().chain([&7]) {
            let mut field = tag(*number);
            let mut length = bytes.len();
            while length >= 0x80 {
                field.push(length as u8 | 0x80);
                length >>= 7;
            }
            field.push(length as u8);
            field.extend(&bytes);
            bytes = field;
        }
        run(&bytes);
    }
}

fn number() -> impl Strategy<Value = i64> {
    prop_oneof![-3..10i64, Just(i64::MAX), Just(i64::MIN), Just(i64::MAX / 2), Just(1 << 40), any::<i64>()]
}

fn disturb(graph: &mut GraphProto, what: usize, place: &Index, inside: &Index, number: i64) {
    match what {
        0 | 1 => {
            let at = place.index(graph.initializer.len());
            let weight = &mut graph.initializer[at];
            match (what, weight.dims.is_empty()) {
                (0, false) => {
                    let at = inside.index(weight.dims.len());
                    weight.dims[at] = number;
                }
                (0, true) => weight.dims.push(number),
                _ => weight.data_type = number as i32,
            }
        }
        2 | 3 => {
            let at = place.index(graph.node.len());
            let node = &mut graph.node[at];
            if what == 2 {
                let name = ["axis", "axes", "to", "num_heads", "kv_num_heads", "group", "keepdims", "transA"];
                let attribute = int(name[inside.index(name.len())], number);
                node.attribute.push(attribute);
            } else if !node.attribute.is_empty() {
                let at = inside.index(node.attribute.len());
                node.attribute[at].i = number;
                node.attribute[at].ints = vec![number, 1];
            }
        }
        4 => {
            let at = place.index(graph.input.len());
            let sizes = [number.to_string(), "n".to_owned(), format!("n*{number}"), "n + n*n".to_owned()];
            let dims: Vec<&str> = sizes.iter().map(String::as_str).collect();
            graph.input[at] = value(&graph.input[at].name.clone(), 1, &dims[..=inside.index(4)]);
        }
        5 => {
            let numbers = [number, number.wrapping_add(1), -1];
            let name = ["zero", "minus"][place.index(2)];
            let at = graph.initializer.iter().position(|weight| weight.name == name);
            if let Some(at) = at {
                graph.initializer[at] = integers(name, &numbers[..=inside.index(3)]);
            }
        }
        _ => {
            let (one, other) = (place.index(graph.node.len()), inside.index(graph.node.len()));
            let operator = graph.node[one].op_type.clone();
            graph.node[other].op_type = operator;
            let input = graph.node[one].output[0].clone();
            graph.node[other].input.insert(0, input);
        }
    }
}
