//! `pemlc methods`: what a run file's `method` can be.

use crate::Outcome;
use crate::table::Table;
use pemlc_trainer::method::catalogue;

pub(crate) fn run() -> anyhow::Result<Outcome> {
    let mut table = Table::new(&["method", "what it is", "paper (arXiv)", "in the graph", "trained numbers"]);
    for entry in catalogue() {
        let cells = [entry.method.name(), entry.summary, entry.paper, entry.exported, entry.parameters];
        table.row(cells.map(str::to_owned));
    }
    print!("{}", table.render());
    println!();
    println!(
        "Trained numbers: of low-rank methods by adapted projection (in, out its widths, r the rank, n parallel parts or experts,"
    );
    println!(
        "e the embedding's width, S skills, q splits, C common and O own skills), of rows by layer or once (L rows, M layers, k the keys'"
    );
    println!("width, D the model's, w and h an MLP's, q a factor's rank); T tasks.");
    println!("docs/methods.md and docs/methods-prompts.md have the equations.");
    Ok(Outcome::Done)
}
