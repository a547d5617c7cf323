//! The IR as deterministic text, for tests and for `--explain`.

use super::expression::Expression;
use super::graph::Graph;
use std::fmt::{self, Write as _};

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "graph {}", self.name)?;
        for id in self.inputs() {
            let value = self.value(*id);
            writeln!(f, "  input {}: {}", value.name, value.value_type)?;
        }
        for (id, expression) in self.initialisers() {
            let value = self.value(id);
            let default = if self.is_overridable(id) { "overridable " } else { "" };
            writeln!(f, "  {default}{}: {} = {}", value.name, value.value_type, describe(expression))?;
        }
        for node in self.nodes() {
            let outputs: Vec<String> = node
                .outputs
                .iter()
                .map(|id| format!("{}: {}", self.value(*id).name, self.value(*id).value_type))
                .collect();
            let inputs: Vec<&str> = node.inputs.iter().map(|id| self.value(*id).name.as_str()).collect();
            writeln!(f, "  {} = {:?}({})", outputs.join(", "), node.op, inputs.join(", "))?;
        }
        let outputs: Vec<&str> = self.outputs().iter().map(|id| self.value(*id).name.as_str()).collect();
        writeln!(f, "  return {}", outputs.join(", "))
    }
}

fn describe(expression: &Expression) -> String {
    match expression {
        Expression::Constant(tensor) => match tensor.as_f32() {
            Some([value]) => format!("constant {value}"),
            _ => "constant".to_owned(),
        },
        Expression::Checkpoint { name, .. } => format!("checkpoint({name})"),
        Expression::Cast { to, base } => format!("{to}({})", describe(base)),
        Expression::ConcatColumns(parts) => {
            format!("columns({})", parts.iter().map(describe).collect::<Vec<_>>().join(", "))
        }
        Expression::Transpose(inner) => format!("transpose({})", describe(inner)),
        Expression::AddLowRank { base, down, .. } => {
            let mut text = describe(base);
            let rank = down.shape().last().copied().unwrap_or_default();
            let _ = write!(text, " + low_rank({rank})");
            text
        }
        Expression::ColumnNorms { base, .. } => format!("column_norms({})", describe(base)),
    }
}
