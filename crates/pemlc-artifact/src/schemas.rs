//! JSON Schemas of the manifests, generated from their types.

use crate::artifact::ArtifactManifest;
use crate::prompt::Architecture;
use crate::run::RunManifest;
use schemars::{JsonSchema, schema_for};

/// `(file name, indented JSON with a final newline)` of every schema.
pub fn schemas() -> Vec<(&'static str, String)> {
    vec![
        ("run.schema.json", text::<RunManifest>()),
        ("pemlc.schema.json", text::<ArtifactManifest>()),
        ("architecture.schema.json", text::<Architecture>()),
    ]
}

fn text<T: JsonSchema>() -> String {
    format!("{:#}\n", schema_for!(T).to_value())
}
