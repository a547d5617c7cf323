//! A cost as text for people.

use super::{Cost, CostReport};
use crate::inspect::columns::{Columns, bytes, count};
use crate::inspect::name;
use std::fmt::Write as _;

impl CostReport {
    /// Readable tables; [`serde`] gives the exact numbers.
    pub fn to_text(&self) -> String {
        let sizes = &self.sizes;
        let mut text = format!("batch {}, sequence {}, past {}", sizes.batch, sizes.sequence, sizes.past);
        for (symbol, size) in &sizes.symbols {
            let _ = write!(text, ", {} {size}", name(symbol));
        }
        text.push_str("\n\n");
        let classes: Vec<(String, Cost)> =
            self.classes.iter().map(|(class, cost)| ((*class).to_owned(), *cost)).collect();
        let operators: Vec<(String, Cost)> =
            self.operators.iter().map(|(operator, cost)| (name(operator), *cost)).collect();
        let layers = self.layers.iter().map(|(layer, cost)| {
            let layer = layer.to_string();
            (if layer.is_empty() { "outside layers".to_owned() } else { name(&layer) }, *cost)
        });
        // Classes and operators with the most work first, layers in their order.
        for (title, mut rows, sorted) in
            [("class", classes, true), ("operator", operators, true), ("layer", layers.collect(), false)]
        {
            if sorted {
                rows.sort_by_key(|(name, cost)| {
                    (std::cmp::Reverse((cost.multiply_adds, cost.operations, cost.activation_bytes)), name.clone())
                });
            }
            rows.push(("total".to_owned(), self.total));
            let mut table =
                Columns::new(&[title, ">nodes", ">multiply-adds", ">operations", ">weights read", ">activations"]);
            for (name, cost) in rows {
                table.row([
                    name,
                    cost.nodes.to_string(),
                    count(cost.multiply_adds),
                    count(cost.operations),
                    bytes(cost.weight_bytes),
                    bytes(cost.activation_bytes),
                ]);
            }
            text.push_str(&table.render());
            text.push('\n');
        }
        self.notes(&mut text);
        text
    }

    fn notes(&self, text: &mut String) {
        if self.branching_nodes > 0 {
            let _ = writeln!(
                text,
                "{} nodes have graphs inside: every branch and one round of each loop are counted",
                self.branching_nodes
            );
        }
        if self.truncated {
            text.push_str("the graph has too many nodes: the rest is NOT counted\n");
        }
        if self.unknown.is_empty() {
            text.push_str("the cost of every node is known\n");
            return;
        }
        let nodes: u64 = self.unknown.iter().map(|unknown| unknown.nodes).sum();
        let _ = writeln!(text, "NOT counted: {nodes} nodes");
        for unknown in &self.unknown {
            let (operator, example) = (name(&unknown.operator), name(&unknown.example));
            let _ = writeln!(text, "  {} {operator}: {}, for instance `{example}`", unknown.nodes, unknown.reason);
        }
        for symbol in &self.missing_symbols {
            let _ = writeln!(text, "  no size for the symbol `{0}`: give --dim '{0}=SIZE'", name(symbol));
        }
    }
}
