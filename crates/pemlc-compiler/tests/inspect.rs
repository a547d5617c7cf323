//! `inspect` on files that nobody promised to be good.

use onnx_protobuf::{GraphProto, Message, ModelProto, NodeProto, StringStringEntryProto, TensorProto};
use pemlc_compiler::inspect;
use proptest::prelude::*;
use protobuf::{EnumOrUnknown, MessageField};
use std::fs;
use std::path::Path;

fn with_external(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut tensor = TensorProto::new();
    tensor.name = "w".to_owned();
    tensor.data_type = 1;
    tensor.dims = vec![2, i64::MAX];
    tensor.data_location = EnumOrUnknown::from_i32(1);
    for (key, value) in fields {
        let mut entry = StringStringEntryProto::new();
        entry.key = (*key).to_owned();
        entry.value = (*value).to_owned();
        tensor.external_data.push(entry);
    }
    let mut graph = GraphProto::new();
    graph.initializer.push(tensor);
    let mut model = ModelProto::new();
    model.graph = MessageField::some(graph);
    model.write_to_bytes().unwrap()
}

fn shown(directory: &Path, bytes: &[u8]) -> String {
    let path = directory.join("model.onnx");
    fs::write(&path, bytes).unwrap();
    match inspect(&path) {
        Ok(text) => text,
        Err(error) => error.to_string().replace(&directory.display().to_string(), "FOLDER"),
    }
}

#[test]
fn external_data_stays_inside_the_folder_and_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("model");
    fs::create_dir(&inside).unwrap();
    fs::write(folder.path().join("secret"), "0123").unwrap();
    fs::write(inside.join("data"), "01234567").unwrap();
    let line = |fields: &[(&str, &str)]| {
        let text = shown(&inside, &with_external(fields));
        text.lines().find(|line| line.contains("w: ")).unwrap().trim().to_owned()
    };
    insta::assert_snapshot!(
        [
            line(&[("location", "data"), ("offset", "0"), ("length", "8")]),
            line(&[("location", "data"), ("offset", "4")]),
            line(&[("location", "data"), ("offset", "4"), ("length", "5")]),
            line(&[("location", "data"), ("offset", "18446744073709551615"), ("length", "2")]),
            line(&[("location", "data"), ("offset", "x")]),
            line(&[("location", "../secret")]),
            line(&[("location", "/etc/hostname")]),
            line(&[("location", "absent")]),
            line(&[]),
        ]
        .join("\n"),
        @r"
    w: f32[2, 9223372036854775807] #924592b9
    w: f32[2, 9223372036854775807] #db2e7f1b
    w: f32[2, 9223372036854775807] <5 bytes at 4 are outside data, which has 8>
    w: f32[2, 9223372036854775807] <2 bytes at 18446744073709551615 are outside data, which has 8>
    w: f32[2, 9223372036854775807] <offset `x` is no number>
    w: f32[2, 9223372036854775807] <external data in `../secret`, outside the model's folder>
    w: f32[2, 9223372036854775807] <external data in `/etc/hostname`, outside the model's folder>
    w: f32[2, 9223372036854775807] <cannot read absent: No such file or directory (os error 2)>
    w: f32[2, 9223372036854775807] <external data without a location>
    "
    );
}

#[cfg(unix)]
#[test]
fn links_out_of_the_folder_are_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("model");
    fs::create_dir(&inside).unwrap();
    fs::write(folder.path().join("secret"), "0123").unwrap();
    std::os::unix::fs::symlink("../secret", inside.join("data")).unwrap();
    let text = shown(&inside, &with_external(&[("location", "data")]));
    assert!(text.contains("<external data in `data`, outside the model's folder>"), "{text}");
}

#[test]
fn files_that_are_no_models_say_so() {
    let folder = tempfile::tempdir().unwrap();
    insta::assert_snapshot!(shown(folder.path(), b""), @"FOLDER/model.onnx is not an ONNX model: it holds no graph");
    insta::assert_snapshot!(shown(folder.path(), b"PK\x03\x04 not protobuf"), @"FOLDER/model.onnx is not an ONNX model: failed to decode Protobuf message: invalid tag value: 0");
    let error = inspect(folder.path()).unwrap_err().to_string();
    assert!(error.contains("it is not a file"), "{error}");
}

#[test]
fn names_cannot_write_to_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = NodeProto::new();
    node.op_type = "Evil\u{1b}[2J\nOp".to_owned();
    let mut graph = GraphProto::new();
    graph.node.push(node);
    let mut model = ModelProto::new();
    model.graph = MessageField::some(graph);
    let text = shown(folder.path(), &model.write_to_bytes().unwrap());
    assert!(text.contains(r"Evil\u{1b}[2J\nOp"), "{text}");
}

#[test]
fn endless_nesting_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let field = |number: u8, inner: Vec<u8>| {
        let mut bytes = vec![(number << 3) | 2];
        let mut length = inner.len();
        while length >= 0x80 {
            bytes.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        bytes.push(length as u8);
        bytes.extend(inner);
        bytes
    };
    // GraphProto.node (1) holds NodeProto.attribute (5) holds AttributeProto.g (6), and so on; ModelProto.graph is 7.
    let graph = (0..1000).fold(Vec::new(), |inner, _| field(1, field(5, field(6, inner))));
    let model = field(7, graph);
    let error = shown(folder.path(), &model);
    assert!(error.contains("is not an ONNX model"), "{error}");
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let folder = tempfile::tempdir().unwrap();
        shown(folder.path(), &bytes);
    }

    #[test]
    fn no_damage_to_a_model_panics(place in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = with_external(&[("location", "model.onnx"), ("offset", "0"), ("length", "3")]);
        let place = place.index(bytes.len());
        bytes[place] = byte;
        bytes.truncate(cut.index(bytes.len()) + 1);
        shown(folder.path(), &bytes);
    }
}
