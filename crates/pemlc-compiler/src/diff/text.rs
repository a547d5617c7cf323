//! A difference as text for people.

use super::{Change, ChangeKind, Difference, ValueDifference};
use crate::inspect::name;
use std::fmt::Write as _;

/// Longer texts are cut in what people read; JSON has them whole.
const MAX_SHOWN: usize = 400;

impl Difference {
    /// Lines beginning with `-` (only before), `+` (only after) and `~` (same thing, other name or values).
    pub fn to_text(&self, before: &str, after: &str) -> String {
        let mut text = String::new();
        if !self.equal {
            let _ = writeln!(text, "--- {}\n+++ {}", name(before), name(after));
        }
        let sections = [
            ("model", &self.model),
            ("inputs and outputs", &self.interface),
            ("nodes", &self.nodes),
            ("weights", &self.weights),
        ];
        for (title, changes) in sections {
            if !changes.is_empty() {
                let _ = writeln!(text, "@@ {title} @@");
            }
            for change in changes {
                change.show(&mut text);
            }
        }
        let same = &self.same;
        let within = match same.within_tolerance {
            0 => String::new(),
            count => format!(" ({count} of them within the tolerance)"),
        };
        let verdict = if self.equal { "equal" } else { "different" };
        let _ = writeln!(text, "{verdict}: {} nodes and {} weights are the same{within}", same.nodes, same.weights);
        text
    }
}

impl Change {
    fn show(&self, text: &mut String) {
        let subject = cut(&self.subject);
        let side = |side: &Option<String>| cut(side.as_deref().unwrap_or_default());
        let _ = match self.kind {
            ChangeKind::Renamed => writeln!(text, "~ {subject} is now {}", side(&self.after)),
            ChangeKind::Changed if self.before == self.after => {
                // Either the values are told below, or a name now stands for something else.
                let note = if self.values.is_some() { "" } else { " (the same names, other values)" };
                writeln!(text, "~ {subject}: {}{note}", side(&self.after))
            }
            _ => {
                if self.before.is_some() {
                    let _ = writeln!(text, "- {subject}: {}", side(&self.before));
                }
                if self.after.is_some() {
                    let _ = writeln!(text, "+ {subject}: {}", side(&self.after));
                }
                Ok(())
            }
        };
        if let Some(values) = &self.values {
            let _ = writeln!(text, "    {}", values.to_text());
        }
    }
}

impl ValueDifference {
    fn to_text(&self) -> String {
        let number = |value: Option<f64>| value.map_or("not finite".to_owned(), |value| format!("{value:.3e}"));
        let rounding = match self.rounded_once {
            Some(true) => ", one is the other rounded once",
            Some(false) => ", NOT one rounding of each other",
            None => "",
        };
        if self.unequal == 0 {
            return format!("all {} values are equal", self.elements);
        }
        format!(
            "{} of {} values differ, max abs {}, max rel {}{rounding}",
            self.different,
            self.elements,
            number(self.max_abs),
            number(self.max_rel)
        )
    }
}

fn cut(text: &str) -> String {
    let end = text.floor_char_boundary(MAX_SHOWN);
    if end < text.len() { format!("{}...", name(&text[..end])) } else { name(text) }
}
