//! What was found, in words and tables.

use super::{Bisection, Culprit, Element, Growth, Operand, Step, Verdict};
use std::fmt;

impl fmt::Display for Bisection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [one, other] = &self.sides;
        writeln!(f, "{one} against {other}")?;
        if let Some(case) = &self.case {
            writeln!(f, "{case}")?;
        }
        writeln!(f)?;
        match &self.verdict {
            Verdict::Node(culprit) => self.culprit(f, culprit)?,
            Verdict::Hidden(hidden) => {
                writeln!(
                    f,
                    "No node by itself is wrong: the difference goes when these values are read, and so kept from being optimised away."
                )?;
                writeln!(f, "An optimisation that joins them makes it:")?;
                for node in &hidden.nodes {
                    writeln!(f, "  {node}")?;
                }
            }
            Verdict::Rounding(growth) => self.growth(f, growth)?,
            Verdict::Fails { runtime, message } => writeln!(f, "{runtime} fails where the other runs: {message}")?,
            Verdict::Same => writeln!(f, "The two give the same logits in every case.")?,
        }
        let alike = !self.beyond_tolerance && matches!(self.verdict, Verdict::Same | Verdict::Rounding(_));
        if alike && !self.failed.is_empty() {
            writeln!(
                f,
                "\nBoth compute alike what the graph says, and the check fails: the graph itself, and no runtime, is wrong."
            )?;
            for failure in &self.failed {
                writeln!(f, "  {failure}")?;
            }
        }
        Ok(())
    }
}

impl Bisection {
    fn culprit(&self, f: &mut fmt::Formatter<'_>, culprit: &Culprit) -> fmt::Result {
        let Culprit { node, operator, position, of, .. } = culprit;
        let [one, other] = &self.sides;
        let nodes = format!("{operator}, node {position} of {of}");
        match culprit.wrong {
            Some([true, false]) => {
                writeln!(f, "first node that is computed wrongly: {node} ({nodes})")?;
                writeln!(f, "{one} is wrong; {other} has what f64 gives from its inputs")?;
            }
            Some([false, _]) => {
                writeln!(f, "first node that is computed wrongly: {node} ({nodes})")?;
                writeln!(f, "{other} is wrong; {one} has what f64 gives from its inputs")?;
            }
            Some([true, true]) => {
                writeln!(f, "first node that is computed wrongly: {node} ({nodes})")?;
                writeln!(f, "neither has what f64 gives from its inputs")?;
            }
            None => {
                writeln!(f, "first node that differs by more than its inputs do: {node} ({nodes})")?;
                writeln!(f, "which of the two is wrong is not known: there is no reference for {operator}")?;
            }
        }
        writeln!(f)?;
        let rows = culprit.inputs.iter().map(|operand| (if operand.weight { "weight" } else { "input" }, operand));
        let rows: Vec<_> = rows.chain([("output", &culprit.output)]).collect();
        let width = |text: &dyn Fn(&Operand) -> usize| rows.iter().map(|(_, operand)| text(operand)).max().unwrap_or(0);
        let (names, types) = (width(&|operand| operand.name.len()), width(&|operand| operand.described.len()));
        for (kind, operand) in &rows {
            let difference = match &operand.difference {
                _ if operand.weight => "as the file has it".to_owned(),
                None => "could not be read".to_owned(),
                Some(difference) if difference.is_none() => "the same on both".to_owned(),
                Some(difference) => {
                    format!("differs by up to {:.1e}, relatively {:.1e}", difference.largest, difference.relative)
                }
            };
            writeln!(f, "{kind:<6}  {:<names$}  {:<types$}  {difference}", operand.name, operand.described)?;
        }
        let Element { indices, found, expected } = &culprit.element;
        let of_side = |side: usize| {
            let expected = expected[side].map(|(number, allowed)| {
                format!(", where its inputs give {} (rounding explains {allowed:.1e})", short(number))
            });
            format!("{} has {}{}", self.sides[side], short(found[side]), expected.unwrap_or_default())
        };
        writeln!(f, "\nelement {indices}: {}; {}", of_side(0), of_side(1))
    }

    fn growth(&self, f: &mut fmt::Formatter<'_>, growth: &Growth) -> fmt::Result {
        if self.beyond_tolerance {
            writeln!(f, "No node is to blame: each has what its inputs give up to rounding, and rounding adds up.")?;
        } else {
            writeln!(f, "No node is to blame: each has what its inputs give up to rounding.")?;
        }
        writeln!(f, "\n{:<14}  {:>5}  {:>11}  {:>11}", "relative", "nodes", "largest", "at the end")?;
        for (name, nodes, largest, last) in growth.layers() {
            writeln!(f, "{name:<14}  {nodes:>5}  {largest:>11.1e}  {last:>11.1e}")?;
        }
        if let Some(step) = growth.largest_jump() {
            let Step { node, operator, before, after, .. } = step;
            writeln!(f, "\nlargest jump: {node} ({operator}), from {before:.1e} to {after:.1e}")?;
        }
        if !growth.unreferenced.is_empty() {
            let operators: Vec<&str> = growth.unreferenced.iter().map(String::as_str).collect();
            writeln!(f, "without a reference, so only compared with each other: {}", operators.join(", "))?;
        }
        if let Some(node) = growth.disputed.first() {
            let nodes = growth.disputed.len();
            writeln!(f, "{nodes} nodes on which both agree and the reference does not, the first {node}")?;
        }
        if let Some((node, reason)) = growth.unread.first() {
            writeln!(f, "{} nodes could not be read, the first {node}: {reason}", growth.unread.len())?;
        }
        Ok(())
    }
}

/// As many digits as an f32 has.
fn short(number: f64) -> String {
    format!("{}", number as f32)
}
