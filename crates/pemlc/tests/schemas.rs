//! `schemas/` is what the types say.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

fn files(folder: &Path) -> BTreeMap<String, String> {
    let entries = std::fs::read_dir(folder).expect("the folder exists").map(|entry| entry.expect("an entry").path());
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    entries.map(|path| (name(&path), std::fs::read_to_string(&path).expect("a text file"))).collect()
}

#[test]
fn schemas_are_up_to_date() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    common::succeed([Path::new("schemas"), folder.path()]);
    let (found, expected) = (files(folder.path()), files(&common::repository().join("schemas")));
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "run `cargo xtask schemas`");
    for (name, text) in &expected {
        assert!(found.get(name) == Some(text), "schemas/{name} is not what the types say: run `cargo xtask schemas`");
    }
}
