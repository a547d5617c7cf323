//! `pemlc snapshot`.

use crate::Outcome;
use crate::arguments::SnapshotArguments;
use pemlc_compiler::snapshot::{Options, accept, check};

pub(crate) fn run(arguments: &SnapshotArguments) -> anyhow::Result<Outcome> {
    let options = Options { weights: arguments.weights, elide: arguments.elide.clone() };
    let dir = &arguments.dir;
    if let Some(file) = &arguments.accept {
        let changed = accept(dir, file, &options)?;
        println!("{} {}", file.display(), if changed { "accepted: commit it" } else { "is unchanged" });
        return Ok(Outcome::Done);
    }
    let Some(file) = &arguments.check else { anyhow::bail!("give --check or --accept") };
    match check(dir, file, &options)? {
        None => {
            println!("{} is as accepted in {}", dir.display(), file.display());
            Ok(Outcome::Done)
        }
        Some(diff) => {
            print!("{diff}");
            eprintln!(
                "{} is not as accepted. If that is meant: pemlc snapshot {} --accept {}{}",
                dir.display(),
                dir.display(),
                file.display(),
                options.as_arguments()
            );
            Ok(Outcome::Failed)
        }
    }
}
