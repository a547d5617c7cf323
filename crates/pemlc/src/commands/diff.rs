//! `pemlc diff`.

use crate::Outcome;
use crate::arguments::DiffArguments;
use pemlc_compiler::diff::{Options, diff};

pub(crate) fn run(arguments: &DiffArguments) -> anyhow::Result<Outcome> {
    let options = Options { ignore_weights: arguments.ignore_weights, tolerance: arguments.tolerance };
    let difference = diff(&arguments.before, &arguments.after, &options)?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&difference)?);
    } else {
        let names = (arguments.before.display().to_string(), arguments.after.display().to_string());
        print!("{}", difference.to_text(&names.0, &names.1));
    }
    Ok(if difference.equal { Outcome::Done } else { Outcome::Failed })
}
