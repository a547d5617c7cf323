//! `pemlc compare`: runs side by side, those that differ in their seed alone taken together.

use crate::Outcome;
use crate::arguments::CompareArguments;
use crate::table::{Table, count, score};
use anyhow::{Context, bail};
use pemlc_artifact::prompt::{Architecture, Edge};
use pemlc_artifact::run::{RunManifest, RunPaths};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A finished run.
struct Run {
    name: String,
    manifest: RunManifest,
    architecture: Option<Architecture>,
    /// Its settings without the seed.
    settings: String,
}

/// Runs of the same settings.
struct Group {
    name: String,
    runs: Vec<Run>,
}

pub(crate) fn run(arguments: &CompareArguments) -> anyhow::Result<Outcome> {
    let runs = arguments.runs.iter().map(|path| read(path)).collect::<anyhow::Result<Vec<Run>>>()?;
    let tasks = tasks(&runs)?;
    let groups = grouped(runs);
    print!("{}", scores(&groups, &tasks).render());
    println!(
        "± is the standard error over seeds. Cost: seconds of search and training over those of plain LoRA for the same steps."
    );
    for text in [stages(&groups), agreement(&groups)].into_iter().flatten() {
        print!("\n{text}");
    }
    Ok(Outcome::Done)
}

fn read(path: &Path) -> anyhow::Result<Run> {
    let paths = RunPaths::new(path);
    let manifest = RunManifest::read(path).with_context(|| format!("{} is no finished run", path.display()))?;
    anyhow::ensure!(
        manifest.method != pemlc_trainer::import::METHOD,
        "{} was imported: it has no scores and no costs to compare",
        path.display()
    );
    let architecture = match paths.architecture() {
        file if file.is_file() => Some(Architecture::read(&file)?),
        _ => None,
    };
    let config = paths.config();
    let text = std::fs::read_to_string(&config).with_context(|| format!("cannot read {}", config.display()))?;
    let mut settings: toml::Table = toml::from_str(&text).with_context(|| config.display().to_string())?;
    settings.remove("seed");
    let name = std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path));
    let name = name.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
    Ok(Run { name, manifest, architecture, settings: settings.to_string() })
}

/// The tasks of all runs, which must be the same: numbers of others are not to be compared.
fn tasks(runs: &[Run]) -> anyhow::Result<Vec<String>> {
    let names = |run: &Run| -> Vec<String> {
        run.manifest.tasks.iter().map(|task| format!("{} ({})", task.name, task.metric)).collect()
    };
    let Some(first) = runs.first() else { bail!("no run was named") };
    let tasks = names(first);
    for run in runs {
        let others = names(run);
        if others != tasks {
            bail!(
                "{} has the tasks {}, {} has {}: name runs of the same tasks",
                first.name,
                tasks.join(", "),
                run.name,
                others.join(", ")
            );
        }
    }
    Ok(tasks)
}

/// In the order of their first runs.
fn grouped(runs: Vec<Run>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for run in runs {
        match groups.iter_mut().find(|group| group.runs[0].settings == run.settings) {
            Some(group) => group.runs.push(run),
            None => groups.push(Group { name: String::new(), runs: vec![run] }),
        }
    }
    for group in &mut groups {
        group.name = common_name(&group.runs);
    }
    groups
}

/// What the names of runs begin with, without a number that tells them apart.
fn common_name(runs: &[Run]) -> String {
    let [first, rest @ ..] = runs else { return String::new() };
    let same = |other: &str| first.name.chars().zip(other.chars()).take_while(|(left, right)| left == right).count();
    let Some(length) = rest.iter().map(|run| same(&run.name)).min() else { return first.name.clone() };
    let shared: String = first.name.chars().take(length).collect();
    let shared = shared.trim_end_matches(|character: char| character.is_ascii_digit() || "-_.".contains(character));
    let shared = shared.strip_suffix("seed").unwrap_or(shared).trim_end_matches(['-', '_', '.']);
    if shared.is_empty() { first.name.clone() } else { shared.to_owned() }
}

/// Mean, and its standard error where there are several values.
fn estimate(values: &[f64]) -> (Option<f64>, Option<f64>) {
    let n = values.len() as f64;
    if values.is_empty() {
        return (None, None);
    }
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (Some(mean), (values.len() > 1).then(|| (variance / n).sqrt()))
}

fn show(values: &[f64]) -> String {
    let (mean, error) = estimate(values);
    score(mean, error)
}

