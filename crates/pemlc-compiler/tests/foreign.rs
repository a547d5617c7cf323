//! Models of others, outside CI: `PEMLC_ONNX_MODELS=DIR cargo test -p pemlc-compiler --test foreign -- --ignored --nocapture`. The `onnx`
//! package on PyPI holds a hundred and fifty of several exporters.

use pemlc_compiler::diff::{Options, diff};
use pemlc_compiler::inspect::cost::{Sizes, cost};
use pemlc_compiler::inspect::shapes::{Source, shapes};
use pemlc_compiler::inspect::weights::weights;
use std::path::{Path, PathBuf};

fn models(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            models(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "onnx") {
            found.push(path);
        }
    }
}

fn read<T, E: std::fmt::Display>(path: &Path, result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
#[ignore = "needs a folder of models in PEMLC_ONNX_MODELS"]
fn every_model_of_a_folder_is_read() {
    let folder = std::env::var_os("PEMLC_ONNX_MODELS").expect("PEMLC_ONNX_MODELS names a folder");
    let mut found = Vec::new();
    models(Path::new(&folder), &mut found);
    assert!(!found.is_empty());
    let sizes = Sizes { batch: 2, sequence: 3, past: 4, symbols: Default::default() };
    let (mut values, mut unknown_values, mut nodes, mut unknown_nodes) = (0, 0, 0, 0);
    for path in &found {
        read(path, pemlc_compiler::inspect(path));
        let table = read(path, weights(path));
        for row in &table.weights {
            assert!(row.problem.is_none(), "{}: {row:?}", path.display());
        }
        let table = read(path, shapes(path));
        values += table.values.len();
        unknown_values += table.values.iter().filter(|value| value.source == Source::Unknown).count();
        let report = read(path, cost(path, &sizes));
        nodes += report.total.nodes;
        unknown_nodes += report.unknown.iter().map(|unknown| unknown.nodes).sum::<u64>();
        let same = read(path, diff(path, path, &Options::default()));
        assert!(same.equal, "{}: {}", path.display(), same.to_text("a", "b"));
    }
    eprintln!(
        "{} models: {values} values, {unknown_values} of unknown type; {nodes} nodes, {unknown_nodes} of unknown cost",
        found.len()
    );
}
