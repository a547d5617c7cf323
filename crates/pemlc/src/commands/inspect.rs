//! `pemlc inspect`.

use crate::Outcome;
use crate::arguments::InspectArguments;

pub(crate) fn run(arguments: &InspectArguments) -> anyhow::Result<Outcome> {
    let file = if arguments.file.is_dir() { arguments.file.join("model.onnx") } else { arguments.file.clone() };
    print!("{}", pemlc_compiler::inspect(&file)?);
    Ok(Outcome::Done)
}