fn scores(groups: &[Group], tasks: &[String]) -> Table {
    let tasks_header: Vec<String> = tasks.iter().map(|task| format!(">{task}")).collect();
    let mut columns = vec!["runs", ">seeds", ">trained numbers"];
    columns.extend(tasks_header.iter().map(String::as_str));
    columns.extend([">mean", ">cost"]);
    let mut table = Table::new(&columns);
    for group in groups {
        let of = |value: &dyn Fn(&RunManifest) -> Option<f64>| -> Vec<f64> {
            group.runs.iter().filter_map(|run| value(&run.manifest)).collect()
        };
        let numbers = group.runs.iter().map(|run| run.manifest.costs.trainable_parameters).max().unwrap_or(0);
        let mut cells = vec![group.name.clone(), group.runs.len().to_string(), count(numbers)];
        cells.extend((0..tasks.len()).map(|index| show(&of(&|run| run.tasks[index].score))));
        let mean = |run: &RunManifest| {
            let scores: Option<Vec<f64>> = run.tasks.iter().map(|task| task.score).collect();
            scores.map(|scores| scores.iter().sum::<f64>() / scores.len().max(1) as f64)
        };
        cells.push(show(&of(&mean)));
        let (cost, _) = estimate(&of(&|run| run.costs.relative_to_lora));
        cells.push(cost.map_or_else(|| "-".to_owned(), |cost| format!("{cost:.2}x")));
        table.push(cells);
    }
    table
}

/// Mean scores at the ends of the stages of searches.
fn stages(groups: &[Group]) -> Option<String> {
    const STAGES: [&str; 4] = ["soft", "discretised", "tuned", "retrained"];
    let searched = || groups.iter().filter(|group| group.runs.iter().any(|run| run.manifest.stages.len() > 1));
    searched().next()?;
    let mut table = Table::new(&["search", ">soft", ">discretised", ">drop", ">tuned", ">retrained"]);
    for group in searched() {
        let of = |name: &str, run: &Run| -> Option<f64> {
            run.manifest.stages.iter().find(|stage| stage.stage == name).map(|stage| stage.mean())
        };
        let all = |name: &str| -> Vec<f64> { group.runs.iter().filter_map(|run| of(name, run)).collect() };
        let drop: Vec<f64> =
            group.runs.iter().filter_map(|run| Some(of("soft", run)? - of("discretised", run)?)).collect();
        let [soft, discretised, tuned, retrained] = STAGES.map(|name| show(&all(name)));
        table.push(vec![group.name.clone(), soft, discretised, show(&drop), tuned, retrained]);
    }
    Some(
        table.render()
            + "Mean over tasks at the end of each stage; drop is what making the cell discrete costs before any further step.\n",
    )
}

/// How far searches with other seeds found the same cell.
fn agreement(groups: &[Group]) -> Option<String> {
    let mut table = Table::new(&["search", ">same operation", "cells"]);
    let mut any = false;
    for group in groups.iter().filter(|group| group.runs.len() > 1) {
        let cells: Vec<&Architecture> = group.runs.iter().filter_map(|run| run.architecture.as_ref()).collect();
        if cells.len() < 2 {
            continue;
        }
        any = true;
        let words: Vec<String> = cells.iter().map(|cell| words(cell)).collect();
        table.push(vec![group.name.clone(), format!("{:.0} %", 100.0 * same_operations(&cells)), words.join(" | ")]);
    }
    any.then(|| {
        table.render() + "Share of edges, over all pairs of seeds, on which both cells have the same operation.\n"
    })
}

/// Over all pairs of cells: edges with the same operation, of those that either cell has.
fn same_operations(cells: &[&Architecture]) -> f64 {
    let places = |cell: &Architecture| -> BTreeMap<(usize, usize), String> {
        cell.edges.iter().map(|edge| ((edge.to, edge.from), edge.operation.name())).collect()
    };
    let (mut same, mut all) = (0usize, 0usize);
    for (index, left) in cells.iter().enumerate() {
        for right in &cells[index + 1..] {
            let (left, right) = (places(left), places(right));
            same += left.iter().filter(|(place, name)| right.get(*place) == Some(*name)).count();
            all += left.len() + right.keys().filter(|place| !left.contains_key(*place)).count();
        }
    }
    same as f64 / all.max(1) as f64
}

fn words(cell: &Architecture) -> String {
    let edge = |edge: &Edge| format!("{}->{} {}", edge.from, edge.to, edge.operation.name());
    cell.edges.iter().map(edge).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use pemlc_artifact::prompt::{Generators, Insertion, Operation};

    fn cell(operations: [Operation; 3]) -> Architecture {
        let edges = [(0, 1), (0, 2), (1, 2)].into_iter().zip(operations);
        Architecture {
            schema_version: 1,
            width: 8,
            length: 4,
            positions: None,
            layers: None,
            generators: Generators::Shared,
            insertion: Insertion::Rows,
            nodes: 2,
            edges: edges.map(|((from, to), operation)| Edge { from, to, operation, weight: 1.0 }).collect(),
        }
    }

    #[test]
    fn agreement_is_over_pairs() {
        use Operation::{Glu, Linear, Skip};
        let cells = [cell([Skip, Linear, Glu]), cell([Skip, Linear, Skip]), cell([Skip, Glu, Skip])];
        // 2, 1 and 2 of three edges.
        assert!((same_operations(&cells.iter().collect::<Vec<_>>()) - 5.0 / 9.0).abs() < 1e-12);
        assert_eq!(same_operations(&[&cells[0], &cells[0]]), 1.0);
    }

    #[test]
    fn a_mean_has_the_standard_error_of_its_seeds() {
        assert_eq!(show(&[0.8]), "0.800");
        assert_eq!(show(&[0.7, 0.8, 0.9]), "0.800 ± 0.058");
        assert_eq!(show(&[]), "-");
    }
}
