//! `pemlc schemas`: for `cargo xtask schemas` and the test that compares.

use crate::Outcome;
use crate::arguments::SchemasArguments;
use crate::run_file;
use anyhow::Context;
use pemlc_artifact::atomic;

pub(crate) fn run(arguments: &SchemasArguments) -> anyhow::Result<Outcome> {
    let mut schemas = pemlc_artifact::schemas();
    schemas.push(("run-file.schema.json", format!("{:#}\n", run_file::schema())));
    for (name, text) in schemas {
        let path = arguments.dir.join(name);
        atomic::write(&path, text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(Outcome::Done)
}
