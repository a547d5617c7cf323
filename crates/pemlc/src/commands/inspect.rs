//! `pemlc inspect`.

use crate::Outcome;
use crate::arguments::InspectArguments;
use pemlc_compiler::inspect::cost::{Sizes, cost};
use pemlc_compiler::inspect::graph_file;
use pemlc_compiler::inspect::shapes::shapes;
use pemlc_compiler::inspect::weights::weights;

pub(crate) fn run(arguments: &InspectArguments) -> anyhow::Result<Outcome> {
    let file = graph_file(&arguments.file)?;
    let show = &arguments.show;
    if show.weights {
        let table = weights(&file)?;
        print(arguments.json, &table, || table.to_text())?;
    } else if show.shapes {
        let table = shapes(&file)?;
        print(arguments.json, &table, || table.to_text())?;
    } else if show.cost {
        let sizes = Sizes {
            batch: arguments.batch,
            sequence: arguments.sequence,
            past: arguments.past,
            symbols: arguments.dim.iter().cloned().collect(),
        };
        let report = cost(&file, &sizes)?;
        print(arguments.json, &report, || report.to_text())?;
    } else {
        print!("{}", pemlc_compiler::inspect(&file)?);
    }
    Ok(Outcome::Done)
}

fn print(json: bool, value: &impl serde::Serialize, text: impl Fn() -> String) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(value)?);
    } else {
        print!("{}", text());
    }
    Ok(())
}
