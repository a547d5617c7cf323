//! The report page of a run: one HTML file with everything inside, readable in light and dark, wide and narrow.

mod cell;
mod costs;
mod loss;
mod material;
mod mixture;
mod parity;
mod scores;
mod study;
mod svg;

pub(crate) use material::Material;
pub(crate) use study::Study;

use crate::table::count;
use svg::escape;

const STYLE: &str = include_str!("style.css");

/// The page as HTML.
pub(crate) fn page(material: &Material) -> String {
    let run = &material.run;
    let title = format!("{} on {}: {} tasks", escape(&run.method), escape(&run.base.name), run.tasks.len());
    let facts = format!(
        "{} trainable parameters · {} steps · seed {} · {} · {} base",
        count(run.costs.trainable_parameters),
        count(run.costs.optimizer_steps),
        run.seed,
        escape(&run.device),
        run.base_dtype.name()
    );
    let sections = [
        ("Task scores on validation data", Some(scores::section(material))),
        ("Training loss", loss::section(&material.steps)),
        ("Prompt encoder", cell::section(material)),
        ("Search", mixture::section(&material.mixtures, &run.stages)),
        ("Parity of the exported graph", parity::section(material)),
        ("Costs", Some(costs::section(material))),
    ];
    document(&title, &facts, sections, &run.pemlc_version)
}

/// A page with the sections that there are.
fn document<const N: usize>(title: &str, facts: &str, sections: [(&str, Option<String>); N], version: &str) -> String {
    let mut body = String::new();
    for (heading, section) in sections {
        if let Some(section) = section {
            body.push_str(&format!("<section>\n<h2>{heading}</h2>\n{section}</section>\n"));
        }
    }
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n\
         <body>\n<main>\n<header>\n<h1>{title}</h1>\n<p class=\"facts\">{facts}</p>\n</header>\n{body}\
         <footer>pemlc {}</footer>\n</main>\n</body>\n</html>\n",
        escape(version)
    )
}
