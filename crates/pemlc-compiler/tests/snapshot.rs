//! `pemlc snapshot`, as a library.

#[allow(unreachable_pub, reason = "shared by several test files")]
mod support;

use pemlc_compiler::snapshot::{Options, accept, check, text};
use std::fs;
use std::path::{Path, PathBuf};
use support::fixture::{Fixture, Spec};

struct Exported {
    fixture: Fixture,
    artifact: PathBuf,
    file: PathBuf,
}

fn exported(spec: Spec) -> Exported {
    let fixture = Fixture::new(spec);
    let artifact = fixture.export();
    let file = fixture.folder.path().join("snapshots/graph.snap");
    Exported { fixture, artifact, file }
}

impl Exported {
    fn check(&self, options: &Options) -> String {
        let found = match check(&self.artifact, &self.file, options) {
            Ok(None) => "as accepted".to_owned(),
            Ok(Some(diff)) => diff,
            Err(error) => error.to_string(),
        };
        found.replace(&self.fixture.folder.path().display().to_string(), "FOLDER")
    }

    fn change_data(&self) {
        let data = self.artifact.join("model.onnx.data");
        let mut bytes = fs::read(&data).unwrap();
        bytes[0] ^= 1;
        fs::write(&data, bytes).unwrap();
    }
}

#[test]
fn facts_of_the_manifest_stand_before_the_graph() {
    let exported = exported(Spec { tasks: 2, ..Spec::default() });
    let text = text(&exported.artifact, &Options::default()).unwrap();
    let head: Vec<&str> = text.lines().take_while(|line| !line.starts_with("nodes")).collect();
    insta::assert_snapshot!(head.join("\n"));
    // The rest is what `inspect` prints, but for the hashes.
    let inspected = pemlc_compiler::inspect(&exported.artifact.join("model.onnx")).unwrap();
    let nodes = inspected.split_once("\nnodes ").unwrap().1;
    assert_eq!(text.split_once("\nnodes ").unwrap().1, nodes);
}

#[test]
fn training_again_changes_weights_and_not_the_snapshot() {
    let exported = exported(Spec::default());
    let weights = Options { weights: true, ..Options::default() };
    let elided = Options { weights: true, elide: vec!["embedding".to_owned()] };
    for options in [Options::default(), weights.clone(), elided] {
        let _ = fs::remove_file(&exported.file);
        assert!(accept(&exported.artifact, &exported.file, &options).unwrap());
        assert_eq!(exported.check(&options), "as accepted");
        assert!(!accept(&exported.artifact, &exported.file, &options).unwrap(), "nothing changed");
        exported.change_data();
        let found = exported.check(&options);
        // The first bytes of the data file are the embedding's.
        assert_eq!(found == "as accepted", options != weights, "{found}");
        if options == weights {
            let lines: Vec<&str> = found.lines().filter(|line| line.starts_with(['+', '-'])).collect();
            assert!(lines.len() == 4 && lines[2].starts_with("-  embedding.weight: f32[32, 16] #"), "{found}");
        }
        exported.change_data();
    }
}

#[test]
fn a_changed_graph_shows_as_a_diff() {
    let exported = exported(Spec { tasks: 2, ..Spec::default() });
    accept(&exported.artifact, &exported.file, &Options::default()).unwrap();
    let accepted = fs::read_to_string(&exported.file).unwrap();
    let edited = accepted.replace("task 1 entailment", "task 1 nli").replace("LessOrEqual(", "Less(");
    // Windows checkouts have other line ends.
    fs::write(&exported.file, edited.replace('\n', "\r\n")).unwrap();
    insta::assert_snapshot!(exported.check(&Options::default()));
    fs::write(&exported.file, accepted.replace('\n', "\r\n")).unwrap();
    assert_eq!(exported.check(&Options::default()), "as accepted");
}

#[test]
fn what_is_in_the_way_is_told() {
    let exported = exported(Spec::default());
    let mut found = vec![exported.check(&Options::default())];
    fs::create_dir_all(exported.file.parent().unwrap()).unwrap();
    fs::write(&exported.file, "notes of mine\n").unwrap();
    found.push(exported.check(&Options::default()));
    let refused = accept(&exported.artifact, &exported.file, &Options::default()).unwrap_err();
    assert!(refused.to_string().contains("is no snapshot of pemlc"), "{refused}");
    assert_eq!(fs::read_to_string(&exported.file).unwrap(), "notes of mine\n");
    fs::remove_file(&exported.file).unwrap();
    accept(&exported.artifact, &exported.file, &Options { weights: true, ..Options::default() }).unwrap();
    found.push(exported.check(&Options::default()));
    fs::write(exported.artifact.join("pemlc.json"), "{}").unwrap();
    found.push(exported.check(&Options { weights: true, ..Options::default() }));
    fs::remove_file(exported.artifact.join("pemlc.json")).unwrap();
    fs::remove_file(exported.artifact.join("model.onnx")).unwrap();
    found.push(exported.check(&Options { weights: true, ..Options::default() }));
    insta::assert_snapshot!(found.join("\n"));
    assert!(check(Path::new("nowhere"), &exported.file, &Options { weights: true, ..Options::default() }).is_err());
}

/// What a model of another exporter has beside its nodes: functions, long attributes, sparse weights.
#[test]
fn whatever_a_graph_computes_is_in_the_text() {
    use support::onnx::{function, graph, integers, model, node, value, write};
    let folder = tempfile::tempdir().unwrap();
    let shown = |operator: &str, last: i64| {
        let nodes = vec![node("local:Act", "act", &["x"], &["y"])];
        let io = |name: &str| vec![value(name, 1, &["batch_size"])];
        let mut model = model(18, graph(io("x"), io("y"), vec![integers("unused", &[1])], nodes));
        model.functions.push(function("local", "Act", &["a"], &["b"], vec![node(operator, "n", &["a"], &["b"])]));
        let mut long = node("Constant", "long", &[], &["c"]);
        let mut attribute = support::onnx::int("value_ints", 0);
        attribute.type_ = protobuf::EnumOrUnknown::from_i32(7);
        attribute.ints = (0..19).chain([last]).collect();
        long.attribute.push(attribute);
        if let Some(graph) = model.graph.as_mut() {
            graph.node.push(long);
        }
        let path = write(folder.path(), "model.onnx", &model);
        text(&path, &Options::default()).unwrap()
    };
    let whole = shown("Relu", 19);
    insta::assert_snapshot!(whole);
    assert_ne!(whole, shown("Tanh", 19));
    assert_ne!(whole, shown("Relu", 20));
}
